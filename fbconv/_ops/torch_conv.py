"""torch's own convolution on the dense plans, kept from what oneDNN does wrong in half precision.

Seen with torch 2.13 on a CPU with AMX: where a window lies in the padding alone it reads wild memory, and with strides
over or onto maps a pixel or two wide it returns noise. Such calls are computed in float32, as the sparse kernels
compute all of half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.library import impl


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    """As ``torch.conv2d``; the geometry is its stride, padding, dilation and groups."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
    if _is_right(dtype, input.shape, weight, *geometry):
        return torch.conv2d(input, weight, bias, *geometry)
    with _as_they_are():
        bias = None if bias is None else bias.float()
        return torch.conv2d(input.float(), weight.float(), bias, *geometry).to(dtype)


def conv2d_grad_input(shape: Sequence[int], weight: Tensor, grad: Tensor, *geometry: Any) -> Tensor:
    """As ``torch.nn.grad.conv2d_input``."""
    if _is_right(grad.dtype, shape, weight, *geometry):
        return torch.nn.grad.conv2d_input(shape, weight, grad, *geometry)
    with _as_they_are():
        return torch.nn.grad.conv2d_input(shape, weight.float(), grad.float(), *geometry).to(grad.dtype)


def _as_they_are() -> AbstractContextManager:
    return torch.autocast("cpu", enabled=False)


def _is_right(dtype: torch.dtype, shape: Sequence[int], weight: Tensor, *geometry: Any) -> bool:
    """Whether torch is sure to be right, in this dtype and for inputs of this shape."""
    if dtype not in (torch.bfloat16, torch.float16) or weight.device.type != "cpu":
        return True
    stride, padding, dilation, _ = geometry
    size, reach = shape[-2:], [dilation[i] * (weight.shape[2 + i] - 1) for i in range(2)]
    windows = size[1] + 2 * padding[1] - reach[1]  # in a row, at stride 1
    if stride[1] > 1 and (size[1] <= 2 or windows <= stride[1]):
        return False
    return all(padding[i] == 0 or (dilation[i] <= size[i] and padding[i] <= reach[i]) for i in range(2))


impl("fbconv::half_conv2d", "default", torch.no_grad()(conv2d))
