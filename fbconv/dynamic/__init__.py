"""Masks that change while a model trains: SET, RigL and gradual magnitude pruning, in either space."""

from .changing import match_masks, set_masks
from .gradients import dense_gradients
from .gradual import GradualPruning
from .regrow import RegrowingMasks

__all__ = ["GradualPruning", "RegrowingMasks", "dense_gradients", "match_masks", "set_masks"]
