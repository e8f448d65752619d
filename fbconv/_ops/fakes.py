"""Fake kernels: shapes, dtypes and errors of ``torch.ops.fbconv.*`` without data, for tracing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import checks
from .checks import (
    check_basis,
    check_features,
    check_floating,
    check_like,
    check_pattern,
    check_shape,
    check_values,
    composed_shape,
    conv_output_shape,
)

_Fake = Callable[..., Tensor]


def fake(name: str) -> Callable[[_Fake], _Fake]:
    """Registers a fake kernel for both overloads of an operator."""

    def register(kernel: _Fake) -> _Fake:
        def checked(*args: Any, **kwargs: Any) -> Tensor:
            _refuse_onnx(name)
            return kernel(*args, **kwargs)

        for overload in ("", ".kernel"):
            torch.library.register_fake(f"fbconv::{name}{overload}", checked)
        return kernel

    return register


def _refuse_onnx(name: str) -> None:
    if "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export():
        raise RuntimeError(
            f"{name}: ONNX has no sparse layers; export fbconv.densify(model), or call fbconv.onnx.export(model, ...), "
            "which does that"
        )


def _new_map(like: Tensor, shape: Sequence[int]) -> Tensor:
    """An output map in its input's memory format, as the kernels allocate it."""
    channels_last = like.shape[1] > 1 and _is_channels_last(like)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _is_channels_last(tensor: Tensor) -> bool:
    _, channels, _, width = tensor.shape
    return tensor.stride()[1:] == (1, channels * width, channels)


@fake("sparse_conv2d")
def _(input, values, bias, pattern, weight_shape, stride, padding, dilation, groups):
    geometry = (stride, padding, dilation, groups)
    return _new_map(input, checks.check_sparse_conv2d(input, values, bias, pattern, weight_shape, *geometry))


@fake("sparse_conv2d_grad_input")
def _(grad, values, pattern, input_shape, weight_shape, stride, padding, dilation, groups):
    op = "sparse_conv2d_grad_input"
    check_floating(op, "grad", grad)
    check_shape(op, "grad", grad, conv_output_shape(op, input_shape, weight_shape, stride, padding, dilation, groups))
    check_values(op, values, check_pattern(op, pattern, grad, "grad", weight_shape), "grad", grad)
    return _new_map(grad, input_shape)


@fake("sparse_conv2d_grad_values")
def _(grad, input, pattern, weight_shape, stride, padding, dilation, groups):
    op = "sparse_conv2d_grad_values"
    check_floating(op, "grad", grad)
    check_shape(op, "grad", grad, conv_output_shape(op, input.shape, weight_shape, stride, padding, dilation, groups))
    check_like(op, "input", input, "grad", grad)
    return grad.new_empty(check_pattern(op, pattern, grad, "grad", weight_shape))


@fake("sparse_linear")
def _(input, values, bias, pattern, weight_shape):
    return input.new_empty(checks.check_sparse_linear(input, values, bias, pattern, weight_shape))


@fake("sparse_linear_grad_input")
def _(grad, values, pattern, weight_shape):
    op = "sparse_linear_grad_input"
    check_floating(op, "grad", grad)
    checks.check_rank(op, "weight_shape", weight_shape, 2, "(out_features, in_features)")
    check_features(op, "grad", grad.shape, weight_shape[0])
    check_values(op, values, check_pattern(op, pattern, grad, "grad", weight_shape), "grad", grad)
    return grad.new_empty([*grad.shape[:-1], weight_shape[1]])


@fake("sparse_linear_grad_values")
def _(grad, input, pattern, weight_shape):
    op = "sparse_linear_grad_values"
    check_floating(op, "grad", grad)
    checks.check_rank(op, "weight_shape", weight_shape, 2, "(out_features, in_features)")
    check_like(op, "input", input, "grad", grad)
    check_features(op, "grad", grad.shape, weight_shape[0])
    check_shape(op, "input", input, [*grad.shape[:-1], weight_shape[1]])
    return grad.new_empty(check_pattern(op, pattern, grad, "grad", weight_shape))


def _check_fb(op, first, first_name, input_shape, basis_shape, pattern, coefficient_shape, geometry, basis_axis):
    """The output shape and the pattern's entries of a filter-basis convolution."""
    check_floating(op, first_name, first)
    weight_shape = composed_shape(op, basis_shape, coefficient_shape)
    shape = conv_output_shape(op, input_shape, weight_shape, *geometry)
    check_basis(op, basis_shape, input_shape[1], weight_shape[0], basis_axis)
    return shape, check_pattern(op, pattern, first, first_name, coefficient_shape)


@fake("fb_conv2d")
def _(input, basis, values, bias, pattern, coefficient_shape, stride, padding, dilation, groups, basis_axis, order):
    geometry = (stride, padding, dilation, groups)
    shape = checks.check_fb_conv2d(input, basis, values, bias, pattern, coefficient_shape, *geometry, basis_axis)
    if order not in ("basis_first", "mix_first"):
        checks.fail("fb_conv2d", f'order must be "basis_first" or "mix_first", got "{order}"')
    return _new_map(input, shape)


@fake("fb_conv2d_grad_input")
def _(grad, basis, values, pattern, input_shape, coefficient_shape, stride, padding, dilation, groups, basis_axis):
    op, geometry = "fb_conv2d_grad_input", (stride, padding, dilation, groups)
    shape, nnz = _check_fb(op, grad, "grad", input_shape, basis.shape, pattern, coefficient_shape, geometry, basis_axis)
    check_like(op, "basis", basis, "grad", grad)
    check_shape(op, "grad", grad, shape)
    check_values(op, values, nnz, "grad", grad)
    return _new_map(grad, input_shape)


@fake("fb_conv2d_grad_basis")
def _(grad, input, values, pattern, basis_shape, coefficient_shape, stride, padding, dilation, groups, basis_axis):
    op, geometry = "fb_conv2d_grad_basis", (stride, padding, dilation, groups)
    shape, nnz = _check_fb(op, grad, "grad", input.shape, basis_shape, pattern, coefficient_shape, geometry, basis_axis)
    check_shape(op, "grad", grad, shape)
    check_like(op, "input", input, "grad", grad)
    check_values(op, values, nnz, "grad", grad)
    return grad.new_empty(basis_shape)


@fake("fb_conv2d_grad_values")
def _(grad, input, basis, pattern, coefficient_shape, stride, padding, dilation, groups, basis_axis):
    op, geometry = "fb_conv2d_grad_values", (stride, padding, dilation, groups)
    shape, nnz = _check_fb(op, grad, "grad", input.shape, basis.shape, pattern, coefficient_shape, geometry, basis_axis)
    check_like(op, "basis", basis, "grad", grad)
    check_shape(op, "grad", grad, shape)
    check_like(op, "input", input, "grad", grad)
    return grad.new_empty(nnz)


@fake("embed")
def _(values, frozen, pattern, shape):
    op = "embed"
    check_floating(op, "values", values)
    check_values(op, values, check_pattern(op, pattern, values, "values", shape), "values", values)
    if frozen is not None:
        check_like(op, "frozen", frozen, "values", values)
        check_shape(op, "frozen", frozen, shape)
    return values.new_empty(shape)


@fake("gather")
def _(dense, pattern):
    op = "gather"
    check_floating(op, "dense", dense)
    return dense.new_empty(check_pattern(op, pattern, dense, "dense", dense.shape))
