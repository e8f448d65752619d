"""Which layers a forward call runs, on what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer: its name in the model, the layer, its input and its output."""

    name: str
    layer: nn.Module
    input: Tensor
    output: Tensor


def calls_of(model: nn.Module, layers: Mapping[str, nn.Module], forward: Callable[[], object]) -> list[LayerCall]:
    """The calls of ``layers`` (by name) that ``forward`` leads to, in their order; a layer may be called repeatedly.

    ``forward`` calls the model, in evaluation mode, so that statistics of batch norms stay as they are, and without
    gradients.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> call, = calls_of(model, {"0": model[0]}, lambda: model(torch.zeros(2, 4)))
        >>> call.output.shape
        torch.Size([2, 3])
    """
    calls: list[LayerCall] = []

    def hook(name: str) -> Callable[..., None]:
        return lambda layer, args, output: calls.append(LayerCall(name, layer, args[0].detach(), output.detach()))

    hooks = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            forward()
    finally:
        for handle in hooks:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return calls
