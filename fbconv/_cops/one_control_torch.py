"""COPS with one control in torch operations, for scores that lie on a GPU.

The search of csrc/core/cops_search.h: selections and decisions run where the scores are, until so few weights are
undecided that the compiled solver finishes on the CPU. Scores are in the paper's convention here: lower = keep.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import _C
from .undecided import Undecided

HANDOFF = 1 << 17  # undecided weights that are left to the compiled solver
_STRIDE = 8.0
_PATIENCE = 3


def scale(target: Tensor, control: Tensor, keep: int) -> dict[str, Any]:
    """What ``fbconv._C.cops_scale`` says of two vectors.

    Example:
        >>> scale(torch.tensor([-3.0, -1.0]), torch.tensor([0.0, -2.0]), keep=1)["control_min"]
        -2.0
    """
    target_norm, control_norm = (float(v.abs().sum(dtype=torch.float64)) for v in (target, control))
    not_finite = [int(v.numel() - v.isfinite().sum()) for v in (target, control)]
    ratio = target_norm / control_norm if control_norm else 0.0
    measurable = keep > 0 and not any(not_finite)
    return {
        "target_norm": target_norm,
        "control_norm": control_norm,
        "target_not_finite": not_finite[0],
        "control_not_finite": not_finite[1],
        "control_min": Undecided([target, control], keep).select((0.0, 1.0)).sums[1] if measurable else 0.0,
        "multiplier": ratio if 0 < ratio < math.inf else 1.0,
    }


def solve(
    target: Tensor, control: Tensor, keep: int, kappa: float, multiplier: float, handoff: int = HANDOFF
) -> dict[str, Any]:
    """What ``fbconv._C.cops_solve`` finds for two vectors; the mask is a bool tensor on their device.

    Needs about 40 bytes of device memory for each weight beside the scores.

    Example:
        >>> solve(torch.tensor([-3.0, -2.0, -1.0]), torch.tensor([0.0, -1.0, -3.0]), 2, -2.0, 1.0)["mask"]
        tensor([ True, False,  True])
    """
    items = Undecided([target, control], keep)
    steps = _narrow(items, kappa, multiplier, handoff) if keep else 0
    left = [score.cpu().numpy() for score in items.scores]
    solution = _C.cops_solve(*left, min(items.keep, items.size), kappa, multiplier, *items.base)
    items.put(torch.from_numpy(solution["mask"]).to(target.device))
    return solution | {
        "mask": items.mask,
        "kept": solution["kept"] + items.count,
        "steps": solution["steps"] + steps,
    }


def _narrow(items: Undecided, kappa: float, scale: float, handoff: int) -> int:
    """Halves the bracket of multipliers until few weights are undecided, or ties keep them so; counts selections."""

    def exceeds(multiplier: float) -> bool:
        return items.select(_mix_at(multiplier, scale)).sums[1] > kappa

    def decide(low: float, high: float) -> bool:
        ends = [items.mixed(_mix_at(multiplier, scale)) for multiplier in (low, high)]
        return items.decide(torch.minimum(*ends), torch.maximum(*ends))

    low, high = 0.0, math.inf
    for end, settles in ((low, False), (high, True)):
        if exceeds(end) == settles:  # optimal at 0, or not to be met at all
            decide(end, end)
            return 2
    steps, stalled = 2, 0
    while items.size > handoff and stalled < _PATIENCE:
        middle = _middle(low, high, scale)
        low, high = (middle, high) if exceeds(middle) else (low, middle)
        stalled = 0 if decide(low, high) else stalled + 1
        steps += 1
    return steps


def _mix_at(multiplier: float, scale: float) -> tuple[float, float]:
    if multiplier == math.inf:
        return 0.0, scale
    ratio = multiplier / scale
    return 1 / (1 + ratio), multiplier / (1 + ratio)


def _middle(low: float, high: float, scale: float) -> float:
    if low == 0:
        return scale if high == math.inf else high / _STRIDE
    if high == math.inf:
        return low * _STRIDE
    return math.sqrt(low) * math.sqrt(high) if high > _STRIDE * low else low + (high - low) / 2
