"""The undecided weights of a COPS problem in torch operations, for any number of controls and any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_WORTHWHILE = 0.75


class Selection(NamedTuple):
    """The lowest negative mixed scores: sums over them of each score, together with what was decided in."""

    sums: tuple[float, ...]
    chosen: Tensor  # which of the undecided weights, bool


class Undecided:
    """The weights that may still be in the mask or not, the mask of those decided in, and their sums.

    Args:
        scores: vectors of one device, lower = keep: the target's and the controls'.
        keep: how many weights may be chosen.
    """

    def __init__(self, scores: Sequence[Tensor], keep: int) -> None:
        self.scores, self.keep = list(scores), keep
        self.index: Tensor | None = None  # None: all of them
        self.mask = torch.zeros(scores[0].numel(), dtype=torch.bool, device=scores[0].device)
        self.count = 0
        self.base = (0.0,) * len(scores)

    @property
    def size(self) -> int:
        return self.scores[0].numel()

    def mixed(self, factors: Sequence[float]) -> Tensor:
        """The scores' linear combination, float64."""
        total = self.scores[0].double() * factors[0]
        for score, factor in zip(self.scores[1:], factors[1:], strict=True):
            # Not in one operation: these are the compiled solver's roundings.
            total += score.double() * factor
        return total

    def select(self, factors: Sequence[float]) -> Selection:
        """The ``keep`` lowest negative mixed scores, ties to the first."""
        values = self.mixed(factors)
        threshold, negative = threshold_of(values, self.keep)
        chosen = values < threshold
        ties = min(self.keep, negative) - int(chosen.sum())
        if ties > 0:
            chosen[(values == threshold).nonzero().flatten()[:ties]] = True
        return Selection(self.sums(chosen), chosen)

    def decide(self, lower: Tensor, upper: Tensor) -> bool:
        """Decides weights whose mixed scores lie between these bounds at all multipliers in question: in if certainly
        among the ``keep`` lowest negative ones, out if certainly not. False if too few are to be worth a copy."""
        is_in = upper < threshold_of(lower, self.keep)[0]
        is_open = (lower <= threshold_of(upper, self.keep)[0]) & (lower < 0) & ~is_in
        if int(is_open.sum()) > _WORTHWHILE * self.size:
            return False
        self.put(is_in)
        self.base = self.sums(is_in)
        newly = int(is_in.sum())
        self.count, self.keep = self.count + newly, self.keep - newly
        self.index = is_open.nonzero().flatten() if self.index is None else self.index[is_open]
        self.scores = [score[is_open] for score in self.scores]
        return True

    def put(self, chosen: Tensor) -> None:
        """Into the mask."""
        self.mask[chosen if self.index is None else self.index[chosen]] = True

    def sums(self, chosen: Tensor) -> tuple[float, ...]:
        """Sums of each score over what is decided in and these undecided weights."""
        sums = (float(score[chosen].sum(dtype=torch.float64)) for score in self.scores)
        return tuple(base + new for base, new in zip(self.base, sums, strict=True))


def threshold_of(values: Tensor, keep: int) -> tuple[float, int]:
    """The keep-th lowest negative value, or 0 if there are no more than ``keep``; and how many there are.

    Example:
        >>> threshold_of(torch.tensor([-3.0, 1.0, -1.0, -2.0]), keep=2)
        (-2.0, 3)
    """
    negative = values[values < 0]
    if negative.numel() <= keep:
        return 0.0, negative.numel()
    if keep == 0:
        return -torch.inf, negative.numel()
    return float(negative.kthvalue(keep).values), negative.numel()
