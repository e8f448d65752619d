"""COPS with several controls: the concave dual by cutting planes, the rest as a small linear program.

The dual ``g(lam) = min over masks m of <s0 + sum_k lam_k s_k, m> - sum_k lam_k kappa_k`` lies below a plane for each
mask that a selection finds. The highest point of these planes is where to select next; the box of all points that may
still be optimal decides most weights, as a bracket does in csrc/core/cops_shrink.h. Scores are in the paper's
convention here, scaled to ``|s|_1 = 1``: lower = keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .planes import Planes
from .rounding import Columns
from .undecided import Undecided

FEW = 4096  # undecided weights that are left to the linear program
_ROUNDS = 200
_CONVERGED = 1e-12
_REACH, _FARTHEST = 64.0, 1e15
_WIDER, _TOLERANCE = 1e-3, 1e-9


def with_several(
    vectors: Sequence[Tensor], norms: Sequence[float], keep: int, alphas: Sequence[float], few: int = FEW
) -> tuple[Tensor, dict[str, Any]]:
    """The mask, and the fields of its CopsResult.

    Args:
        vectors: the target's scores and two or more controls', finite, on one device.
        norms: their sums of absolute values (1 for a score that is all zeros).
        keep: how many weights the mask may have.
        alphas: in (0, 1), one for each control.
        few: with no more undecided weights the linear program takes over.

    Raises:
        ValueError: if no mask meets all controls, or none was found.
        ImportError: without scipy.
    """
    dual = _Dual(vectors, norms, keep, alphas)
    dual.narrow(few)
    columns = Columns(dual.items, dual.norms, few)
    relaxed = columns.relax(dual.kappas)
    if relaxed is None:
        raise dual.unmet()
    lp_value = dual.select(relaxed.multipliers)
    chosen = columns.round(relaxed, dual.kappas)
    if chosen is None:
        raise ValueError(
            f"cops: no mask was found that meets all controls at alpha = {tuple(alphas)}, though fractional ones do; "
            "lower an alpha"
        )
    sums = dual.items.sums(chosen) / dual.norms
    dual.items.put(chosen)
    return dual.items.mask, {
        "kept": int(dual.items.mask.sum()),
        "multiplier": tuple(relaxed.multipliers.tolist()),
        "target_value": float(sums[0]),
        "control_value": tuple(sums[1:].tolist()),
        "kappa": tuple(dual.kappas.tolist()),
        "lp_value": lp_value,
        "objective_gap": max(float(sums[0]) - lp_value, 0.0),
        "bound": max(float(sums[0]) - lp_value, 0.0),
        "steps": dual.steps,
    }


class _Dual:
    def __init__(self, vectors: Sequence[Tensor], norms: Sequence[float], keep: int, alphas: Sequence[float]) -> None:
        self.items = Undecided(vectors, keep)
        self.norms = np.array(norms)
        self.alphas = tuple(alphas)
        self.steps = 0
        self.planes = Planes()
        self.best = -np.inf
        # The lowest value that each control can have, by its own mask.
        own = [self._raw_sums(np.eye(len(norms))[k + 1]) for k in range(len(alphas))]
        # Scaled after alpha, not before: a mask whose sum is alpha times the least one must meet the control, to the
        # last bit.
        limits = [alpha * sums[k] for k, (alpha, sums) in enumerate(zip(alphas, own, strict=True), start=1)]
        self.kappas = np.array(limits) / self.norms[1:]
        for sums in own:
            self.planes.add(sums[0] / self.norms[0], sums[1:] / self.norms[1:] - self.kappas)

    def select(self, multipliers: np.ndarray) -> float:
        """g there, and a plane."""
        sums = self._sums(np.append(1.0, multipliers))
        slope = sums[1:] - self.kappas
        self.planes.add(sums[0], slope)
        height = float(sums[0] + slope @ multipliers)
        self.best = max(self.best, height)
        return height

    def narrow(self, few: int) -> None:
        """Decides weights over the box of possible optima, which selections at the highest point of the planes and in
        the middle of the box make smaller, until few are undecided or ties keep them so."""
        lower, upper = np.zeros_like(self.kappas), np.full_like(self.kappas, _REACH)
        self.select(lower)
        for _ in range(_ROUNDS):
            if self.items.size <= few:
                return
            point, height = self.planes.highest(lower, upper)
            touches = height - self.select(point) <= _CONVERGED * abs(height)
            if touches and self._rises_beyond(upper, height):
                self._check_feasible(point)
                upper = upper * _REACH
                continue
            box = self.planes.box(self.best, lower, upper)
            # While the planes leave room beyond the reach, the optimum may lie there.
            if touches or self.items.index is not None or (box[1] < upper).all():
                lower, upper = self._widened(*box, lower, upper)
                if not self._decide(lower, upper) and touches:
                    return
            self.select((box[0] + box[1]) / 2)

    def unmet(self) -> ValueError:
        return ValueError(f"cops: no mask meets all {len(self.alphas)} controls together at alpha = {self.alphas}")

    def _sums(self, factors: np.ndarray) -> np.ndarray:
        return self._raw_sums(factors) / self.norms

    def _raw_sums(self, factors: np.ndarray) -> np.ndarray:
        self.steps += 1
        return np.array(self.items.select((factors / self.norms).tolist()).sums)

    def _rises_beyond(self, upper: np.ndarray, height: float) -> bool:
        if self.items.index is not None:  # the box is known to hold the optimum
            return False
        farther = self.planes.highest(np.zeros_like(upper), upper * _REACH)[1]
        return farther - height > _CONVERGED * abs(height)

    def _check_feasible(self, direction: np.ndarray) -> None:
        """Raises if every mask misses the controls as weighted here: then the dual has no maximum."""
        sums = self._sums(np.append(0.0, direction))
        excess = direction @ (sums[1:] - self.kappas)
        if excess > _CONVERGED * (direction @ np.abs(self.kappas)) or direction.max() > _FARTHEST:
            raise self.unmet()

    def _widened(
        self, low: np.ndarray, high: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Room for the linear program's tolerances within the old bounds: the optimum must not lie on a face that is
        none, for there ties with 0 look decided."""
        margin = _WIDER * (high - low) + _TOLERANCE * (np.abs(high) + self.planes.units())
        return np.maximum(low - margin, lower), np.minimum(high + margin, upper)

    def _decide(self, lower: np.ndarray, upper: np.ndarray) -> bool:
        middle = self.items.mixed((np.append(1.0, (lower + upper) / 2) / self.norms).tolist())
        radius = torch.zeros_like(middle)
        for score, reach, norm in zip(self.items.scores[1:], (upper - lower) / 2, self.norms[1:], strict=True):
            radius.add_(score.abs().double(), alpha=float(reach / norm))
        return self.items.decide(middle - radius, middle + radius)
