"""The undecided weights of a COPS problem as a linear program, and its solution rounded to a mask."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from .planes import linear_program
from .undecided import Undecided

_FRACTION = 1e-7
# By how much the controls are tightened, in units of the largest score among the fractional weights, until rounding
# meets them.
_TIGHTENINGS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0, 8.0, 32.0, 128.0)
_NODES = 20_000
_MOST = 12  # fractional columns rounded both ways; a vertex has no more than there are controls, and one


@dataclass(frozen=True)
class Relaxed:
    """A vertex of the relaxation: how much of each column, and the multipliers of the controls."""

    amounts: np.ndarray
    multipliers: np.ndarray


class Columns:
    """Undecided weights, those with equal scores together in one column where there are many.

    Args:
        items: what is undecided.
        norms: of the scores.
        few: with more weights than that equal ones are put together.
    """

    def __init__(self, items: Undecided, norms: np.ndarray, few: int) -> None:
        self.items, self.norms = items, norms
        scores = np.stack([score.double().cpu().numpy() for score in items.scores])
        if scores.shape[1] > few:
            scores, self.column, self.sizes = np.unique(scores, axis=1, return_inverse=True, return_counts=True)
        else:
            self.column, self.sizes = np.arange(scores.shape[1]), np.ones(scores.shape[1], dtype=np.int64)
        self.scores = scores / norms[:, None]
        self.base = np.array(items.base) / norms

    def relax(self, kappas: np.ndarray) -> Relaxed | None:
        """The best fractional mask; None if there is none."""
        if len(self.sizes) == 0:
            return Relaxed(np.zeros(0), np.zeros(len(kappas))) if (self.base[1:] <= kappas).all() else None
        units = np.abs(self.scores).max(axis=1, initial=0.0)
        units[units == 0] = 1.0
        scaled = self.scores / units[:, None]
        limits = np.append((kappas - self.base[1:]) / units[1:], self.items.keep)
        found = linear_program(
            scaled[0],
            A_ub=np.vstack([scaled[1:], np.ones(len(self.sizes))]),
            b_ub=limits,
            bounds=np.column_stack([np.zeros(len(self.sizes)), self.sizes]),
        )
        if found.status != 0:
            return None
        return Relaxed(found.x, np.maximum(-found.ineqlin.marginals[:-1], 0.0) * units[0] / units[1:])

    def round(self, relaxed: Relaxed, kappas: np.ndarray) -> Tensor | None:
        """Which undecided weights a mask near the relaxation takes; None if no mask was found."""
        chosen = self._best_rounding(relaxed.amounts, kappas)
        largest = np.abs(self.scores[1:, _fractional(relaxed.amounts)]).max(axis=1, initial=0.0)
        for tightening in _TIGHTENINGS:
            if chosen is not None:
                return chosen
            tighter = self.relax(kappas - tightening * largest)
            chosen = None if tighter is None else self._best_rounding(tighter.amounts, kappas)
        return self._search(kappas) if chosen is None else chosen

    def _best_rounding(self, amounts: np.ndarray, kappas: np.ndarray) -> Tensor | None:
        """Of all ways to round each fractional column up or down."""
        counts = np.floor(amounts + _FRACTION).astype(np.int64)
        fractional = _fractional(amounts).nonzero()[0][:_MOST]
        ups = np.array(list(product((0, 1), repeat=len(fractional))), dtype=np.int64)
        values = ups @ self.scores[0, fractional]
        for up in ups[np.argsort(values, kind="stable")]:
            rounded = counts.copy()
            rounded[fractional] += up
            chosen = self._mask(rounded, kappas)
            if chosen is not None:
                return chosen
        return None

    def _mask(self, counts: np.ndarray, kappas: np.ndarray) -> Tensor | None:
        """The first weights of each column, if these are not too many and meet the controls."""
        if counts.sum() > self.items.keep:
            return None
        order = np.argsort(self.column, kind="stable")
        starts = np.cumsum(self.sizes) - self.sizes
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order)) - starts[self.column[order]]
        chosen = torch.from_numpy(place < counts[self.column]).to(self.items.mask.device)
        met = np.array(self.items.sums(chosen))[1:] / self.norms[1:] <= kappas
        return chosen if met.all() else None

    def _search(self, kappas: np.ndarray) -> Tensor | None:
        """By branch and bound, for so many nodes."""
        from scipy.optimize import LinearConstraint, milp

        units = np.abs(self.scores).max(axis=1, initial=0.0)
        units[units == 0] = 1.0
        limits = np.append((kappas - self.base[1:]) / units[1:] - _FRACTION, self.items.keep)
        rows = np.vstack([self.scores[1:] / units[1:, None], np.ones(len(self.sizes))])
        found = milp(
            self.scores[0] / units[0],
            integrality=np.ones(len(self.sizes)),
            bounds=(0, self.sizes),
            constraints=LinearConstraint(rows, ub=limits),
            options={"node_limit": _NODES},
        )
        return None if found.x is None else self._mask(np.rint(found.x).astype(np.int64), kappas)


def _fractional(amounts: np.ndarray) -> np.ndarray:
    return np.abs(amounts - np.rint(amounts)) > _FRACTION
