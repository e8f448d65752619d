"""COPS with one control: by the compiled solver on the CPU, in torch operations where the scores lie on a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _C
from . import one_control_torch
from .vectors import Scores, clear_excluded, finite


def with_one(
    named: Mapping[str, Scores], vectors: Sequence[Tensor], keep: int, alpha: float
) -> tuple[Tensor, dict[str, Any]]:
    """The mask, and the fields of its CopsResult, those of the control as tuples.

    Args:
        named: the scores that the vectors were made of, by the names of their arguments.
        vectors: the target's scores and the control's, on one device; excluded entries may be infinite.
        keep: how many weights the mask may have.
        alpha: in [0, 1).

    Raises:
        ValueError: on NaN or infinite scores, or on sums of them that are infinite.
    """
    target, control = vectors
    solver: Any = _Compiled if target.device.type == "cpu" else one_control_torch
    scale = solver.scale(target, control, keep)
    if scale["target_not_finite"] or scale["control_not_finite"]:
        clear_excluded(named, vectors)
        scale = solver.scale(target, control, keep)
    norms = finite(named, [scale["target_norm"], scale["control_norm"]])
    kappa = alpha * scale["control_min"] if alpha else math.inf
    found = solver.solve(target, control, keep, kappa, scale["multiplier"])
    target_value, lp_value = found["target_plus"] / norms[0], found["dual"] / norms[0]
    return found["mask"], {
        "kept": found["kept"],
        "multiplier": (found["multiplier"] / norms[0] * norms[1],),
        "target_value": target_value,
        "control_value": (found["control_plus"] / norms[1],),
        "kappa": (kappa / norms[1],),
        "lp_value": lp_value,
        "objective_gap": max(target_value - lp_value, 0.0),
        "bound": (found["target_plus"] - found["target_minus"]) / norms[0],
        "steps": found["steps"],
    }


class _Compiled:
    """The compiled solver, called as one_control_torch is."""

    @staticmethod
    def scale(target: Tensor, control: Tensor, keep: int) -> dict[str, Any]:
        return _C.cops_scale(target.numpy(), control.numpy(), keep)

    @staticmethod
    def solve(target: Tensor, control: Tensor, keep: int, kappa: float, multiplier: float) -> dict[str, Any]:
        found = _C.cops_solve(target.numpy(), control.numpy(), keep, kappa, multiplier)
        return found | {"mask": torch.from_numpy(found["mask"])}
