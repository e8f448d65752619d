"""Argument checks of the fake kernels and of plans that run on torch's own operators.

The same errors as csrc/bind/checks.cpp, on shapes that may be symbolic.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import index
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..pattern import packed_nnz

_FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INT32_MAX = 2**31 - 1
_FREE_PADDING, _FREE_STRIDE = 512, 2**14  # csrc/bind/checks.cpp says why


def fail(op: str, message: str) -> NoReturn:
    """Raises the error that names the operator."""
    raise RuntimeError(f"{op}: {message}")


def check_int(op: str, name: str, number: Any) -> int:
    """An int of 64 bits; what merely counts as one becomes one."""
    if type(number) is not int:  # asking the protocol costs more
        try:
            number = index(number)
        except (TypeError, ValueError):
            raise TypeError(f"{op}: {name} must be an int, got {number!r}") from None
    if not -(2**63) <= number < 2**63:
        fail(op, f"{name} must be an int of 64 bits, got {number}")
    return number


def check_tensors(op: str, **tensors: Tensor) -> None:
    """Refuses everything else, None included."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{op}: {name} must be a tensor, got {type(tensor).__name__}")


def check_floating(op: str, name: str, tensor: Tensor) -> None:
    """Refuses dtypes that no kernel computes."""
    if tensor.dtype not in _FLOATING:
        fail(op, f"{name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")


def _autocasting(device: str) -> bool:
    """Whether autocast will bring dtypes into line later, inside torch's operators."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def check_like(op: str, name: str, tensor: Tensor, first_name: str, first: Tensor) -> None:
    """Same dtype and device as the operator's first tensor."""
    if tensor.dtype != first.dtype and not _autocasting(first.device.type):
        fail(op, f"{name} must have {first_name}'s dtype {first.dtype}, got {tensor.dtype}")
    if tensor.device != first.device:
        fail(op, f"{name} must be on {first_name}'s device {first.device}, got {tensor.device}")


def check_shape(op: str, name: str, tensor: Tensor, expected: Sequence[int]) -> None:
    """An exact shape."""
    if len(tensor.shape) != len(expected) or any(a != b for a, b in zip(tensor.shape, expected, strict=True)):
        fail(op, f"{name} must have shape {tuple(expected)}, got {tuple(tensor.shape)}")


def check_rank(op: str, name: str, shape: Sequence[int], rank: int, axes: str) -> None:
    """A number of dimensions."""
    if len(shape) != rank:
        fail(op, f"{name} must have {rank} dimensions {axes}, got shape {tuple(shape)}")


def _check_pair(op: str, name: str, pair: Sequence[int], least: int) -> None:
    if len(pair) != 2 or min(pair) < least or max(pair) > INT32_MAX:
        fail(op, f"{name} must be two integers from {least} to 2^31 - 1, got {tuple(pair)}")


def _check_positive(op: str, name: str, shape: Sequence[int]) -> None:
    if any(size < 1 or size > INT32_MAX for size in shape):
        fail(op, f"{name} must have sizes from 1 to 2^31 - 1, got {tuple(shape)}")


def _check_proportion(op: str, input: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> None:
    if any(p > _FREE_PADDING and p > size for p, size in zip(padding, input, strict=True)):
        fail(
            op,
            f"padding must be at most {_FREE_PADDING} or the input's size, got padding {tuple(padding)} of input "
            f"{tuple(input)}",
        )
    stepped = stride[0] * stride[1]
    if stepped > _FREE_STRIDE and stepped > input[0] * input[1]:
        fail(
            op,
            f"stride must step over at most {_FREE_STRIDE} pixels or the input's, got stride {tuple(stride)} of input "
            f"{tuple(input)}",
        )


def conv_output_shape(
    op: str,
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> list[int]:
    """The output shape of a convolution whose arguments fit together."""
    check_rank(op, "input", input_shape, 4, "(batch, channels, height, width)")
    check_rank(op, "weight_shape", weight_shape, 4, "(C_out, C_in / groups, KH, KW)")
    _check_positive(op, "weight_shape", weight_shape)
    if weight_shape[2] * weight_shape[3] > INT32_MAX:
        fail(op, f"weight_shape must have fewer than 2^31 taps, got {tuple(weight_shape)}")
    _check_pair(op, "stride", stride, 1)
    _check_pair(op, "padding", padding, 0)
    _check_pair(op, "dilation", dilation, 1)
    if groups < 1 or weight_shape[0] % groups != 0:
        fail(op, f"groups must divide the {weight_shape[0]} output channels, got {groups}")
    if input_shape[1] != weight_shape[1] * groups:
        fail(
            op,
            f"input must have {weight_shape[1] * groups} channels (weight shape {tuple(weight_shape)}, "
            f"groups {groups}), got {input_shape[1]}",
        )
    _check_proportion(op, input_shape[2:], stride, padding)
    padded = [input_shape[2 + i] + 2 * padding[i] for i in range(2)]
    spans = [dilation[i] * (weight_shape[2 + i] - 1) + 1 for i in range(2)]
    if any(input_shape[2 + i] < 1 or padded[i] < spans[i] for i in range(2)):
        fail(
            op,
            f"input must be at least as large as the kernel: padded input {tuple(padded)}, "
            f"dilated kernel {tuple(spans)}",
        )
    out = [(padded[i] - spans[i]) // stride[i] + 1 for i in range(2)]
    return [input_shape[0], weight_shape[0], *out]


def check_pattern(op: str, pattern: Tensor, first: Tensor, first_name: str, shape: Sequence[int]) -> int:
    """Entries of the packed pattern, whose words no fake kernel can read."""
    if len(shape) < 2:
        fail(op, f"the pattern's shape must have two or more dimensions, got {tuple(shape)}")
    _check_positive(op, "the pattern's shape", shape)
    if pattern.dtype != torch.int32 or pattern.dim() != 1 or not pattern.is_contiguous():
        fail(
            op,
            "pattern must be a contiguous int32 vector (SparsePattern.packed), "
            f"got {pattern.dtype} of shape {tuple(pattern.shape)}",
        )
    if pattern.device != first.device:
        fail(op, f"pattern must be on {first_name}'s device {first.device}, got {pattern.device}")
    if max(shape[0], shape[1]) * prod(shape[2:]) > INT32_MAX:
        fail(op, f"the pattern's rows and channels times taps must stay below 2^31, got {tuple(shape)}")
    nnz = packed_nnz(pattern.numel(), shape)
    if nnz < 0:
        fail(op, f"pattern has {pattern.numel()} words, which no packed pattern of shape {tuple(shape)} has")
    return nnz


def check_values(op: str, values: Tensor, nnz: int, like_name: str, like: Tensor) -> None:
    """One value for each entry of the pattern."""
    check_like(op, "values", values, like_name, like)
    if values.dim() != 1 or values.shape[0] != nnz:
        fail(
            op,
            f"values must have shape ({nnz},), one for each entry of the pattern, got {tuple(values.shape)}",
        )


def check_bias(op: str, bias: Tensor | None, out_channels: int, like: Tensor) -> None:
    """One bias for each output channel."""
    if bias is not None:
        check_like(op, "bias", bias, "input", like)
        check_shape(op, "bias", bias, [out_channels])


def check_features(op: str, name: str, shape: Sequence[int], features: int) -> None:
    """The last dimension of a linear layer's input or gradient."""
    if len(shape) == 0 or shape[-1] != features:
        fail(op, f"{name} must have {features} features in its last dimension, got shape {tuple(shape)}")


def composed_shape(op: str, basis_shape: Sequence[int], coefficient_shape: Sequence[int]) -> list[int]:
    """The weight shape that basis and coefficients compose to."""
    check_rank(op, "basis", basis_shape, 4, "(n_bases, n_elements, KH, KW)")
    check_rank(op, "coefficient_shape", coefficient_shape, 3, "(C_out, C_in / groups, n_elements)")
    if basis_shape[1] != coefficient_shape[2]:
        fail(
            op,
            f"basis must have {coefficient_shape[2]} elements (coefficients of shape {tuple(coefficient_shape)}), "
            f"got {basis_shape[1]}",
        )
    return [coefficient_shape[0], coefficient_shape[1], basis_shape[2], basis_shape[3]]


def check_basis(op: str, basis_shape: Sequence[int], in_channels: int, out_channels: int, basis_axis: str) -> None:
    """A number of bases that divides the channels they are spread over."""
    _check_positive(op, "basis", basis_shape)
    if basis_axis not in ("in", "out"):
        fail(op, f'basis_axis must be "in" or "out", got "{basis_axis}"')
    channels, side = (out_channels, "output") if basis_axis == "out" else (in_channels, "input")
    if channels % basis_shape[0] != 0:
        fail(
            op,
            f"basis must hold a number of bases that divides the {channels} {side} channels, got {basis_shape[0]}",
        )


def check_sparse_conv2d(
    input: Tensor, values: Tensor, bias: Tensor | None, pattern: Tensor, shape: Sequence[int], *geometry: Any
) -> list[int]:
    """All arguments of ``sparse_conv2d``; its output shape."""
    op = "sparse_conv2d"
    check_tensors(op, input=input, values=values, pattern=pattern)
    check_floating(op, "input", input)
    out = conv_output_shape(op, input.shape, shape, *geometry)
    check_values(op, values, check_pattern(op, pattern, input, "input", shape), "input", input)
    check_bias(op, bias, shape[0], input)
    return out


def check_sparse_linear(
    input: Tensor, values: Tensor, bias: Tensor | None, pattern: Tensor, shape: Sequence[int]
) -> list[int]:
    """All arguments of ``sparse_linear``; its output shape."""
    op = "sparse_linear"
    check_tensors(op, input=input, values=values, pattern=pattern)
    check_floating(op, "input", input)
    check_rank(op, "weight_shape", shape, 2, "(out_features, in_features)")
    check_features(op, "input", input.shape, shape[1])
    check_values(op, values, check_pattern(op, pattern, input, "input", shape), "input", input)
    check_bias(op, bias, shape[0], input)
    return [*input.shape[:-1], shape[0]]


def check_fb_conv2d(
    input: Tensor,
    basis: Tensor,
    values: Tensor,
    bias: Tensor | None,
    pattern: Tensor,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    basis_axis: str,
) -> list[int]:
    """All arguments of ``fb_conv2d`` but its order; its output shape."""
    op = "fb_conv2d"
    check_tensors(op, input=input, basis=basis, values=values, pattern=pattern)
    check_floating(op, "input", input)
    weight_shape = composed_shape(op, basis.shape, shape)
    out = conv_output_shape(op, input.shape, weight_shape, stride, padding, dilation, groups)
    check_basis(op, basis.shape, input.shape[1], shape[0], basis_axis)
    check_like(op, "basis", basis, "input", input)
    check_values(op, values, check_pattern(op, pattern, input, "input", shape), "input", input)
    check_bias(op, bias, shape[0], input)
    return out


def check_frozen_conv2d(
    input: Tensor, weight: Tensor, values: Tensor, bias: Tensor | None, pattern: Tensor, *geometry: Any
) -> list[int]:
    """All arguments of ``frozen_conv2d``; its output shape."""
    check_tensors("frozen_conv2d", input=input, weight=weight, values=values, pattern=pattern)
    out = conv_output_shape("frozen_conv2d", input.shape, weight.shape, *geometry)
    _check_frozen("frozen_conv2d", input, weight, values, bias, pattern)
    return out


def check_frozen_linear(
    input: Tensor, weight: Tensor, values: Tensor, bias: Tensor | None, pattern: Tensor
) -> list[int]:
    """All arguments of ``frozen_linear``; its output shape."""
    op = "frozen_linear"
    check_tensors(op, input=input, weight=weight, values=values, pattern=pattern)
    check_rank(op, "weight", weight.shape, 2, "(out_features, in_features)")
    check_features(op, "input", input.shape, weight.shape[1])
    _check_frozen(op, input, weight, values, bias, pattern)
    return [*input.shape[:-1], weight.shape[0]]


def _check_frozen(op: str, input: Tensor, weight: Tensor, values: Tensor, bias: Tensor | None, pattern: Tensor) -> None:
    check_floating(op, "input", input)
    check_like(op, "weight", weight, "input", input)
    check_values(op, values, check_pattern(op, pattern, input, "input", weight.shape), "input", input)
    check_bias(op, bias, weight.shape[0], input)
