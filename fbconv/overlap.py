"""How much two masks have in common."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def mask_similarity(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Shared weights over those of the larger mask, from 0 (nothing shared) to 1; two empty masks have 1.

    Args:
        a, b: name -> bool tensor, the same names and shapes; True = kept.

    Raises:
        ValueError: names, shapes or dtypes that do not fit.

    Source:
        COPS (Wimmer et al.), ``sim(m, m') = |m * m'|_1 / max(|m|_1, |m'|_1)``.

    Example:
        >>> mask_similarity({"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, False])})
        0.5
    """
    shared, kept_a, kept_b = _counts("mask_similarity", a, b)
    return shared / max(kept_a, kept_b) if max(kept_a, kept_b) else 1.0


def jaccard(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Shared weights over those of either mask, from 0 (nothing shared) to 1; two empty masks have 1.

    Args:
        a, b: name -> bool tensor, the same names and shapes; True = kept.

    Raises:
        ValueError: names, shapes or dtypes that do not fit.

    Source:
        Jaccard index, as used for the overlap of tickets in "Hitting the Jackpot" (Lutz, Manai).

    Example:
        >>> jaccard({"w": torch.tensor([True, True, False])}, {"w": torch.tensor([False, True, True])})
        0.3333333333333333
    """
    shared, kept_a, kept_b = _counts("jaccard", a, b)
    either = kept_a + kept_b - shared
    return shared / either if either else 1.0


def _counts(name: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[int, int, int]:
    if a.keys() != b.keys():
        key = next(iter(a.keys() ^ b.keys()))
        raise ValueError(f"{name}: b must have a's {len(a)} names, but {key!r} is only in {'a' if key in a else 'b'}")
    shared = kept_a = kept_b = 0
    for key, mask in a.items():
        other = b[key]
        for which, value in (("a", mask), ("b", other)):
            if value.dtype != torch.bool:
                raise ValueError(f"{name}: {which}[{key!r}] must be bool, got {value.dtype}")
        if mask.shape != other.shape:
            raise ValueError(f"{name}: b[{key!r}] must have shape {tuple(mask.shape)}, got {tuple(other.shape)}")
        shared += int((mask & other.to(mask.device)).sum())
        kept_a += int(mask.sum())
        kept_b += int(other.sum())
    return shared, kept_a, kept_b
