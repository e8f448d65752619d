"""Sizes beyond 2^31 and 2^63 are refused, or right, without the gigabytes that they stand for.

Expanded tensors have any shape in four bytes, and the process may take no more than a gigabyte beyond what it has.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from bounded_memory import limited
from raw_ops import op
from test_errors import ERRORS
from torch import Tensor

from fbconv import SparsePattern
from fbconv import functional as F

GIGABYTE = 1 << 30
MOST = 2**31 - 1
SIZES = [MOST, 2**31, 2**32, 2**40, 2**62, 2**63 - 1]


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    with limited(GIGABYTE):
        yield


def full(*shape: int) -> SparsePattern:
    return SparsePattern.from_mask(torch.ones(shape, dtype=torch.bool))


def expanded(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(1, dtype=dtype).expand(shape)


def refused(match: str, call: Callable[..., Any], *args: Any, **options: Any) -> None:
    with pytest.raises(ERRORS, match=match):
        call(*args, **options)


# Right: huge inputs of which a kernel reads little.


@pytest.mark.parametrize(
    ("shape", "kernel", "stride"),
    [
        ((1, 1, 65536, 65536), (1, 1), (32768, 32768)),
        ((1, 1, 65537, 65539), (2, 2), (32768, 32768)),
        ((1, 2, 1, 2**30), (1, 3), (1, 2**29)),
        ((1, 2, 2**30, 1), (3, 1), (2**29, 1)),
        ((3, 1, 1, MOST), (1, 1), (1, 2**30)),
    ],
)
def test_a_few_outputs_of_a_huge_input(shape, kernel, stride):
    pattern = full(1, shape[1], *kernel)
    terms = float(pattern.nnz)
    output = F.sparse_conv2d(expanded(*shape), torch.ones(pattern.nnz), pattern, stride=stride, backend="sparse")
    assert 2 <= output.numel() <= 16
    assert torch.equal(output, torch.full_like(output, terms))
    args = (list(pattern.shape), list(stride), [0, 0], [1, 1], 1)
    gradient = op("sparse_conv2d_grad_values")(torch.ones_like(output), expanded(*shape), pattern.packed, *args)
    assert torch.equal(gradient, torch.full_like(gradient, float(output.numel())))


def test_one_image_of_a_batch_beyond_32_bits():
    images = expanded(2**40, 1, 4, 4)[2**39 : 2**39 + 2]
    pattern = full(1, 1, 3, 3)
    assert F.sparse_conv2d(images, torch.ones(9), pattern, backend="sparse").flatten().tolist() == [9.0] * 8


@pytest.mark.parametrize("backend", ["sparse", "auto"])
def test_nothing_of_huge_things_is_nothing(backend):
    pattern, value = full(1, 1, 1, 1), torch.ones(1)
    assert F.sparse_conv2d(expanded(0, 1, 2**40, 2**20), value, pattern, backend=backend).shape == (0, 1, 2**40, 2**20)
    assert F.sparse_linear(expanded(0, 2**40, 1), value, full(1, 1), backend=backend).shape == (0, 2**40, 1)


# Refused: outputs, copies and scratch that would be huge.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_outputs_that_memory_cannot_hold(dtype):
    pattern, value = full(1, 1, 1, 1), torch.ones(1, dtype=dtype)
    huge = expanded(1, 1, 65536, 65536, dtype=dtype)
    refused(r"sparse_conv2d: no memory for a tensor of shape \(1, 1, 65536, 65536\)",
            F.sparse_conv2d, huge, value, pattern, backend="sparse")  # fmt: skip
    refused("sparse_linear: no memory for a tensor of shape", F.sparse_linear, expanded(2**31, 1, dtype=dtype), value,
            full(1, 1), backend="sparse")  # fmt: skip
    refused("sparse_linear: no memory for a tensor of shape", F.sparse_linear, expanded(2, 2**31, 1, dtype=dtype),
            value, full(1, 1), backend="sparse")  # fmt: skip
    basis = torch.ones(1, 1, 1, dtype=dtype)
    refused("fb_conv2d: no memory for", F.fb_conv2d, huge, basis, value, full(1, 1, 1), backend="basis_first")


def test_half_precision_is_not_widened_beyond_memory():
    huge = expanded(1, 1, 65536, 65536, dtype=torch.bfloat16)
    refused(r"sparse_conv2d: no memory for a tensor of shape \(1, 1, 65536, 65536\)", F.sparse_conv2d, huge,
            torch.ones(1).bfloat16(), full(1, 1, 1, 1), stride=32768, backend="sparse")  # fmt: skip


def test_an_output_beyond_63_bits():
    with pytest.raises(ERRORS, match="overflow|sparse_linear"):
        F.sparse_linear(expanded(2**40, 2**40, 1), torch.ones(1), full(1, 1), backend="sparse")


@pytest.mark.parametrize("name", ["sparse_conv2d", "fb_conv2d", "frozen_conv2d"])
@pytest.mark.parametrize("option", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("number", [2**20, MOST, 2**31, 2**32, 2**63, 2**70])
def test_options_of_any_size(name, option, number):
    """Strides, paddings and dilations that dwarf the map, which scratch grows with."""
    pattern = full(2, 2, 3) if name == "fb_conv2d" else full(2, 2, 2, 2)
    values = torch.ones(pattern.nnz)
    weight = {"fb_conv2d": (torch.ones(3, 2, 2),), "frozen_conv2d": (torch.ones(2, 2, 2, 2),)}.get(name, ())
    other = "kernel" if option == "dilation" and number <= MOST else option
    for pair in ((number, number), (1, number), number):
        refused(f"{name}: .*{other}", getattr(F, name), torch.ones(1, 2, 4, 4), *weight, values, pattern,
                **{option: pair})  # fmt: skip


def test_strides_with_the_padding_for_two_places():
    """Was a segmentation fault: 2^25 phases of an input gradient for three pixels."""
    args = ([1, 1, 1, 2], [MOST, 2**30 - 1], [0, 2**25], [2, 1024], 1)
    refused("sparse_conv2d_grad_input: padding", op("sparse_conv2d_grad_input"), torch.ones(1, 1, 1, 1), torch.ones(2),
            full(1, 1, 1, 2).packed, [1, 1, 3, 1], *args)  # fmt: skip


@pytest.mark.parametrize("number", SIZES)
def test_shapes_of_any_size(number):
    """What only an argument claims: every position of every shape of the operators."""
    grad, values = torch.ones(1, 1, 4, 4), torch.ones(1)
    conv = ([1, 1], [0, 0], [1, 1], 1)
    packed, mixing, ones = full(1, 1, 1, 1).packed, full(1, 1, 1).packed, torch.ones(1, 1, 1, 1)
    for place in range(4):
        shape = [number if i == place else 1 for i in range(4)]
        map_shape = [number if i == place else size for i, size in enumerate((1, 1, 4, 4))]
        refused("sparse_conv2d: ", op("sparse_conv2d"), grad, values, None, packed, shape, *conv)
        refused("embed: ", op("embed"), values, None, packed, shape)
        refused("grad_input: ", op("sparse_conv2d_grad_input"), grad, values, packed, map_shape, [1] * 4, *conv)
        args = (grad, ones, values, mixing, map_shape, [1, 1, 1], *conv, "in")
        refused("grad_input: ", op("fb_conv2d_grad_input"), *args)
        refused("grad_basis: ", op("fb_conv2d_grad_basis"), grad, grad, values, mixing, shape, [1, 1, 1], *conv, "in")
        refused("SparsePattern: ", SparsePattern.from_packed, packed, shape)
    refused("sparse_linear: ", op("sparse_linear"), torch.ones(2, 1), values, None, packed, [number, 1])
    refused("groups", op("sparse_conv2d"), grad, values, None, packed, [1] * 4, *conv[:3], number)
    refused("groups", F.compose_filters, torch.ones(1, 1, 1), ones, groups=number)


@pytest.mark.parametrize("shape", [(65536, 65536), (2**40, 2**20), (1, MOST, 2), (2, 1, 65536, 65536)])
def test_masks_beyond_32_bits(shape):
    refused("SparsePattern: a mask may have up to 2", SparsePattern.from_mask, expanded(*shape, dtype=torch.bool))


def test_bases_beyond_32_bits():
    pattern, value, image = full(1, 1, 1), torch.ones(1), torch.ones(1, 1, 4, 4)
    for shape in ((1, 1, 65536, 65536), (1, 2**31, 1, 1), (2**31, 1, 1, 1), (1, 1, 1, 2**40)):
        for order in ("basis_first", "mix_first", "composed"):
            refused("fb_conv2d: ", F.fb_conv2d, image, expanded(*shape), value, pattern, padding=300, backend=order)


def test_shapes_without_data_are_refused_alike():
    """What a tracer sees of them."""
    image = torch.empty(1, 1, 4, 4, device="meta")
    pattern = full(1, 1, 1, 1).to("meta")
    values = torch.empty(1, device="meta")
    for option in ({"stride": MOST}, {"padding": MOST}, {"dilation": 2**31}):
        refused(f"sparse_conv2d: .*{next(iter(option))}", F.sparse_conv2d, image, values, pattern, backend="sparse",
                **option)  # fmt: skip
