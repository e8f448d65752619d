"""From scores to masks: keep exactly as many weights as asked for, ties included."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from .densities import DISTRIBUTIONS, layer_counts
from .topk import count_nan, keep_highest

SCOPES = ("global", "layer")

# Larger than the rounding error of (1 - sparsity) * total up to 10^9 weights, far smaller than one weight.
_GUARD = 1e-6


class LayerCollapseWarning(UserWarning):
    """A mask keeps no weight of a layer: pruned, nothing passes through it but its bias."""


def kept_count(total: int, sparsity: float) -> int:
    """How many of ``total`` weights remain: ``floor((1 - sparsity) * total)``, safe against float error.

    Raises:
        ValueError: if ``sparsity`` is not in [0, 1].

    Example:
        >>> kept_count(1000, 0.9)
        100
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be in [0, 1], got {sparsity}")
    return math.floor((1 - sparsity) * total + _GUARD)


def select(
    scores: Mapping[str, Tensor],
    sparsity: float,
    scope: str = "global",
    distribution: str | None = None,
    exclude: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Boolean masks (True = keep) of the highest scores.

    Exactly ``floor((1 - sparsity) * D)`` weights are kept, ``D`` being the number of scores of the layers that are not
    excluded. Among equal scores the one that comes first (order of the dict, then row-major) is kept. Entries scored
    ``-inf`` are never kept. The scores are read in place, 2^16 at a time, wherever they are: beside the masks this
    takes a few megabytes, for any number of scores.

    Args:
        scores: name -> importance, any shape and real dtype; higher = keep.
        sparsity: share of weights to remove, in [0, 1].
        scope: ``"global"`` ranks all layers together, ``"layer"`` each one on its own; without a ``distribution`` all
            layers then have the same density.
        distribution: density of the layers, which are then ranked on their own: ``"uniform"``, ``"er"`` or ``"erk"``
            (:func:`fbconv.densities.layer_counts`).
        exclude: patterns (``*``, ``?``, ``[...]``) of names, with or without the parameter's own (``"fc3.weight"``,
            ``"fc3"``, ``"head.*"``). Excluded layers do not count and have no mask, so that :func:`fbconv.sparsify`
            leaves them as they are.

    Returns:
        name -> bool tensor of the score's shape, on its device.

    Raises:
        ValueError: on NaN or what is no real tensor, on an unknown scope or distribution, on a pattern that excludes
            nothing or all patterns everything, on a sparsity outside [0, 1], or if fewer scores are above ``-inf`` than
            have to be kept.

    Warns:
        LayerCollapseWarning: if a layer loses all of its weights.

    Source:
        methods of FreezeNet (Wimmer et al. 2020) and SNIP (Lee et al. 2019): global top-d.

    Example:
        >>> select({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 2.0])}, sparsity=0.5)
        {'a': tensor([ True, False]), 'b': tensor([ True, False])}
    """
    scores = without_excluded(scores, exclude)
    masks = choose(scores, sparsity, scope, distribution)
    warn_of_collapse(masks)
    return masks


def without_excluded(scores: Mapping[str, Tensor], exclude: Sequence[str]) -> dict[str, Tensor]:
    """The scores of the layers that no pattern names; see :func:`select`."""
    if isinstance(exclude, str):
        raise ValueError(f"select: exclude must be a sequence of patterns, got the string {exclude!r}")
    excluded: set[str] = set()
    for pattern in exclude:
        named = {name for name in scores for part in (name, name.rpartition(".")[0]) if fnmatchcase(part, pattern)}
        if not named:
            raise ValueError(f"select: exclude pattern {pattern!r} must match one of {', '.join(scores)}, got none")
        excluded |= named
    if excluded and len(excluded) == len(scores):
        raise ValueError(f"select: exclude must leave a layer, got {', '.join(exclude)}")
    return {name: value for name, value in scores.items() if name not in excluded}


def choose(
    scores: Mapping[str, Tensor], sparsity: float, scope: str = "global", distribution: str | None = None
) -> dict[str, Tensor]:
    """:func:`select` without its warning."""
    if scope not in SCOPES:
        raise ValueError(f"select: scope must be one of {', '.join(SCOPES)}, got {scope!r}")
    if distribution not in (None, *DISTRIBUTIONS):
        raise ValueError(f"select: distribution must be one of {', '.join(DISTRIBUTIONS)}, got {distribution!r}")
    if not scores:
        raise ValueError("select: scores must hold at least one tensor, got none")
    for name, value in scores.items():
        _check_numbers(name, value)
    keep = kept_count(sum(value.numel() for value in scores.values()), sparsity)
    if scope == "global" and distribution is None:
        return keep_highest(scores, keep)
    shapes = {name: value.shape for name, value in scores.items()}
    counts = layer_counts(shapes, keep, distribution or "uniform")
    masks: dict[str, Tensor] = {}
    for name, value in scores.items():
        masks |= keep_highest({name: value}, counts[name])
    return masks


def warn_of_collapse(masks: Mapping[str, Tensor]) -> None:
    """Warn, for the caller of the caller, of each layer that keeps nothing."""
    for name, mask in masks.items():
        if mask.numel() and not mask.any():
            warnings.warn(f"no weight of {name!r} is kept", LayerCollapseWarning, stacklevel=3)


def _check_numbers(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"select: scores of {name!r} must be a tensor, got {type(value).__name__}")
    if value.is_complex():
        raise ValueError(f"select: scores of {name!r} must be real, got {value.dtype}")
    nans = count_nan(value)
    if nans:
        raise ValueError(f"select: scores of {name!r} must not be NaN, got {nans} NaN")
