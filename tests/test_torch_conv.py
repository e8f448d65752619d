"""Half precision where oneDNN, left to itself, ends the process or returns noise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fbconv.nn as fnn

# size, kernel, padding, dilation, stride; with each, torch 2.13 crashes or is wrong in a half precision on AMX.
GEOMETRIES = {
    "taps step over the map": ((3, 40), (2, 2), (2, 0), (5, 1), (1, 1)),
    "windows beside a column": ((7, 1), (2, 1), (9, 10), (5, 6), (2, 3)),
    "both": ((5, 1), (2, 1), (8, 1), (8, 5), (3, 2)),
    "1x1 windows in the padding": ((2, 1), (1, 1), (11, 11), (12, 5), (1, 2)),
    "one column out": ((6, 5), (5, 4), (4, 3), (2, 3), (1, 3)),
    "one column in": ((8, 1), (5, 4), (0, 3), (1, 1), (1, 2)),
}
KINDS = {"sparse": fnn.SparseConv2d, "frozen": fnn.FrozenConv2d, "basis": fnn.FBConv2d}


@pytest.fixture(params=GEOMETRIES)
def dense(request) -> nn.Conv2d:
    _, kernel, padding, dilation, stride = GEOMETRIES[request.param]
    conv = nn.Conv2d(2, 4, kernel, stride, padding, dilation)
    conv.size = GEOMETRIES[request.param][0]
    return conv


@pytest.fixture(params=KINDS)
def layer(request, dense) -> nn.Module:
    if request.param == "basis" and dense.kernel_size == (1, 1):
        pytest.skip("1x1 convolutions have no basis")
    return KINDS[request.param].from_dense(dense)


@pytest.mark.parametrize("backend", ["dense", "sparse"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_forward_and_backward_are_those_of_float32(layer, dense, generator, dtype, backend):
    layer.backend = backend
    x = torch.randn(2, 2, *dense.size, generator=generator).to(dtype)
    one, other = x.clone().requires_grad_(), x.double().requires_grad_()
    layer.to(dtype)
    exact = layer.to_dense().double()
    output, expected = layer(one), exact(other)
    near = {"rtol": 0.02, "atol": 0.05}
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, **near)
    output.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(one.grad.double(), other.grad, **near)
    with torch.no_grad():
        torch.testing.assert_close(layer(x).double(), expected, **near)


def test_autocast(layer, dense, generator):
    layer.backend = "dense"
    x = torch.randn(2, 2, *dense.size, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    torch.testing.assert_close(output.float(), layer.to_dense()(x), rtol=0.02, atol=0.05)


def test_compiled(layer, dense, generator):
    torch._dynamo.reset()
    layer.backend = "dense"
    x = torch.randn(2, 2, *dense.size, generator=generator).bfloat16()
    compiled = torch.compile(layer.bfloat16(), backend="aot_eager", fullgraph=True)
    for mode in (torch.enable_grad(), torch.no_grad()):
        with mode:
            torch.testing.assert_close(compiled(x), layer(x), rtol=0.02, atol=0.05)
