"""What the clock says of a model's layers, beside the dense layers that they stand for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from .benchmark.timing import ROUNDS, Candidate, interleaved_medians
from .counting import LayerCount
from .nn import Compressed


@dataclass(frozen=True)
class LayerTime:
    """Median seconds of a layer's forward pass and of the plain dense layer's; the same where it is that layer."""

    dense_seconds: float
    seconds: float


def measure(model: nn.Module, layers: Iterable[LayerCount], rounds: int = ROUNDS) -> list[LayerTime | None]:
    """Times each counted layer of a model on random input of its shape, with torch's current number of threads.

    Args:
        model: that was counted; in evaluation mode, on the CPU.
        layers: of :func:`fbconv.count`.
        rounds: how often each layer and its dense counterpart are timed, interleaved.

    Returns:
        A time for each layer; None for those that the forward pass does not call.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3))
        >>> time, = measure(model, fbconv.count(model, (1, 4)).layers, rounds=1)
        >>> time.seconds > 0
        True
    """
    return [_time(model.get_submodule(count.name), count.input, rounds) if count.input else None for count in layers]


@torch.no_grad()
def _time(layer: nn.Module, input_shape: tuple[int, ...], rounds: int) -> LayerTime:
    own = layer.values if isinstance(layer, Compressed) else layer.weight
    input = torch.randn(input_shape, dtype=own.dtype, generator=torch.Generator().manual_seed(0))
    modules = {"dense": layer.to_dense(), "own": layer} if isinstance(layer, Compressed) else {"own": layer}
    candidates = {name: Candidate(lambda module=module: module(input)) for name, module in modules.items()}
    seconds = {name: timing.seconds for name, timing in interleaved_medians(candidates, rounds).items()}
    return LayerTime(seconds.get("dense", seconds["own"]), seconds["own"])
