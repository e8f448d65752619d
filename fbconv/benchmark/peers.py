"""Other public ways to a sparse convolution: sparse matrices times columns of the input.

The columns of a masked layer are its unfolded input (im2col), as in the interspace pruning paper; those of a
filter-basis layer are its input convolved with the basis. Peers are taken at their best: their matrices and
transposes are made beforehand, share their values with the layer where they can, and multiply as many images at a
time as suits their columns.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..pattern import SparsePattern
from .operands import Operands
from .timing import Candidate

# Name -> the package that it needs; torch's matrices are made by scipy.
PEERS = {"scipy": "scipy", "torch-csr": "scipy", "mkl": "sparse_dot_mkl"}
_PARTS = {"backward": ("grad-input", "grad-values"), "step": ("forward", "grad-input", "grad-values")}
_COLUMNS = 256  # at least so many per product: for long inner loops; few enough for the caches


def installed_peers() -> list[str]:
    """Names of the peers whose packages can be imported; sparse_dot_mkl finds its library only then."""
    return [name for name, package in PEERS.items() if _importable(package)]


def _importable(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def peer_candidate(operands: Operands, peer: str, op: str, direction: str) -> Candidate | None:
    """One pass of a peer, which may skip rounds, or None if it has no such pass.

    Masked layers and filter bases have a forward pass and an input gradient; only torch has the product that the
    gradient of masked weights is (``sampled_addmm``), and with it whole backward passes and steps.
    """
    calls = [_product(operands, peer, op, part) for part in _PARTS.get(direction, (direction,))]
    if None in calls:
        return None
    if len(calls) == 1:
        return Candidate(torch.no_grad()(calls[0]), may_skip=True)
    return Candidate(torch.no_grad()(lambda: tuple(call() for call in calls)), may_skip=True)


def _product(operands: Operands, peer: str, op: str, direction: str) -> Callable[[], Tensor] | None:
    if op == "frozen":
        return None
    columns = _columns(operands, op)
    if direction != "grad-values":
        transposed = direction == "grad-input"
        multiply = _MULTIPLIERS[peer](operands, transposed)
        return lambda: (columns.grad_input if transposed else columns.forward)(multiply)
    if (peer, op) == ("torch-csr", "masked"):
        matrix = _torch_csr(operands, transposed=False)
        return lambda: columns.grad_values(matrix)
    return None


@dataclass(frozen=True)
class _Columns:
    """A layer as a product of a sparse matrix ``(C_out, rows)`` and columns ``(images, rows, positions)``."""

    operands: Operands
    unfold: Callable[[Tensor], Tensor]
    fold: Callable[[Tensor], Tensor]

    def forward(self, multiply: Callable[[Tensor], Tensor]) -> Tensor:
        output = torch.empty_like(self.operands.grad)
        for part in self._parts():
            product = multiply(side_by_side(self.unfold(self.operands.input[part])))
            output[part] = apart(product, output[part].shape[0]).view_as(output[part])
        return output

    def grad_input(self, multiply: Callable[[Tensor], Tensor]) -> Tensor:
        grad_input = torch.empty_like(self.operands.input)
        for part in self._parts():
            columns = multiply(side_by_side(self.operands.grad[part]))
            grad_input[part] = self.fold(apart(columns, grad_input[part].shape[0]))
        return grad_input

    def grad_values(self, matrix: Tensor) -> Tensor:
        total = matrix
        for i, part in enumerate(self._parts()):
            columns = side_by_side(self.unfold(self.operands.input[part]))
            total = torch.sparse.sampled_addmm(
                total, side_by_side(self.operands.grad[part]), columns.T, beta=float(i > 0)
            )
        return total.values()

    def _parts(self) -> Iterator[slice]:
        step = -(-_COLUMNS // self.operands.layer.positions(1))
        return (slice(first, first + step) for first in range(0, self.operands.batch, step))


def side_by_side(maps: Tensor) -> Tensor:
    """``(images, rows, *positions)`` as one matrix ``(rows, images * positions)``."""
    return maps.transpose(0, 1).reshape(maps.shape[1], -1)


def apart(matrix: Tensor, images: int) -> Tensor:
    """``(rows, images * positions)`` as ``(images, rows, positions)``, contiguous."""
    return matrix.unflatten(1, (images, -1)).transpose(0, 1).contiguous()


def _columns(operands: Operands, op: str) -> _Columns:
    layer = operands.layer
    if layer.linear:
        return _Columns(operands, lambda x: x, lambda columns: columns[..., 0])
    if op == "filter-basis":
        return _basis_columns(operands)
    if layer.kernel == layer.stride == 1:
        return _Columns(operands, lambda x: x, lambda columns: columns.unflatten(2, (layer.size, layer.size)))
    window = {"kernel_size": layer.kernel, "padding": layer.padding, "stride": layer.stride}
    return _Columns(
        operands,
        lambda x: torch.nn.functional.unfold(x, **window),
        lambda columns: torch.nn.functional.fold(columns, (layer.size, layer.size), **window),
    )


def _basis_columns(operands: Operands) -> _Columns:
    """Rows are (input channel, basis element); every map is convolved with every element."""
    layer, filters = operands.layer, operands.basis.transpose(0, 1)
    options = {"stride": layer.stride, "padding": layer.padding}
    left_over = layer.size - ((layer.out_size - 1) * layer.stride - 2 * layer.padding + layer.kernel)

    def unfold(x: Tensor) -> Tensor:
        maps = torch.conv2d(x.reshape(-1, 1, layer.size, layer.size), filters, **options)
        return maps.view(x.shape[0], -1, layer.positions(1))

    def fold(columns: Tensor) -> Tensor:
        maps = columns.reshape(-1, filters.shape[0], layer.out_size, layer.out_size)
        inputs = torch.conv_transpose2d(maps, filters, output_padding=left_over, **options)
        return inputs.view(-1, layer.in_channels, layer.size, layer.size)

    return _Columns(operands, unfold, fold)


def scipy_csr(pattern: SparsePattern, values: Tensor, groups: int = 1) -> Any:
    """scipy's matrix ``(C_out, C_in * taps)``, block diagonal for groups; its data are the layer's own values."""
    from scipy.sparse import csr_array

    outputs, width = pattern.shape[0], prod(pattern.shape[1:])
    row, column = pattern.positions // width, pattern.positions % width
    column += row // (outputs // groups) * width
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(row, minlength=outputs).cumsum(0)])
    parts = (values.numpy(), column.int().numpy(), starts.int().numpy())
    return csr_array(parts, shape=(outputs, width * groups))


def _scipy_csr(operands: Operands) -> Any:
    return scipy_csr(operands.pattern, operands.values, operands.layer.groups)


def _torch_csr(operands: Operands, transposed: bool) -> Tensor:
    matrix = _scipy_csr(operands)
    matrix = matrix.T.tocsr() if transposed else matrix
    parts = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*beta state")
        return torch.sparse_csr_tensor(*parts, size=matrix.shape, check_invariants=True)


def _scipy_multiplier(operands: Operands, transposed: bool) -> Callable[[Tensor], Tensor]:
    matrix = _scipy_csr(operands)
    matrix = matrix.T if transposed else matrix
    return lambda columns: torch.from_numpy(matrix @ columns.numpy())


def _torch_multiplier(operands: Operands, transposed: bool) -> Callable[[Tensor], Tensor]:
    matrix = _torch_csr(operands, transposed)
    return lambda columns: matrix @ columns


def _mkl_multiplier(operands: Operands, transposed: bool) -> Callable[[Tensor], Tensor]:
    from scipy.sparse import csr_matrix
    from sparse_dot_mkl import dot_product_mkl, mkl_set_num_threads

    mkl_set_num_threads(torch.get_num_threads())
    matrix = _scipy_csr(operands)
    matrix = csr_matrix(matrix.T.tocsr() if transposed else matrix)
    return lambda columns: torch.from_numpy(dot_product_mkl(matrix, columns.numpy()))


_MULTIPLIERS = {"scipy": _scipy_multiplier, "torch-csr": _torch_multiplier, "mkl": _mkl_multiplier}
