"""SNIP, and SNIP without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from .base import Batches, LossFunction
from .gradients import add, at_least_one, device_of, gradients, moved, sum_gradients


def snip(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Batches | None,
    loss_fn: LossFunction,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """``|Theta * g|``, g the gradient of the loss summed over the batches: how much the loss feels the connection.

    Source: Lee et al. 2019, eq. 4 (up to normalisation, which does not change the order).
    """
    total = sum_gradients(model, weights, batches, loss_fn)
    return {key: (weight * total[key]).abs() for key, weight in weights.items()}


def usnip(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Batches | None,
    loss_fn: LossFunction,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """SNIP with labels drawn uniformly from ``generator``; targets, if the batches have any, are ignored.

    Outputs must be ``(batch, classes, *)``; the labels are ``(batch, *)``.

    Source: Wimmer et al., COPS: the unsupervised control score of U-COPS.
    """
    sums = None
    for inputs in _inputs(batches, device_of(weights)):
        outputs = model(inputs)
        if not isinstance(outputs, Tensor) or outputs.dim() < 2:
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(f"usnip: the model's outputs must have shape (batch, classes, *), got {got}")
        shape = (outputs.shape[0], *outputs.shape[2:])
        labels = torch.randint(outputs.shape[1], shape, generator=generator, device=generator.device)
        sums = add(sums, gradients(loss_fn(outputs, labels.to(outputs.device)), weights))
    return {key: (weight * grad).abs() for (key, weight), grad in zip(weights.items(), sums, strict=True)}


def _inputs(batches: Batches | None, device: torch.device) -> Iterator[object]:
    """The inputs of labelled and of unlabelled batches."""
    for batch in at_least_one(batches):
        yield moved(batch[0] if isinstance(batch, tuple | list) else batch, device)
