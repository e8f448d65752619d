"""How active the neurons at the two ends of every weight are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...convertibility import convertible_layers, dense_shape
from ...layer_calls import LayerCall, calls_of
from ...nn import FBLinear, FrozenLinear, SparseLinear
from ..gradients import moved


def activations(model: nn.Module, keys: Iterable[str], inputs: Iterable[object]) -> dict[str, dict[str, Tensor]]:
    """Name of a weight -> kind of activation -> activation, in the dense shape of the weight.

    The largest value, and the mean, of the weight's input and output channel over all samples and positions, in
    evaluation mode; before whatever follows the layer.
    """
    layers = {key: layer for key, layer in convertible_layers(model).items() if key in set(keys)}
    device = next(model.parameters()).device
    calls = calls_of(model, layers, lambda: [model(moved(batch, device)) for batch in inputs])
    found = {}
    for key, layer in layers.items():
        own = [call for call in calls if call.name == key]
        if not own:
            raise ValueError(f"meta: the model's forward must call the layer of {key!r}")
        found[key] = _of_layer(layer, own)
    return found


def _of_layer(layer: nn.Module, calls: list[LayerCall]) -> dict[str, Tensor]:
    shape = dense_shape(layer)
    into, out = (torch.cat([channels(layer, call) for call in calls], 1) for channels in (_inputs, _outputs))
    return {
        "max_input": _by_input(into.amax(1), shape),
        "max_output": _by_output(out.amax(1), shape),
        "mean_input": _by_input(into.mean(1), shape),
        "mean_output": _by_output(out.mean(1), shape),
    }


def _inputs(layer: nn.Module, call: LayerCall) -> Tensor:
    """Channels x everything else; of a linear layer with a filter basis, the channels are its blocks."""
    if isinstance(layer, FBLinear):
        blocks = dense_shape(layer)[1]
        return call.input.unflatten(-1, (blocks, -1)).movedim(-2, 0).flatten(1)
    return call.input.movedim(_channels(layer), 0).flatten(1)


def _outputs(layer: nn.Module, call: LayerCall) -> Tensor:
    return call.output.movedim(_channels(layer), 0).flatten(1)


def _channels(layer: nn.Module) -> int:
    return -1 if isinstance(layer, nn.Linear | SparseLinear | FrozenLinear | FBLinear) else -3


def _by_input(channels: Tensor, shape: torch.Size) -> Tensor:
    """In a grouped convolution, output channels of a group see the group's inputs only."""
    groups = len(channels) // shape[1]
    rows = channels.view(groups, shape[1]).repeat_interleave(shape[0] // groups, 0)
    return rows.view(*rows.shape, *[1] * (len(shape) - 2)).expand(shape)


def _by_output(channels: Tensor, shape: torch.Size) -> Tensor:
    return channels.view(-1, *[1] * (len(shape) - 1)).expand(shape)
