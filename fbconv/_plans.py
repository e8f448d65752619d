"""How a call with ``backend="auto"`` comes to its plan: sizes to a decision, which is remembered or traced.

Eager calls know all sizes. A tracer may leave some open, and its graph then serves many: of a batch, or the rows of a
linear layer, the decision is made for a few ranges, and the graph is guarded by the range where neighbouring ranges
differ; other open sizes count as those that are traced with. An exported program can have no such guards: it keeps the
plan for the sizes of its example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from . import planner
from ._ops import checks
from ._ops.checks import conv_output_shape

_Costs = Callable[..., dict[str, float]]

# Few, and the same for all layers: each may cost a model one more compilation.
_RANGES = ((8, 4), (64, 24))  # (below this size, decide as for that one)
_LARGE = 128  # decides for all sizes above


@dataclass(frozen=True)
class Decision:
    """What "auto" chose for a layer: the cheapest backend by the planner's expected seconds."""

    op: str
    backend: str
    costs: dict[str, float]


_decisions: ContextVar[list[Decision] | None] = ContextVar("decisions", default=None)


@contextmanager
def recorded_decisions() -> Iterator[list[Decision]]:
    """Collects what "auto" chooses inside the block, in the order of the calls."""
    decisions: list[Decision] = []
    token = _decisions.set(decisions)
    try:
        yield decisions
    finally:
        _decisions.reset(token)


def choose(costs: _Costs, op: str, input: Tensor, geometry: tuple, *args: Any) -> str:
    """The cheapest backend by ``costs`` (planner.py); arguments that do not fit together are refused here.

    Args:
        costs: from a layer's shape, the device and ``args`` to expected seconds by backend.
        op: for errors.
        input: of the layer.
        geometry: the weight's shape and, of convolutions, stride, padding, dilation and groups.
    """
    device = input.device.type
    plain = type(input) in (Tensor, torch.nn.Parameter)  # only others can have sizes that are still open
    if torch.compiler.is_compiling() or not (plain or all(isinstance(size, int) for size in input.shape)):
        return _traced_choice(costs, op, input.shape, geometry, device, *args)
    decision = _remembered_decision(costs, op, input.shape, geometry, device, *args)
    if (decisions := _decisions.get()) is not None:
        decisions.append(decision)
    return decision.backend


@lru_cache(maxsize=4096)
def _remembered_decision(
    costs: _Costs, op: str, input_shape: tuple, geometry: tuple, device: str, *args: Any
) -> Decision:
    seconds = costs(_layer_shape(op, input_shape, *geometry), device, *args)
    return Decision(op, planner.cheapest(seconds), seconds)


# Tracing cannot look into compiled code, but may take what it says of constant sizes for granted.
@torch.compiler.assume_constant_result
def _backend_of(*constants: Any) -> str:
    return _remembered_decision(*constants).backend


def _traced_choice(costs: _Costs, op: str, input_shape: Sequence[int], geometry: tuple, *args: Any) -> str:
    _layer_shape(op, input_shape, *geometry)  # refuses what does not fit, open sizes included
    convolution = len(geometry) > 1
    leading, rest = (input_shape[:1], input_shape[1:]) if convolution else (input_shape[:-1], input_shape[-1:])
    size, rest, known = prod(leading), _traced_with(tuple(rest)), _traced_with((geometry, *args))

    def cheapest(batch: int) -> str:
        return _backend_of(costs, op, (batch, *rest), *known)

    example = _traced_with(size)
    if torch.compiler.is_exporting() or _is_always(size, example):
        return cheapest(example)
    return _choice_of_range(cheapest, size)


def _choice_of_range(cheapest: Callable[[int], str], size: int) -> str:
    """The decision for the range that an open size lies in; where it differs from the next, the comparison stays
    behind as the graph's guard."""
    for (below, typical), (_, larger) in zip(_RANGES, (*_RANGES[1:], (None, _LARGE)), strict=True):
        if cheapest(typical) != cheapest(larger) and _known_below(size, below):
            return cheapest(typical)
    return cheapest(_LARGE)


def _traced_with(size: Any) -> Any:
    """An open size's number in this trace, without a guard; in tuples too, because ``dynamic=True`` leaves even a
    module's stride open."""
    from torch.fx.experimental import symbolic_shapes

    if isinstance(size, tuple):
        return tuple(_traced_with(each) for each in size)
    if isinstance(size, bool | str):
        return size
    if hasattr(symbolic_shapes, "optimization_hint"):
        return symbolic_shapes.optimization_hint(size, fallback=_LARGE)
    return symbolic_shapes.size_hint(size, fallback=_LARGE)  # its name before torch 2.13


def _is_always(size: int, number: int) -> bool:
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(size == number)


def _known_below(size: int, bound: int) -> bool:
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(size < bound)


def _layer_shape(op: str, input_shape: Sequence[int], weight_shape: Sequence[int], *geometry) -> planner.ConvShape:
    if not geometry:
        return _linear_shape(op, input_shape, weight_shape)
    batch, out_channels, height, width = conv_output_shape(op, input_shape, weight_shape, *geometry)
    in_size, kernel = tuple(input_shape[2:]), tuple(weight_shape[2:])
    return planner.ConvShape(batch, input_shape[1], out_channels, height, width, in_size, kernel, *geometry)


def _linear_shape(op: str, input_shape: Sequence[int], weight_shape: Sequence[int]) -> planner.ConvShape:
    """A linear layer as a convolution with the batch along the rows."""
    checks.check_rank(op, "pattern.shape", weight_shape, 2, "(out, in)")
    checks.check_features(op, "input", input_shape, weight_shape[1])
    rows = prod(input_shape[:-1])
    one, none = (1, 1), (0, 0)
    return planner.ConvShape(1, weight_shape[1], weight_shape[0], rows, 1, (rows, 1), one, one, none, one, 1)
