"""Scores that are learned: a regressor predicts, from what four scores say of a weight, what a better one would say.

:mod:`fbconv.meta` trains them.
"""

from .files import load, save
from .score import LearnedScore

__all__ = ["LearnedScore", "load", "save"]
