"""Dynamic sparse training at constant density: weights are dropped by magnitude and grown elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..nn import Compressed
from ..topk import keep_highest
from .changing import layers_by_values, set_masks
from .ranks import group_of, summed, unwrapped


class RegrowingMasks:
    """SET and RigL: every ``interval`` steps each layer drops its smallest values and grows as many others.

    The share that is dropped falls by half a cosine from ``drop_fraction`` to 0 at step ``end``. Each layer keeps its
    number of values exactly; what is dropped may be grown again at once, and then stays. Layers whose values do not
    train (``requires_grad=False``) are left alone.

    Args:
        model: with compressed layers, spatial or interspace, convolutions or linear; where several ranks train it,
            what :func:`fbconv.distributed.data_parallel` has returned.
        optimizer: whose state follows the values (:func:`set_masks`).
        interval: steps between two updates.
        end: step from which on the masks stay.
        drop_fraction: share of a layer's values that the first update would drop at step 0, in (0, 1].
        generator: random numbers of SET; of several ranks, the first one's count.
        group: ranks that train copies of the model, as for :func:`set_masks`. All of them update in the same steps,
            by the sum of their gradients, and have the same masks afterwards.

    Raises:
        ValueError: an interval or end below 1, or a fraction out of range.

    Example:
        One step of training; ``dense_gradients`` costs a dense step and is needed for RigL only. ::

            if masks.due(step):  # in the place of the optimizer's step
                with dense_gradients(model) as weights:
                    loss_fn(model(inputs), targets).backward()
                masks.update(step, {name: weight.grad for name, weight in weights.items()})
            else:
                loss_fn(model(inputs), targets).backward()
                optimizer.step()

    Source: Mocanu et al. 2018 (SET); Evci et al. 2020, algorithm 1 (RigL).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        interval: int = 100,
        end: int = 75_000,
        drop_fraction: float = 0.3,
        generator: torch.Generator | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        for name, value in (("interval", interval), ("end", end)):
            if value < 1:
                raise ValueError(f"RegrowingMasks: {name} must be at least 1, got {value}")
        if not 0 < drop_fraction <= 1:
            raise ValueError(f"RegrowingMasks: drop_fraction must be in (0, 1], got {drop_fraction}")
        self.model, self.optimizer = model, optimizer
        self.interval, self.end, self.drop_fraction = interval, end, drop_fraction
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.group = group_of(model) if group is None else group

    def due(self, step: int) -> bool:
        """Whether the masks change in this step (counted from 0)."""
        return 0 < step < self.end and step % self.interval == 0

    def fraction(self, step: int) -> float:
        """Share of each layer's values that an update in this step drops."""
        return self.drop_fraction / 2 * (1 + math.cos(math.pi * step / self.end))

    @torch.no_grad()
    def update(self, step: int, gradients: Mapping[str, Tensor] | None = None) -> None:
        """Drop and grow.

        Args:
            step: sets the share.
            gradients: name of the values -> dense gradient, for RigL: the largest grow; on each of several ranks its
                own. None grows at random (SET).

        Raises:
            ValueError: if a layer has no gradient.
        """
        layers = {name: m for name, m in layers_by_values(unwrapped(self.model)).items() if m.values.requires_grad}
        wanted = self._random(layers) if gradients is None else self._wanted(layers, gradients)
        masks = {}
        for name, layer in layers.items():
            dropped = int(self.fraction(step) * layer.values.numel())
            masks[name] = _regrown(layer, dropped, wanted[name])
        set_masks(self.model, masks, self.optimizer, self.group)

    def _wanted(self, layers: Mapping[str, Compressed], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for name in layers:
            if gradients.get(name) is None:
                raise ValueError(f"RegrowingMasks: gradients must have all layers, got none for {name}")
        sums = summed({name: gradients[name] for name in layers}, self.group)
        return {name: gradient.abs() for name, gradient in sums.items()}

    def _random(self, layers: Mapping[str, Compressed]) -> dict[str, Tensor]:
        draw = {"generator": self.generator, "device": self.generator.device}
        return {name: torch.rand(m.pattern.shape, **draw).to(m.values.device) for name, m in layers.items()}


def _regrown(layer: Compressed, dropped: int, wanted: Tensor) -> Tensor:
    """The mask without the ``dropped`` smallest values and with as many of the most wanted entries."""
    pattern = layer.pattern
    kept = pattern.nnz - dropped
    stays = pattern.mask()
    stays[stays.clone()] = keep_highest({"": layer.values.detach().abs()}, kept)[""]
    grown = keep_highest({"": wanted.masked_fill(stays, -math.inf)}, dropped)[""]
    return stays | grown
