"""Pruned layers as sparse matrices of scipy and torch, and back."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..nn import Compressed
from ..nn.compressed import compressed_layers, key_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_FORMS = ("scipy", "torch_csr", "torch_coo")


@torch.no_grad()
def sparse_matrix(layer: Compressed, form: str = "scipy") -> csr_array | Tensor:
    """What a pruned layer keeps as a sparse matrix ``(C_out, C_in / groups * KH * KW)`` or ``(out, in)``.

    A row is an output channel's filter, flattened as ``weight.flatten(1)`` does, so the matrix times an image that
    ``torch.nn.functional.unfold`` has unfolded is the convolution (of one group). The matrix has memory of its own, and
    as many entries as the layer keeps, zeros among them too.

    Args:
        layer: a pruned layer. Of filter-basis layers, the coefficients: ``(C_out, C_in / groups * n_elements)``.
        form: "scipy" (a ``csr_array``; bfloat16 and float16, which scipy cannot compute with, become float32, exactly),
            "torch_csr" or "torch_coo".

    Raises:
        TypeError: a module of another kind. ValueError: another form; a frozen layer, whose weight is dense (its
            trained part is ``layer.pattern`` and ``layer.values``). ImportError: "scipy" without scipy.

    Example:
        >>> layer = fbconv.nn.SparseLinear(3, 2, mask=torch.tensor([[1, 0, 0], [0, 0, 1]]))
        >>> sparse_matrix(layer, "torch_coo").indices()
        tensor([[0, 1],
                [0, 2]])
    """
    _check("sparse_matrix", layer)
    if form not in _FORMS:
        raise ValueError(f"sparse_matrix: form must be one of {', '.join(_FORMS)}, got {form!r}")
    rows, columns = _matrix_shape(layer)
    positions, values = layer.pattern.positions, layer.values.detach().clone()
    if form == "torch_coo":
        indices = torch.stack([positions // columns, positions % columns])
        return torch.sparse_coo_tensor(indices, values, (rows, columns), is_coalesced=True, check_invariants=True)
    starts = torch.searchsorted(positions, torch.arange(rows + 1, device=positions.device) * columns)
    if form == "torch_csr":
        return torch.sparse_csr_tensor(starts, positions % columns, values, (rows, columns), check_invariants=True)
    return _scipy(starts, positions % columns, values, (rows, columns))


def sparse_matrices(model: nn.Module, form: str = "scipy") -> dict[str, csr_array | Tensor]:
    """:func:`sparse_matrix` of every compressed layer of a model, by the names that :func:`fbconv.prunable` has for
    their values; plain layers are not among them.

    Raises:
        ValueError: another form; a frozen layer, naming it. ImportError: "scipy" without scipy.

    Example:
        >>> model = fbconv.sparsify(torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3)), {"0.weight": torch.ones(4, 2, 3, 3)})
        >>> {name: matrix.shape for name, matrix in sparse_matrices(model, "torch_coo").items()}
        {'0.values': torch.Size([4, 18])}
    """
    layers = compressed_layers(model)
    for name, layer in layers.items():
        _check("sparse_matrices", layer, name)
    return {key_of(name, "values"): sparse_matrix(layer, form) for name, layer in layers.items()}


@torch.no_grad()
def load_matrix(layer: Compressed, matrix: csr_array | Tensor) -> None:
    """Gives a pruned layer the entries of a sparse matrix: its mask and its values, in place.

    Args:
        layer: pruned; ``values`` becomes a new parameter unless the mask is the old one, as in ``set_mask``.
        matrix: of the shape that :func:`sparse_matrix` gives; any sparse format of scipy or torch. Stored zeros are
            kept weights, entries of the same place are added.

    Raises:
        TypeError: a module or matrix of another kind. ValueError: another shape, a frozen layer.

    Example:
        >>> layer = fbconv.nn.SparseLinear(3, 1)
        >>> load_matrix(layer, torch.tensor([[0.0, 5.0, 0.0]]).to_sparse())
        >>> layer.values
        Parameter containing:
        tensor([5.], requires_grad=True)
    """
    _check("load_matrix", layer)
    shape = _matrix_shape(layer)
    if not (hasattr(matrix, "tocoo") or (isinstance(matrix, Tensor) and matrix.layout != torch.strided)):
        raise TypeError(f"load_matrix: matrix must be a sparse one of scipy or torch, got {type(matrix).__name__}"
                        f"{' that is dense' if isinstance(matrix, Tensor) else ''}")  # fmt: skip
    if tuple(matrix.shape) != shape:
        raise ValueError(f"load_matrix: matrix must have shape {shape}, got {tuple(matrix.shape)}")
    indices, values = _coordinates(matrix)
    device = layer.values.device
    mask = torch.zeros(shape, dtype=torch.bool, device=device)
    mask[tuple(indices.to(device))] = True
    dense = torch.zeros(shape, dtype=layer.values.dtype, device=device)
    dense[tuple(indices.to(device))] = values.to(dense)
    layer.set_mask(mask.view(layer.pattern.shape))
    layer.values.copy_(dense[mask])


def _check(function: str, layer: nn.Module, name: str = "") -> None:
    if not isinstance(layer, Compressed):
        raise TypeError(f"{function}: layer must be a compressed one, got {type(layer).__name__}")
    if layer.frozen is not None:
        raise ValueError(f"{function}: {name or 'layer'} must be pruned, got a {type(layer).__name__} with frozen "
                         "weights, whose weight is dense")  # fmt: skip


def _matrix_shape(layer: Compressed) -> tuple[int, int]:
    shape = layer.pattern.shape
    return shape[0], prod(shape[1:])


def _scipy(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> csr_array:
    try:
        from scipy.sparse import csr_array
    except ImportError as missing:
        raise ImportError("sparse_matrix: form 'scipy' needs scipy; install it with: pip install scipy") from missing
    if values.dtype in (torch.bfloat16, torch.float16):
        values = values.float()
    starts, columns = starts.to(torch.int32), columns.to(torch.int32)  # patterns have no more than 2^31 - 1 entries
    return csr_array((values.cpu().numpy(), columns.cpu().numpy(), starts.cpu().numpy()), shape=shape)


def _coordinates(matrix: csr_array | Tensor) -> tuple[Tensor, Tensor]:
    """Indices ``(2, entries)`` and values, each place once."""
    if isinstance(matrix, Tensor):
        coo = matrix.detach().to_sparse_coo().coalesce()
        return coo.indices(), coo.values()
    coo = matrix.tocoo(copy=True)
    coo.sum_duplicates()
    indices = torch.stack([torch.from_numpy(coo.row).long(), torch.from_numpy(coo.col).long()])
    return indices, torch.from_numpy(coo.data)
