"""Gradients of weights that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..nn.compressed import Compressed, compressed_layers
from .changing import layers_by_values
from .ranks import unwrapped


@contextmanager
def dense_gradients(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within, compressed layers run on their dense weights and collect the gradient of every entry.

    Entries that are not kept are zero (or frozen), but have gradients all the same: of the weight, or of the
    coefficient in the interspace. That costs what a dense step costs, so it is for the few steps that ask for it.

    Args:
        model: with compressed layers, perhaps in a ``DistributedDataParallel``. Its ``values`` have the gradients
            afterwards that they had before; other parameters, biases and filter bases among them, get theirs.

    Yields:
        name of the values -> tensor of the pattern's shape, whose ``grad`` the backward pass fills; several batches add
        up. Of several ranks, each has the gradients of its own batches.

    Example:
        >>> model = fbconv.sparsify(torch.nn.Sequential(torch.nn.Linear(2, 1)), {"0.weight": torch.tensor([[1, 0]])})
        >>> with dense_gradients(model) as weights:
        ...     model(torch.tensor([[3.0, 4.0]])).sum().backward()
        >>> weights["0.values"].grad
        tensor([[3., 4.]])
    """
    layers = layers_by_values(unwrapped(model))
    weights = {name: layer.dense_values().detach().requires_grad_() for name, layer in layers.items()}
    by_values = {layer.values: weights[name] for name, layer in layers.items()}
    before = {values: values.grad for values in by_values}
    watched = list(compressed_layers(unwrapped(model)).values())
    try:
        for values in by_values:
            values.grad = None
        for layer in watched:
            _watch(layer, by_values[layer.values])
        yield weights
    finally:
        for layer in watched:
            del layer.forward, layer.dense_values
        for values, grad in before.items():
            values.grad = grad


def _watch(layer: Compressed, weight: Tensor) -> None:
    """Instance attributes go before the class's methods: the layer composes and convolves with this tensor."""
    twin = layer.to_dense()

    def forward(input: Tensor) -> Tensor:
        own = {"weight": layer.weight} | ({} if layer.bias is None else {"bias": layer.bias})
        return torch.func.functional_call(twin, own, (input,))

    def dense_values() -> Tensor:
        # The values add nothing, but take part: data-parallel wrappers wait for the gradient of every parameter.
        own = type(layer).dense_values(layer)
        return weight + (own - own.detach())

    layer.dense_values = dense_values
    layer.forward = forward
