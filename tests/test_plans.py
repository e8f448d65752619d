"""What the CPU kernels keep between calls, and every way in which they lay out a tile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fbconv
import fbconv.functional as F
from fbconv import _C


def operands(shape, kernel, density, generator, groups=1, dtype=torch.float64):
    input = torch.randn(shape, generator=generator, dtype=dtype)
    weight_shape = (2 * groups, shape[1] // groups, kernel, kernel)
    mask = torch.rand(weight_shape, generator=generator) < density
    pattern = fbconv.SparsePattern.from_mask(mask)
    return input, torch.randn(pattern.nnz, generator=generator, dtype=dtype), pattern


def dense(input: Tensor, values: Tensor, pattern, **geometry) -> Tensor:
    return torch.conv2d(input, pattern.scatter(values), None, **geometry)


# The name says which lanes the shape is meant for; what counts is that all agree with the dense convolution.
SHAPES = {
    "one small map": ((1, 32, 4, 4), 3, 0.3),
    "a few small maps": ((5, 16, 5, 5), 3, 0.3),
    "a few maps of whole vectors": ((6, 16, 4, 4), 3, 0.3),
    "images": ((16, 16, 4, 4), 3, 0.3),
    "images and a rest": ((21, 16, 6, 5), 3, 0.3),
    "wide map": ((1, 16, 9, 33), 3, 0.4),
    "wide map of whole vectors": ((2, 16, 12, 32), 3, 0.4),
    "wide and very sparse": ((1, 32, 20, 64), 3, 0.01),
    "pointwise": ((2, 16, 8, 16), 1, 0.3),
    "large kernel": ((1, 4, 11, 19), 7, 0.2),
}
GEOMETRIES = ({"padding": 1}, {"padding": 0}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2})


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_all_lanes_compute_the_same(name, geometry, memory_format, generator):
    shape, kernel, density = SHAPES[name]
    span = geometry.get("dilation", 1) * (kernel - 1) - 2 * geometry["padding"]
    if min(shape[2:]) <= span:
        pytest.skip("the kernel does not fit the map")
    input, values, pattern = operands(shape, kernel, density, generator)
    input = input.contiguous(memory_format=memory_format)
    tensors = [input.requires_grad_(), values.requires_grad_()]
    ours = F.sparse_conv2d(*tensors, pattern, backend="sparse", **geometry)
    expected = dense(*tensors, pattern, **geometry)
    torch.testing.assert_close(ours, expected)
    upstream = torch.randn(expected.shape, generator=generator, dtype=expected.dtype)
    upstream = upstream.contiguous(memory_format=memory_format)
    for got, wanted in zip(
        torch.autograd.grad(ours, tensors, upstream), torch.autograd.grad(expected, tensors, upstream), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("batch", [1, 2, 17, 40])
def test_linear_batches_fill_lanes(batch, generator):
    input = torch.randn(batch, 50, generator=generator, dtype=torch.float64)
    pattern = fbconv.SparsePattern.from_mask(torch.rand(30, 50, generator=generator) < 0.2)
    values = torch.randn(pattern.nnz, generator=generator, dtype=torch.float64)
    ours = F.sparse_linear(input, values, pattern, backend="sparse")
    torch.testing.assert_close(ours, input @ pattern.scatter(values).T)


def test_a_pattern_changed_in_place_is_another_pattern(generator):
    input, values, pattern = operands((1, 8, 6, 6), 3, 0.3, generator)
    F.sparse_conv2d(input, values, pattern, padding=1, backend="sparse")
    other = fbconv.SparsePattern.from_mask(pattern.mask().flip(1))
    pattern.packed.copy_(other.packed)
    ours = F.sparse_conv2d(input, values, pattern, padding=1, backend="sparse")
    torch.testing.assert_close(ours, dense(input, values, other, padding=1))


@pytest.mark.parametrize("word", [0, 1, 9, -1])
def test_a_pattern_damaged_after_a_call_is_refused(word, generator):
    input, values, pattern = operands((1, 8, 6, 6), 3, 0.3, generator)
    input.requires_grad_()
    F.sparse_conv2d(input, values, pattern, padding=1, backend="sparse").sum().backward()
    pattern.packed[word] = 2**30
    with pytest.raises(RuntimeError, match="pattern is damaged"):
        F.sparse_conv2d(input, values, pattern, padding=1, backend="sparse").sum().backward()


def test_one_pattern_serves_many_geometries(generator):
    input, values, pattern = operands((2, 8, 12, 17), 3, 0.3, generator)
    for geometry in GEOMETRIES * 2:
        for batch in (input, input[:1], input[..., :5]):
            ours = F.sparse_conv2d(batch, values, pattern, backend="sparse", **geometry)
            torch.testing.assert_close(ours, dense(batch, values, pattern, **geometry))


def test_many_patterns_come_and_go(generator):
    input = torch.randn(1, 4, 5, 5, generator=generator, dtype=torch.float64)
    for _ in range(1100):  # more than are kept
        pattern = fbconv.SparsePattern.from_mask(torch.rand(3, 4, 3, 3, generator=generator) < 0.3)
        values = torch.randn(pattern.nnz, generator=generator, dtype=torch.float64)
        ours = F.sparse_conv2d(input, values, pattern, backend="sparse")
        torch.testing.assert_close(ours, dense(input, values, pattern))


@pytest.mark.parametrize("stride", [1, 2])
def test_effort_counts_vectors_and_refuses_nonsense(stride):
    sizes = {"batch": 1, "channels": (8, 8), "in_size": (16, 16), "kernel": (3, 3), "padding": (1, 1), "groups": 1}
    steps = {"stride": (stride, stride), "dilation": (1, 1)}
    few, many = (_C.effort(**sizes, **steps, entries=entries) for entries in (10, 20))
    assert few[0] == many[0] in ("compiled", "packed")
    assert stride == 1 or few[0] == "packed"
    assert many[1] == 2 * few[1] > 0
    assert all(part >= 0 for part in few[1:])
    with pytest.raises(ValueError, match="sizes must be 1 or more"):
        _C.effort(**sizes | {"batch": 0}, **steps, entries=1)
    with pytest.raises(ValueError, match="sizes must be 1 or more"):
        _C.effort(**sizes | {"kernel": (21, 3)}, **steps, entries=1)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_infinities_do_not_leak_into_other_lanes(batch):
    input = torch.ones(batch, 1, 4, 20)
    input[..., 19] = torch.inf  # of the three taps only the last reads it
    pattern = fbconv.SparsePattern.from_mask(torch.ones(1, 1, 1, 3, dtype=torch.bool))
    values = torch.ones(3, requires_grad=True)
    output = F.sparse_conv2d(input, values, pattern, backend="sparse")
    assert output[..., :17].isfinite().all()
    assert output[..., 17].isinf().all()
    (gradient,) = torch.autograd.grad(output.sum(), values)
    assert gradient.isfinite().tolist() == [True, True, False]
