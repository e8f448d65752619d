"""Which plan ``backend="auto"`` takes: the cheaper one by a small cost model.

The model asks the kernels how many vectors a layer would make them multiply and move (``_C.effort``), counts what
torch's dense convolution multiplies and moves, and weighs both with rates fitted to 250 random layers on one core of an
AVX-512 server (AMD Zen 4); ``bench/bench_planner.py`` measures how well it chooses. The rates are constants, so the
same model and input always take the same plan and give the same bits. On CUDA the sparse kernels are not tuned yet, so
there ``auto`` is dense.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from . import _C


class _SparseRates(NamedTuple):
    """Seconds on one core: for a call, for every entry, and for every vector of the three kinds that ``_C.effort``
    counts."""

    call: float
    entry: float
    first: float
    second: float
    third: float


class _DenseRates(NamedTuple):
    """Seconds on one core: for a call (scattering the values included), multiply-add, weight, map element, and for a
    multiply-add divided by the output channels of a group, because few of them leave torch's vectors empty."""

    call: float
    multiply: float
    weight: float
    element: float
    narrow: float


_SPARSE_FORWARD = {
    "compiled": _SparseRates(20e-6, 0.17e-9, 0.36e-9, 0.74e-9, 3.9e-9),
    "packed": _SparseRates(29e-6, 0, 1.04e-9, 6.8e-9, 15.4e-9),
}
_SPARSE_STEP = {
    "compiled": _SparseRates(166e-6, 10.1e-9, 1.15e-9, 2.1e-9, 20.6e-9),
    "packed": _SparseRates(189e-6, 2.5e-9, 2.5e-9, 46e-9, 81e-9),
}
_DENSE_FORWARD = _DenseRates(41e-6, 0.0195e-9, 0.35e-9, 0.68e-9, 0.037e-9)
_DENSE_STEP = _DenseRates(250e-6, 0.059e-9, 2.1e-9, 3.6e-9, 0.39e-9)
# Where the fit is wrong it is so by more for dense layers: taken at its word it misses the best plan more often.
_SPARSE_TRUST = 0.9
# The taps of a filter basis against its coefficients: elements share their loads. Mix first computes margins too, on
# packed maps. The backward pass computes them twice more than it would coefficients alone.
_BASIS_FIRST_TAP = 0.7
_MIX_FIRST = 1.9
_FILTER_BASIS_STEP = 2.1


@dataclass(frozen=True)
class ConvShape:
    """What a plan's cost depends on; ``height`` and ``width`` are the output's, ``in_size`` the input's."""

    batch: int
    in_channels: int
    out_channels: int
    height: int
    width: int
    in_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
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


def _sparse_cost(shape: ConvShape, entries: float, rates: dict[str, _SparseRates]) -> float:
    if min(shape.batch, shape.height, shape.width) < 1:
        return rates["packed"].call
    kind, *efforts = _C.effort(
        shape.batch,
        (shape.in_channels, shape.out_channels),
        shape.in_size,
        shape.kernel,
        shape.stride,
        shape.padding,
        shape.dilation,
        shape.groups,
        entries,
    )
    call, entry, *each = rates[kind]
    seconds = call + entry * entries + sum(effort * rate for effort, rate in zip(efforts, each, strict=True))
    return _SPARSE_TRUST * seconds


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
    entries = {
        "basis_first": nnz + _BASIS_FIRST_TAP * inputs * shape.taps,
        "mix_first": _MIX_FIRST * (nnz + outputs * shape.taps),
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
