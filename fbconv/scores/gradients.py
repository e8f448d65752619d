"""Batches, and gradients summed over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from .base import Batches, LossFunction


def sum_gradients(
    model: nn.Module, weights: Mapping[str, nn.Parameter], batches: Batches | None, loss_fn: LossFunction
) -> dict[str, Tensor]:
    """Gradient of the loss by every listed parameter, summed over ``batches``; ``.grad`` is not touched.

    A parameter that the output does not depend on has gradient 0.

    Raises:
        ValueError: without batches, where a batch is not an ``(inputs, targets)`` pair, or as :func:`gradients`.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> batches = [(torch.eye(2), torch.zeros(2, 1))]
        >>> sum_gradients(layer, {"weight": layer.weight}, batches, lambda outputs, targets: outputs.sum())
        {'weight': tensor([[1., 1.]])}
    """
    sums = None
    for inputs, targets in pairs(batches, device_of(weights)):
        sums = add(sums, gradients(loss_fn(model(inputs), targets), weights))
    return dict(zip(weights, sums, strict=True))


def gradients(loss: Tensor, weights: Mapping[str, nn.Parameter], create_graph: bool = False) -> tuple[Tensor, ...]:
    """Of a loss, by every listed parameter.

    Raises:
        ValueError: if the loss is no scalar, or does not come from the parameters.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        graph = ", without a gradient" if isinstance(loss, Tensor) and not loss.requires_grad else ""
        raise ValueError(f"score: the loss must be a scalar tensor that depends on the weights, got {got}{graph}")
    return torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph, materialize_grads=True)


def add(sums: list[Tensor] | None, new: Iterable[Tensor]) -> list[Tensor]:
    """Running sums of a list of tensors, begun with None."""
    if sums is None:
        return [value.detach() for value in new]
    return [total + value.detach() for total, value in zip(sums, new, strict=True)]


def device_of(weights: Mapping[str, nn.Parameter]) -> torch.device:
    """Where the first of the weights is."""
    return next(iter(weights.values())).device


def pairs(batches: Batches | None, device: torch.device) -> Iterator[tuple[object, object]]:
    """``(inputs, targets)`` on a device, one after the other; at least one.

    Raises:
        ValueError: without batches, or where a batch is not a pair.
    """
    for batch in at_least_one(batches):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(f"score: batches must yield (inputs, targets) pairs, got {type(batch).__name__}")
        yield moved(batch[0], device), moved(batch[1], device)


def at_least_one(batches: Batches | None) -> Iterator[object]:
    """The batches as they are.

    Raises:
        ValueError: if there are none.
    """
    if batches is None:
        raise ValueError("score: this score needs batches, an iterable of (inputs, targets), got None")
    if not isinstance(batches, Iterable):
        raise ValueError(f"score: batches must be an iterable of (inputs, targets), got {type(batches).__name__}")
    batch = missing = object()
    for batch in batches:
        yield batch
    if batch is missing:
        raise ValueError("score: batches must hold at least one (inputs, targets) pair, got none")


def moved(content: object, device: torch.device) -> object:
    """Tensors, and tensors in nested lists, tuples and dicts, on a device and fit to be saved for a backward pass;
    anything else as it is."""
    if isinstance(content, Tensor):
        content = content.to(device)
        return content.clone() if content.is_inference() else content
    if isinstance(content, dict):
        return {key: moved(value, device) for key, value in content.items()}
    if isinstance(content, tuple | list) and not hasattr(content, "_fields"):
        return type(content)(moved(value, device) for value in content)
    return content
