"""Gradual magnitude pruning: sparsity that rises while the model trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from ..masks import select
from ..scores import score
from .changing import set_masks
from .ranks import unwrapped


class GradualPruning:
    """Magnitude pruning that removes much at first and ever less: what is pruned never comes back.

    Between the steps ``start`` and ``end`` the sparsity is ``q (1 - (1 - (t - start) / (end - start))^3)``.

    Args:
        model: with compressed layers; to begin dense, with masks that keep all. Where several ranks train it, what
            :func:`fbconv.distributed.data_parallel` has returned.
        optimizer: whose state follows the values (:func:`set_masks`).
        sparsity: q, share of the compressed layers' weights removed at the end.
        start, end: first and last step with an update.
        interval: steps between two updates.
        exclude: as for :func:`fbconv.select`.
        group: ranks that train copies of the model, as for :func:`set_masks`.

    Raises:
        ValueError: steps that do not rise from 0, an interval below 1, or a sparsity outside [0, 1].

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(10, 10))
        >>> model = fbconv.sparsify(model, {"0.weight": torch.ones(10, 10)})
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> pruning = GradualPruning(model, optimizer, 0.9, start=0, end=10, interval=5)
        >>> for step in range(11):
        ...     if pruning.due(step):
        ...         pruning.update(step)
        >>> model[0].values.numel()
        10

    Source: Zhu & Gupta 2017, equation 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        sparsity: float,
        start: int,
        end: int,
        interval: int = 100,
        exclude: Sequence[str] = (),
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if not 0 <= start < end:
            raise ValueError(f"GradualPruning: start and end must rise from 0, got {start} and {end}")
        if interval < 1:
            raise ValueError(f"GradualPruning: interval must be at least 1, got {interval}")
        if not 0 <= sparsity <= 1:
            raise ValueError(f"GradualPruning: sparsity must be in [0, 1], got {sparsity}")
        self.model, self.optimizer, self.target = model, optimizer, sparsity
        self.start, self.end, self.interval, self.exclude = start, end, interval, exclude
        self.group = group

    def due(self, step: int) -> bool:
        """Whether the masks change in this step (counted from 0); in the last one always."""
        return step == self.end or (self.start <= step < self.end and (step - self.start) % self.interval == 0)

    def sparsity(self, step: int) -> float:
        """Share of the weights that are gone after an update in this step."""
        done = min(1.0, max(0.0, (step - self.start) / (self.end - self.start)))
        return self.target * (1 - (1 - done) ** 3)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Prune to the step's sparsity."""
        scores = score(unwrapped(self.model), "magnitude")
        masks = select(scores, self.sparsity(step), exclude=self.exclude)
        set_masks(self.model, masks, self.optimizer, self.group)
