"""Random COPS problems, and what the theory says of a solution; lower = keep, as in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog

import fbconv

KINDS = ("normal", "heavy-tailed", "integers", "correlated", "positive target", "few values")


def draw(kind: str, size: int, rng: np.random.Generator, controls: int = 1) -> list[np.ndarray]:
    """A target score and its controls."""
    if kind == "normal":
        return [-np.abs(rng.standard_normal(size)), *rng.standard_normal((controls, size))]
    if kind == "heavy-tailed":
        return [-np.abs(rng.standard_t(1.2, size)), *rng.standard_t(1.2, (controls, size))]
    if kind == "integers":
        return list(rng.integers(-4, 3, (1 + controls, size)).astype(np.float64))
    if kind == "correlated":
        target = -np.abs(rng.standard_normal(size))
        return [target, *(target * (1 + 0.3 * rng.standard_normal((controls, size))))]
    if kind == "positive target":
        return [np.abs(rng.standard_normal(size)), *rng.standard_normal((controls, size))]
    return list(rng.choice([-0.3, -0.1, 0.0, 0.2], (1 + controls, size)))


@dataclass(frozen=True)
class Problem:
    """Scores scaled to ``|s|_1 = 1``, the number of weights to keep and the bounds of the controls."""

    target: np.ndarray
    controls: np.ndarray
    keep: int
    kappas: np.ndarray

    @classmethod
    def of(cls, scores: Sequence[np.ndarray], keep: int, alphas: Sequence[float]) -> Problem:
        scaled = np.stack([score / (np.abs(score).sum() or 1.0) for score in scores])
        lowest = [np.sort(score[score < 0])[:keep].sum() for score in scaled[1:]]
        kappas = np.array([alpha * low if alpha else np.inf for alpha, low in zip(alphas, lowest, strict=True)])
        return cls(scaled[0], scaled[1:], keep, kappas)

    def by_highs(self) -> float | None:
        """The LP's optimum, by HiGHS; None if it is infeasible."""
        size = len(self.target)
        on = np.isfinite(self.kappas)
        solved = linprog(
            self.target * size,
            A_ub=np.vstack([self.controls[on] * size, np.ones(size)]),
            b_ub=np.append(self.kappas[on] * size, self.keep),
            bounds=(0, 1),
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        assert solved.status in (0, 2), solved.message
        return solved.fun / size if solved.status == 0 else None

    def dual(self, multipliers: np.ndarray) -> float:
        """g there: a bound from below, whatever the multipliers."""
        on = multipliers > 0
        mixed = self.target + multipliers[on] @ self.controls[on]
        return np.sort(mixed[mixed < 0])[: self.keep].sum() - multipliers[on] @ self.kappas[on]


def as_scores(vector: np.ndarray, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """The importances of two layers."""
    importances = torch.from_numpy(-vector).to(dtype)
    half = len(vector) // 2
    return {"a": importances[:half].view(1, -1), "b": importances[half:]}


def as_vector(masks: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([mask.flatten() for mask in masks.values()]).cpu().numpy()


def check_solution(problem: Problem, result: fbconv.CopsResult, tolerance: float = 1e-12) -> np.ndarray:
    """What holds of every solution, from the definitions; the mask as a vector."""
    mask = as_vector(result.masks)
    multipliers, kappas = np.atleast_1d(result.multiplier), np.atleast_1d(result.kappa)
    np.testing.assert_allclose(kappas, problem.kappas, rtol=1e-12)
    assert result.kept == mask.sum() <= problem.keep
    assert abs(problem.target[mask].sum() - result.target_value) <= tolerance
    values = problem.controls[:, mask].sum(1)
    assert (np.abs(values - np.atleast_1d(result.control_value)) <= tolerance).all()
    assert (np.atleast_1d(result.control_value) <= kappas).all()
    assert (multipliers >= 0).all()
    # Weak duality, and the reported optimum is the dual's at the reported multipliers.
    scale = 1 + multipliers.sum()
    assert abs(problem.dual(multipliers) - result.lp_value) <= tolerance * scale
    assert result.lp_value <= result.target_value + tolerance * scale
    assert result.objective_gap == max(result.target_value - result.lp_value, 0)
    assert result.objective_gap <= result.bound + tolerance * scale
    return mask


def check_count(problem: Problem, result: fbconv.CopsResult, tolerance: float = 1e-12) -> None:
    """As many weights as may be kept, or all whose mixed score is negative; where it is 0 either will do."""
    mixed = problem.target + np.atleast_1d(result.multiplier) @ problem.controls
    room = tolerance * (np.abs(problem.target) + np.atleast_1d(result.multiplier) @ np.abs(problem.controls))
    assert min(problem.keep, (mixed < -room).sum()) <= result.kept <= min(problem.keep, (mixed <= room).sum())


def check_neighbour(problem: Problem, result: fbconv.CopsResult, mask: np.ndarray, tolerance: float = 1e-12) -> None:
    """With one control: the mask is the target's own, or next to it lies one that misses the constraint and has
    ``bound`` less target score."""
    control, kappa = problem.controls[0], problem.kappas[0]
    if result.bound == 0:
        # m- is m+: the target's own mask, or one that meets the constraint exactly.
        assert result.multiplier == 0 or abs(result.control_value - kappa) <= tolerance
        return
    out, into = np.append(np.nonzero(mask)[0], -1), np.append(np.nonzero(~mask)[0], -1)
    leaves = [np.append(score, 0.0)[out][:, None] for score in (problem.target, control)]
    enters = [np.append(score, 0.0)[into][None, :] for score in (problem.target, control)]
    target_value = result.target_value - leaves[0] + enters[0]
    control_value = result.control_value - leaves[1] + enters[1]
    scale = tolerance * (1 + result.multiplier)
    found = (np.abs(target_value - (result.target_value - result.bound)) <= scale) & (control_value > kappa - scale)
    assert found.any()
