"""Scores that run nothing: random and magnitude."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .base import Batches, LossFunction


def random(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Batches | None,
    loss_fn: LossFunction,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """``|z|``, z ~ N(0, 1): any mask as likely as any other."""

    def draw(weight: Tensor) -> Tensor:
        # Drawn where the generator lives, so that the same seed gives the same mask on every device.
        return torch.randn(weight.shape, generator=generator, device=generator.device).abs().to(weight.device)

    return {key: draw(weight) for key, weight in weights.items()}


def magnitude(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Batches | None,
    loss_fn: LossFunction,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """``|Theta|``.

    Source: Han et al. 2015, "Learning both weights and connections".
    """
    return {key: weight.abs() for key, weight in weights.items()}
