"""Sparse matrices of layers: exact values and positions, and layers made of matrices."""

import sys

import numpy as np
import pytest
import scipy.sparse
import torch
from interop_cases import net
from torch import nn

import fbconv
import fbconv.nn as fnn
from fbconv import interop

FORMS = ("scipy", "torch_csr", "torch_coo")
LAYERS = {
    "conv": lambda density: pruned(nn.Conv2d(4, 6, (3, 2), groups=2), density),
    "pointwise": lambda density: pruned(nn.Conv2d(4, 6, 1), density),
    "linear": lambda density: pruned(nn.Linear(7, 5), density),
    "filter basis": lambda density: fnn.FBConv2d.from_dense(nn.Conv2d(4, 6, 3), mask=mask_of((6, 4, 9), density)),
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")


def mask_of(shape, density):
    return torch.rand(shape, generator=torch.Generator().manual_seed(4)) < density


def pruned(layer, density):
    return fbconv.sparsify(layer, {"weight": mask_of(layer.weight.shape, density)})


def entries(matrix):
    """Dense content, rows, columns and values in the order in which they are stored."""
    if isinstance(matrix, torch.Tensor):
        coo = matrix.to_sparse_coo()
        assert coo.is_coalesced()
        return matrix.to_dense(), *coo.indices(), coo.values()
    coo = matrix.tocoo()
    rows, columns = (torch.from_numpy(part).long() for part in (coo.row, coo.col))
    return torch.from_numpy(matrix.toarray()), rows, columns, torch.from_numpy(coo.data)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("density", [0, 0.3, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_matrix_is_what_the_layer_keeps(kind, form, density, dtype):
    layer = LAYERS[kind](density).to(dtype)
    if layer.values.numel():
        with torch.no_grad():
            layer.values[0] = 0  # kept all the same
    dense, rows, columns, values = entries(interop.sparse_matrix(layer, form))
    halves = (torch.bfloat16, torch.float16)
    expected = torch.float32 if form == "scipy" and dtype in halves else dtype
    assert dense.dtype == values.dtype == expected
    assert torch.equal(dense, layer.dense_values().flatten(1).to(expected))
    assert torch.equal(values, layer.values.to(expected))
    assert torch.equal(torch.stack([rows, columns], 1), layer.pattern.mask().flatten(1).nonzero())


def test_the_scipy_matrix_is_canonical_csr():
    matrix = interop.sparse_matrix(LAYERS["conv"](0.3))
    assert isinstance(matrix, scipy.sparse.csr_array)
    assert matrix.shape == (6, 12)
    assert matrix.has_canonical_format
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32


def test_the_matrix_times_columns_is_the_layer():
    layer = fbconv.sparsify(net()[0], {"weight": mask_of((4, 3, 3, 3), 0.4)})
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    columns = nn.functional.unfold(x, 3, padding=1)[0]
    expected = (layer(x) - layer.bias[:, None, None]).detach().flatten(2)[0]
    for form in FORMS[1:]:
        torch.testing.assert_close(interop.sparse_matrix(layer, form) @ columns, expected)
    torch.testing.assert_close(torch.from_numpy(interop.sparse_matrix(layer) @ columns.numpy()), expected)


@pytest.mark.parametrize("form", FORMS)
def test_matrices_have_memory_of_their_own(form):
    layer = LAYERS["linear"](0.5)
    before = layer.values.detach().clone()
    matrix = interop.sparse_matrix(layer, form)
    with torch.no_grad():
        layer.values.zero_()
    assert torch.equal(entries(matrix)[3], before)


def test_matrices_of_a_model():
    model = net()
    model = fbconv.sparsify(model, {"2.weight": mask_of((6, 2, 3, 3), 0.5), "5.weight": mask_of((5, 96), -1)})
    matrices = interop.sparse_matrices(model, "torch_coo")
    assert {name: (tuple(m.shape), m._nnz()) for name, m in matrices.items()} == {
        "2.values": ((6, 18), model[2].values.numel()),
        "5.values": ((5, 96), 0),
    }
    assert torch.equal(matrices["2.values"].to_dense(), model[2].weight.flatten(1))
    assert interop.sparse_matrices(net()) == {}
    assert interop.sparse_matrices(model)["2.values"].nnz == model[2].values.numel()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("density", [0, 0.3])
@pytest.mark.parametrize("form", [*FORMS, "csc", "lil"])
def test_a_matrix_gives_its_entries_to_a_layer(kind, density, form):
    source, layer = LAYERS[kind](density), LAYERS[kind](0.7)
    if source.values.numel() and form != "lil":  # which stores no zeros
        with torch.no_grad():
            source.values[0] = 0
    matrix = interop.sparse_matrix(source, form if form in FORMS else "scipy")
    interop.load_matrix(layer, matrix if form in FORMS else matrix.asformat(form))
    assert torch.equal(layer.pattern.packed, source.pattern.packed)
    assert torch.equal(layer.values, source.values)
    assert layer.values.requires_grad


def test_entries_in_any_order_add_up():
    layer = fnn.SparseLinear(3, 2).double()
    rows, columns, values = [1, 0, 1, 1], [2, 1, 0, 2], [1.0, 2.0, 3.0, 4.0]
    expected = torch.tensor([[0, 2, 0], [3, 0, 5]], dtype=torch.float64)
    for matrix in (
        torch.sparse_coo_tensor([rows, columns], values, (2, 3), check_invariants=True),
        scipy.sparse.coo_matrix((values, (rows, columns)), shape=(2, 3)),
        scipy.sparse.csr_array((np.array([2, 1, 3, 4]), np.array([1, 2, 0, 2]), np.array([0, 1, 4])), shape=(2, 3)),
    ):
        layer.set_mask(torch.ones(2, 3))
        interop.load_matrix(layer, matrix)
        assert torch.equal(layer.weight, expected)
        assert layer.values.numel() == 3


def test_an_equal_mask_keeps_the_parameter():
    layer = LAYERS["linear"](0.5)
    matrix, values = interop.sparse_matrix(layer) * 2, layer.values
    before = values.detach().clone()
    interop.load_matrix(layer, matrix)
    assert layer.values is values
    assert torch.equal(values, before * 2)


def test_frozen_weights_are_no_sparse_matrix():
    mask = mask_of((7, 5), 0.5)
    model = fbconv.freeze(nn.Sequential(nn.Linear(5, 7)), {"0.weight": mask})
    message = "must be pruned, got a FrozenLinear with frozen weights, whose weight is dense"
    with pytest.raises(ValueError, match=f"sparse_matrix: layer {message}"):
        interop.sparse_matrix(model[0])
    with pytest.raises(ValueError, match=f"sparse_matrices: 0 {message}"):
        interop.sparse_matrices(model)
    with pytest.raises(ValueError, match=f"load_matrix: layer {message}"):
        interop.load_matrix(model[0], torch.ones(7, 5).to_sparse())
    assert torch.equal(model[0].pattern.mask(), mask)


def test_bad_arguments():
    layer = LAYERS["linear"](0.5)
    with pytest.raises(ValueError, match="form must be one of scipy, torch_csr, torch_coo, got 'csr'"):
        interop.sparse_matrix(layer, "csr")
    with pytest.raises(TypeError, match="sparse_matrix: layer must be a compressed one, got Linear"):
        interop.sparse_matrix(nn.Linear(2, 1))
    with pytest.raises(TypeError, match="matrix must be a sparse one of scipy or torch, got Tensor that is dense"):
        interop.load_matrix(layer, torch.ones(5, 7))
    with pytest.raises(TypeError, match="matrix must be a sparse one of scipy or torch, got ndarray"):
        interop.load_matrix(layer, np.ones((5, 7)))
    with pytest.raises(ValueError, match=r"matrix must have shape \(5, 7\), got \(7, 5\)"):
        interop.load_matrix(layer, torch.ones(7, 5).to_sparse())


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    layer = LAYERS["linear"](0.5)
    with pytest.raises(ImportError, match="form 'scipy' needs scipy"):
        interop.sparse_matrix(layer)
    assert interop.sparse_matrix(layer, "torch_coo")._nnz() == layer.values.numel()
