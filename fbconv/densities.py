"""How many weights each layer keeps: uniform, Erdos-Renyi and Erdos-Renyi-kernel densities."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

DISTRIBUTIONS = ("uniform", "er", "erk")


def layer_counts(shapes: Mapping[str, Sequence[int]], keep: int, distribution: str) -> dict[str, int]:
    """Kept weights of each layer, ``keep`` in all.

    A layer's density is ``min(1, eps * f)`` with one eps for all: f = 1 (uniform), ``(rows + channels) / (rows *
    channels)`` (ER) or ``sum(shape) / prod(shape)`` (ERK, kernel sizes included). Layers that would exceed 1 are
    dense, and eps is solved again for the others. Densities become whole numbers by Webster's rounding: each count is
    within one of its exact value where no cap intervenes, they sum to ``keep``, and none falls when ``keep`` rises.

    Args:
        shapes: name -> ``(rows, channels, *taps)``, as of :func:`fbconv.prunable`.
        keep: weights to keep, from 0 to all.
        distribution: ``"uniform"``, ``"er"`` or ``"erk"``.

    Raises:
        ValueError: an unknown distribution, a shape of fewer than two dimensions (er), or a ``keep`` out of range.

    Source: Mocanu et al. 2018 (ER); Evci et al. 2020, section 3 (ERK).

    Example:
        >>> layer_counts({"conv": (8, 4, 3, 3), "fc": (10, 100)}, keep=129, distribution="erk")
        {'conv': 18, 'fc': 111}
    """
    sizes = [math.prod(shape) for shape in shapes.values()]
    if not 0 <= keep <= sum(sizes):
        raise ValueError(f"layer_counts: keep must be in [0, {sum(sizes)}], got {keep}")
    factors = [_factor(name, shape, distribution) for name, shape in shapes.items()]
    quotas = [factor * size for factor, size in zip(factors, sizes, strict=True)]
    return dict(zip(shapes, _webster(quotas, sizes, keep), strict=True))


def _factor(name: str, shape: Sequence[int], distribution: str) -> float:
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"select: distribution must be one of {', '.join(DISTRIBUTIONS)}, got {distribution!r}")
    if distribution == "uniform" or math.prod(shape) == 0:
        return 1.0
    if distribution == "er" and len(shape) < 2:
        raise ValueError(f"select: distribution er needs rows and channels, got {name!r} of shape {tuple(shape)}")
    dims = shape[:2] if distribution == "er" else shape
    return sum(dims) / math.prod(dims)


def _webster(quotas: Sequence[float], sizes: Sequence[int], keep: int) -> list[int]:
    """The ``keep`` lowest of all thresholds ``(k - 1/2) / quota_i``, k = 1 ... size_i, counted by layer.

    Starts from the rounded solution of the continuous problem, at most one step for each layer away.
    """
    if keep == sum(sizes):
        return list(sizes)
    eps = _continuous_eps(quotas, sizes, keep)
    counts = [min(size, math.floor(eps * quota + 0.5)) for quota, size in zip(quotas, sizes, strict=True)]
    missing = keep - sum(counts)
    step = 1 if missing > 0 else -1

    def next_step(i: int) -> tuple[float, int, int] | None:
        if counts[i] == (sizes[i] if step > 0 else 0):
            return None
        # Among equal thresholds the earliest layer gains first and the latest loses first.
        return (step * (counts[i] + step / 2) / quotas[i], step * i, i)

    heap = [entry for i in range(len(counts)) if (entry := next_step(i))]
    heapq.heapify(heap)
    for _ in range(abs(missing)):
        *_, i = heapq.heappop(heap)
        counts[i] += step
        if entry := next_step(i):
            heapq.heappush(heap, entry)
    return counts


def _continuous_eps(quotas: Sequence[float], sizes: Sequence[int], keep: int) -> float:
    """eps with ``sum min(size, eps * quota) = keep``, for a ``keep`` below the sum of sizes."""
    free = {i for i, size in enumerate(sizes) if size}
    rest = keep
    while True:
        eps = rest / sum(quotas[i] for i in sorted(free))
        over = {i for i in free if eps * quotas[i] >= sizes[i]}
        if not over:
            return eps
        free -= over
        rest -= sum(sizes[i] for i in over)
