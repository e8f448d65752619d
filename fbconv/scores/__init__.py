"""Importance scores of weights: which ones to keep. Higher = keep (the papers minimise the negative)."""

from .base import SCORES, is_score, register, score
from .gradients import sum_gradients
from .grasp import grasp
from .passive import magnitude, random
from .snip import snip, usnip
from .synflow import synflow
from .weights import weights_from_scores

__all__ = [
    "SCORES",
    "grasp",
    "is_score",
    "magnitude",
    "random",
    "register",
    "score",
    "snip",
    "sum_gradients",
    "synflow",
    "usnip",
    "weights_from_scores",
]

for _function in (random, magnitude, snip, usnip, grasp, synflow):
    register(_function.__name__)(_function)
