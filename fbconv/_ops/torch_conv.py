"""torch's own convolution on the dense plans, kept from what oneDNN does wrong in half precision.

With torch 2.13, on CPUs with AMX or AVX512-FP16, a window that lies in the padding alone makes it read wild memory (of
12,320 random calls all 88 that ended the process had such a window), and strides along maps, or to maps, a pixel or two
wide make it return noise (758 of 36,862 calls in range). Those calls are computed in float32, as the sparse kernels
compute all of half precision; csrc/bind/dense_ops.cpp does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

_HALF = (torch.bfloat16, torch.float16)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """As ``torch.conv2d``."""
    geometry = (stride, padding, dilation, groups)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
    if dtype not in _HALF or _is_safe(input.shape, weight, *geometry):
        return torch.conv2d(input, weight, bias, *geometry)
    with _as_they_are():
        bias = None if bias is None else bias.float()
        return torch.conv2d(input.float(), weight.float(), bias, *geometry).to(dtype)


def conv2d_grad_input(
    shape: Sequence[int],
    weight: Tensor,
    grad: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """As ``torch.nn.grad.conv2d_input``."""
    geometry = (stride, padding, dilation, groups)
    if grad.dtype not in _HALF or _is_safe(shape, weight, *geometry):
        return torch.nn.grad.conv2d_input(shape, weight, grad, *geometry)
    with _as_they_are():
        return torch.nn.grad.conv2d_input(shape, weight.float(), grad.float(), *geometry).to(grad.dtype)


def _as_they_are() -> AbstractContextManager:
    return torch.autocast("cpu", enabled=False)


def _is_safe(
    shape: Sequence[int],
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> bool:
    if weight.device.type != "cpu":
        return True
    size, reach = shape[-2:], [dilation[i] * (weight.shape[2 + i] - 1) for i in range(2)]
    windows = size[1] + 2 * padding[1] - reach[1]  # at stride 1
    if stride[1] > 1 and (size[1] <= 2 or windows <= stride[1]):
        return False
    return all(padding[i] == 0 or (dilation[i] <= size[i] and padding[i] <= reach[i]) for i in range(2))
