"""Which plan ``backend="auto"`` takes: the cheaper one by a small cost model.

The model counts what each plan multiplies, moves and looks up, at rates fitted to one core of an AVX-512 server;
``bench/bench_layers.py`` measures what it predicts. The rates are constants, so the same model and input always take
the same plan and give the same bits. On CUDA the sparse kernels are not tuned yet, so there ``auto`` is dense.
"""

from __future__ import annotations

from dataclasses import dataclass

# Seconds per unit of work on one core.
_DENSE_MULTIPLY = 1 / 65e9  # torch's dense convolution, multiply-adds
_SPARSE_MULTIPLY = 1 / 10e9  # a gather kernel's multiply-adds, margins of the flat tile included
_PACK = 0.9e-9  # one element into or out of a tile
_LIST_ENTRY = 4e-9  # checking and translating one pattern entry, once per call
_WEIGHT = 0.4e-9  # touching one dense weight, once per call
_DENSE_GRADIENT = 1.3  # torch's dense weight gradient against its forward
# How much more a whole training step costs, against its forward, than dense layers' steps do against theirs.
_SPARSE_STEP = 0.75
_FILTER_BASIS_STEP = 1.5


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
    def flat_positions(self) -> int:
        """Positions that a flat tile computes: rows are wider than the output by the reach of the taps."""
        reach = self.dilation[1] * (self.kernel[1] - 1) // self.stride[1]
        return self.batch * self.height * (self.width + reach)

    @property
    def moved(self) -> int:
        """Elements packed and unpacked."""
        phases = min(self.stride[0], self.kernel[0]) * min(self.stride[1], self.kernel[1])
        return (self.in_channels * phases + self.out_channels) * self.flat_positions


def _dense_cost(shape: ConvShape) -> float:
    multiplies = shape.weights * shape.positions
    return multiplies * _DENSE_MULTIPLY + shape.weights * _WEIGHT


def _gather_cost(shape: ConvShape, entries: float) -> float:
    return entries * (shape.flat_positions * _SPARSE_MULTIPLY + _LIST_ENTRY) + shape.moved * _PACK


def choose_sparse(shape: ConvShape, device: str, nnz: int, training: bool) -> str:
    """Whether a masked sparse convolution or linear layer runs "sparse" or "dense"."""
    if device != "cpu":
        return "dense"
    cost = _gather_cost(shape, nnz) * (_SPARSE_STEP if training else 1)
    return "sparse" if cost < _dense_cost(shape) else "dense"


def choose_frozen(shape: ConvShape, device: str, nnz: int, training: bool) -> str:
    """Whether a frozen layer computes its weight gradient at the mask only ("sparse"), or all of it ("dense")."""
    if device != "cpu" or not training:
        return "dense"
    dense_gradient = _DENSE_GRADIENT * _dense_cost(shape)
    return "sparse" if _gather_cost(shape, nnz) < dense_gradient else "dense"


def live_columns(maps: int, elements: int, rows: int, density: float) -> float:
    """Expected number of (map, basis element) columns that any of ``rows`` coefficients uses."""
    return maps * elements * (1 - (1 - density) ** rows)


def choose_order(shape: ConvShape, device: str, nnz: int, training: bool, elements: int) -> str:
    """The cheaper order of a filter-basis convolution, "basis_first" or "mix_first"; their gradients are the same."""
    if device != "cpu":
        return "basis_first"
    costs = _order_costs(shape, nnz, elements)
    return "basis_first" if costs[0] <= costs[1] else "mix_first"


def choose_filter_basis(shape: ConvShape, device: str, nnz: int, training: bool, elements: int) -> str:
    """The plan of a filter-basis convolution: "basis_first", "mix_first" or "composed"."""
    if device != "cpu":
        return "composed"
    composing = shape.weights * elements * _DENSE_MULTIPLY + shape.weights * _WEIGHT
    basis_first, mix_first = _order_costs(shape, nnz, elements)
    cost = min(basis_first, mix_first) * (_FILTER_BASIS_STEP if training else 1)
    return choose_order(shape, device, nnz, training, elements) if cost < _dense_cost(shape) + composing else "composed"


def _order_costs(shape: ConvShape, nnz: int, elements: int) -> tuple[float, float]:
    group_inputs = shape.in_channels // shape.groups
    density = nnz / (shape.out_channels * group_inputs * elements)
    inputs = live_columns(shape.in_channels, elements, shape.out_channels // shape.groups, density)
    outputs = live_columns(shape.out_channels, elements, group_inputs, density)
    return _gather_cost(shape, nnz + inputs * shape.taps), _gather_cost(shape, nnz + outputs * shape.taps)
