"""Which plan ``backend="auto"`` takes: the cheaper one by a small cost model.

The model asks the kernels how many vectors a layer would make them multiply and pack (``_C.effort``), counts what
torch's dense convolution multiplies and moves, and weighs both with rates fitted to 519 random layers on one core of an
AVX-512 server; ``bench/bench_planner.py`` measures how well it chooses. The rates are constants, so the same model and
input always take the same plan and give the same bits. On CUDA the sparse kernels are not tuned yet, so there ``auto``
is dense.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from . import _C


class _SparseRates(NamedTuple):
    """Seconds on one core: for a call, and for every vector multiplied, copied or transposed and every entry."""

    call: float
    multiplied: float
    copied: float
    transposed: float
    entry: float


class _DenseRates(NamedTuple):
    """Seconds on one core: for a call (scattering the values included), multiply-add, weight, map element, and for a
    multiply-add divided by the output channels of a group, because few of them leave torch's vectors empty."""

    call: float
    multiply: float
    weight: float
    element: float
    narrow: float


_SPARSE_FORWARD = _SparseRates(31e-6, 0.63e-9, 4.5e-9, 16e-9, 1.9e-9)
_SPARSE_STEP = _SparseRates(392e-6, 1.7e-9, 32e-9, 75e-9, 14e-9)
_DENSE_FORWARD = _DenseRates(58e-6, 0.020e-9, 1.26e-9, 0.25e-9, 0.22e-9)
_DENSE_STEP = _DenseRates(389e-6, 0.064e-9, 4.2e-9, 2.4e-9, 0.74e-9)
# Where the fit is wrong it is so by more for dense layers: taken at its word it misses the best plan more often.
_SPARSE_TRUST = 0.85
# Elements of a filter basis share their loads, and the backward pass computes them twice more than it would its
# coefficients.
_TAP_MULTIPLY = 0.5
_FILTER_BASIS_STEP = 2.0


@dataclass(frozen=True)
class ConvShape:
    """What a plan's cost depends on; ``height`` and ``width`` are the output's."""

    batch: int
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def weights(self) -> int:
        return self.out_channels * self.in_channels // self.groups * self.taps

    @property
    def positions(self) -> int:
        return self.batch * self.height * self.width

    @property
    def elements(self) -> int:
        """Of the input and the output map."""
        inputs = self.in_channels * self.stride[0] * self.stride[1]
        return (inputs + self.out_channels) * self.positions


def _dense_cost(shape: ConvShape, rates: _DenseRates) -> float:
    multiplies = shape.weights * shape.positions
    working = multiplies * (rates.multiply + rates.narrow * shape.groups / shape.out_channels)
    return rates.call + working + shape.weights * rates.weight + shape.elements * rates.element


# Tracing cannot look into compiled code, but may take what it says of constant sizes for granted.
_effort = torch.compiler.assume_constant_result(lambda *sizes: _C.effort(*sizes))


def _sparse_cost(shape: ConvShape, entries: float, rates: _SparseRates) -> float:
    multiplied, copied, transposed = _effort(
        max(shape.batch, 1),
        shape.in_channels,
        shape.out_channels,
        (max(shape.height, 1), max(shape.width, 1)),
        shape.kernel,
        shape.stride,
        shape.dilation,
        entries,
    )
    moving = copied * rates.copied + transposed * rates.transposed
    return _SPARSE_TRUST * (rates.call + multiplied * rates.multiplied + moving + entries * rates.entry)


def cheapest(costs: dict[str, float]) -> str:
    """The backend of the least cost, the first of equals."""
    return min(costs, key=costs.__getitem__)


def sparse_costs(shape: ConvShape, device: str, nnz: int, training: bool) -> dict[str, float]:
    """Expected seconds of a masked sparse layer on one core, by backend: of a call, or of a whole training step."""
    if device != "cpu":
        return {"dense": 0.0}
    return {
        "sparse": _sparse_cost(shape, nnz, _SPARSE_STEP if training else _SPARSE_FORWARD),
        "dense": _dense_cost(shape, _DENSE_STEP if training else _DENSE_FORWARD),
    }


def frozen_costs(shape: ConvShape, device: str, nnz: int, training: bool) -> dict[str, float]:
    """Expected seconds of a frozen layer's weight gradient at the mask only ("sparse"), or of all of it ("dense").

    Without training there is none, and the layer is dense either way.
    """
    if device != "cpu" or not training:
        return {"dense": 0.0}
    step, forward = (sparse_costs(shape, device, nnz, steps) for steps in (True, False))
    return {backend: (step[backend] - forward[backend]) / 2 for backend in step}


def live_columns(maps: int, elements: int, rows: int, density: float) -> float:
    """Expected number of (map, basis element) columns that any of ``rows`` coefficients uses."""
    return maps * elements * (1 - (1 - density) ** rows)


def order_costs(shape: ConvShape, device: str, nnz: int, training: bool, elements: int) -> dict[str, float]:
    """Expected seconds of a filter-basis convolution on one core, by order; their gradients are the same."""
    if device != "cpu":
        return {"basis_first": 0.0}
    group_inputs = shape.in_channels // shape.groups
    density = nnz / (shape.out_channels * group_inputs * elements)
    inputs = live_columns(shape.in_channels, elements, shape.out_channels // shape.groups, density)
    outputs = live_columns(shape.out_channels, elements, group_inputs, density)
    # Mix first computes margins and loads them unaligned, so that its taps cost what entries do.
    entries = {
        "basis_first": nnz + _TAP_MULTIPLY * inputs * shape.taps,
        "mix_first": 1.5 * (nnz + outputs * shape.taps),
    }
    rates = _SPARSE_STEP if training else _SPARSE_FORWARD
    factor = _FILTER_BASIS_STEP if training else 1
    return {order: _sparse_cost(shape, factor * count, rates) for order, count in entries.items()}


def filter_basis_costs(shape: ConvShape, device: str, nnz: int, training: bool, elements: int) -> dict[str, float]:
    """Expected seconds of a filter-basis convolution on one core, by order, or "composed" to a dense one."""
    if device != "cpu":
        return {"composed": 0.0}
    rates = _DENSE_STEP if training else _DENSE_FORWARD
    composing = shape.weights * elements * rates.multiply + 2 * shape.weights * rates.weight
    costs = order_costs(shape, device, nnz, training, elements)
    return costs | {"composed": _dense_cost(shape, rates) + composing}
