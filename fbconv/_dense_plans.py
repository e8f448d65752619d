"""The dense plans: torch's own convolution and linear layer, with the dense weight that a pattern's values stand for.

A layer that is only used keeps its dense weight between calls (``_dense_weights``), which a tracer, seeing how the
weight is made, would make anew in each. So a trace without gradients gets the whole layer as one operator, which keeps
the weight as an eager call does. A trace with gradients sees the parts: there, each call has new values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.library import define, impl

from ._composing import compose_filters
from ._dense_weights import dense_weight
from ._ops import autograd, checks, ops
from ._ops.call import differentiable
from ._ops.fakes import fake
from .pattern import SparsePattern

_CONTIGUOUS = torch.contiguous_format


def dense_conv2d(
    input: Tensor,
    values: Tensor,
    pattern: SparsePattern,
    bias: Tensor | None,
    *geometry: Any,
    frozen: Tensor | None = None,
    basis: Tensor | None = None,
    basis_axis: str = "in",
) -> Tensor:
    """torch's convolution with ``values`` at the pattern, over zeros or ``frozen``, or composed with ``basis``."""
    if _one_operator(input, values, bias, basis):
        fixed = (pattern.packed, pattern.shape, *geometry, basis_axis)
        return ops.dense_conv2d.default(input, values, frozen, basis, bias, *fixed)
    layout = layout_of_weight(input, frozen)
    if basis is None:
        weight = scattered(values, pattern, frozen, layout)
    else:
        weight = _composed(values, pattern, basis, geometry[-1], basis_axis, layout)
    return torch.conv2d(input, weight, bias, *geometry)


def dense_linear(
    input: Tensor, values: Tensor, pattern: SparsePattern, bias: Tensor | None, frozen: Tensor | None = None
) -> Tensor:
    """torch's linear layer with ``values`` at the pattern, over zeros or ``frozen``."""
    if _one_operator(input, values, bias):
        return ops.dense_linear.default(input, values, frozen, bias, pattern.packed, pattern.shape)
    return torch.nn.functional.linear(input, scattered(values, pattern, frozen), bias)


def scattered(
    values: Tensor, pattern: SparsePattern, frozen: Tensor | None = None, layout: torch.memory_format = _CONTIGUOUS
) -> Tensor:
    """The dense weight with ``values`` at the pattern, over zeros or ``frozen``."""

    def scatter() -> Tensor:
        return pattern.scatter(values, None if frozen is None else frozen.detach()).to(memory_format=layout)

    return dense_weight(scatter, (values,), (pattern.packed, frozen), pattern.shape, layout)


def layout_of_weight(*tensors: Tensor | None) -> torch.memory_format:
    """As torch's convolution does, channels_last as soon as one of the tensors is."""
    return torch.channels_last if any(map(_is_channels_last, tensors)) else _CONTIGUOUS


def _composed(
    values: Tensor, pattern: SparsePattern, basis: Tensor, groups: int, basis_axis: str, layout: torch.memory_format
) -> Tensor:
    def compose() -> Tensor:
        bases = basis[None] if basis.dim() == 3 else basis
        weight = compose_filters(pattern.scatter(values), bases, groups=groups, basis_axis=basis_axis)
        return weight.to(memory_format=layout)

    return dense_weight(compose, (values, basis), (pattern.packed,), pattern.shape, groups, basis_axis, layout)


def _is_channels_last(t: Tensor | None) -> bool:
    # Of single pixels, or taps, both formats have the same bits in the same order.
    return t is not None and t.dim() == 4 and t.stride(1) == 1 and t.shape[2:] != (1, 1)


def _one_operator(input: Tensor, *learned: Tensor | None) -> bool:
    if not torch.compiler.is_compiling() or differentiable(input, *learned):
        return False
    return input.device.type == "cpu" and not torch.is_autocast_enabled("cpu")  # nothing is kept elsewhere


def _check_conv2d(input, values, frozen, basis, bias, pattern, shape, *geometry: Any) -> list[int]:
    """The output's shape; errors are in the name of the layer that the operator stands for."""
    *conv, basis_axis = geometry
    if basis is not None:
        bases = basis[None] if basis.dim() == 3 else basis
        return checks.check_fb_conv2d(input, bases, values, bias, pattern, shape, *conv, basis_axis)
    if frozen is not None:
        checks.check_shape("frozen_conv2d", "frozen", frozen, shape)
        return checks.check_frozen_conv2d(input, frozen, values, bias, pattern, *conv)
    return checks.check_sparse_conv2d(input, values, bias, pattern, shape, *conv)


def _check_linear(input, values, frozen, bias, pattern, shape) -> list[int]:
    if frozen is not None:
        checks.check_shape("frozen_linear", "frozen", frozen, shape)
        return checks.check_frozen_linear(input, frozen, values, bias, pattern)
    return checks.check_sparse_linear(input, values, bias, pattern, shape)


def _conv2d(input, values, frozen, basis, bias, pattern, shape, *geometry):
    *conv, basis_axis = geometry
    try:
        about = {"frozen": frozen, "basis": basis, "basis_axis": basis_axis}
        output = dense_conv2d(input, values, SparsePattern(pattern, shape), bias, *conv, **about)
    except (RuntimeError, ValueError):
        _check_conv2d(input, values, frozen, basis, bias, pattern, shape, *geometry)
        raise
    return output.contiguous(memory_format=layout_of_weight(input, frozen))


def _fake_conv2d(input, values, frozen, basis, bias, pattern, shape, *geometry):
    size = _check_conv2d(input, values, frozen, basis, bias, pattern, shape, *geometry)
    return input.new_empty(size).contiguous(memory_format=layout_of_weight(input, frozen))


def _linear(input, values, frozen, bias, pattern, shape):
    _check_linear(input, values, frozen, bias, pattern, shape)
    return dense_linear(input, values, SparsePattern(pattern, shape), bias, frozen)


def _fake_linear(input, values, frozen, bias, pattern, shape):
    return input.new_empty(_check_linear(input, values, frozen, bias, pattern, shape))


def _save_nothing(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    pass


def _no_gradient(ctx: Any, grad: Tensor) -> NoReturn:
    raise RuntimeError(
        "fbconv: this graph was traced without gradients, so it has none; trace it with gradients enabled to train it"
    )


def _register(name: str, signature: str, kernel: Callable[..., Tensor], fake_kernel: Callable[..., Tensor]) -> None:
    for overload in ("", ".kernel"):
        define(f"fbconv::{name}{overload}", signature)
        impl(f"fbconv::{name}{overload}", "default", kernel)
    fake(name)(fake_kernel)
    autograd.register(name, _save_nothing, _no_gradient)


_register(
    "dense_conv2d",
    "(Tensor input, Tensor values, Tensor? frozen, Tensor? basis, Tensor? bias, Tensor pattern, int[] shape, "
    "int[] stride, int[] padding, int[] dilation, int groups, str basis_axis) -> Tensor",
    _conv2d,
    _fake_conv2d,
)
_register(
    "dense_linear",
    "(Tensor input, Tensor values, Tensor? frozen, Tensor? bias, Tensor pattern, int[] shape) -> Tensor",
    _linear,
    _fake_linear,
)
