"""The dense plans: torch's own convolution and linear layer, with the dense weight that a pattern's values stand for.

A layer that is only used keeps its dense weight between calls, which neither a tracer, seeing how the weight is made,
nor many steps in Python would make worth while. So a call without gradients, traced or not, is one operator
(``csrc/bind/dense_ops.cpp``). One with gradients has parts: there, each call has new values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ._dense_weights import make_weight
from ._ops import autograd, checks, ops
from ._ops.call import differentiable
from ._ops.fakes import fake
from ._ops.torch_conv import conv2d
from .pattern import SparsePattern


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
    if _one_operator(input, values, frozen, basis, bias):
        op = ops.dense_conv2d.default if torch.compiler.is_compiling() else ops.dense_conv2d.kernel
        try:
            return op(input, values, frozen, basis, bias, pattern.packed, pattern.shape, *geometry, basis_axis)
        except RuntimeError:  # compiled code loses what an error says; the parts repeat it in full
            pass
    recipe = (values, frozen, basis, pattern.packed, pattern.shape, geometry[-1], basis_axis)
    weight = make_weight(*recipe, wants_channels_last(input, frozen))
    return conv2d(input, weight, bias, *geometry)


def dense_linear(
    input: Tensor, values: Tensor, pattern: SparsePattern, bias: Tensor | None, frozen: Tensor | None = None
) -> Tensor:
    """torch's linear layer with ``values`` at the pattern, over zeros or ``frozen``."""
    if _one_operator(input, values, frozen, bias):
        op = ops.dense_linear.default if torch.compiler.is_compiling() else ops.dense_linear.kernel
        try:
            return op(input, values, frozen, bias, pattern.packed, pattern.shape)
        except RuntimeError:
            pass
    return torch.nn.functional.linear(input, pattern.scatter(values, None if frozen is None else frozen.detach()), bias)


def wants_channels_last(*tensors: Tensor | None) -> bool:
    """As torch's convolution does, as soon as one of the tensors is channels_last."""
    return any(map(_is_channels_last, tensors))


def _is_channels_last(t: Tensor | None) -> bool:
    # Of single pixels, or taps, both formats have the same bits in the same order.
    return t is not None and t.dim() == 4 and t.stride(1) == 1 and t.shape[2:] != (1, 1)


def _one_operator(input: Tensor, *others: Tensor | None) -> bool:
    if differentiable(input, *others) or torch.is_autocast_enabled("cpu"):
        return False
    if input.device.type != "cpu":  # nothing is kept elsewhere
        return False
    return torch.compiler.is_compiling() or not _looked_at(input, *others)


def _looked_at(*tensors: Tensor | None) -> bool:
    """Whether somebody wants to see the parts: a tracer, a mode, a transform or a tensor of another kind."""
    if torch._C._get_tracing_state() or torch._C._len_torch_dispatch_stack() > 0:
        return True
    if torch._C._are_functorch_transforms_active():
        return True
    return not all(t is None or type(t) in (Tensor, torch.nn.Parameter) for t in tensors)


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


def _fake_conv2d(input, values, frozen, basis, bias, pattern, shape, *geometry):
    size = _check_conv2d(input, values, frozen, basis, bias, pattern, shape, *geometry)
    layout = torch.channels_last if wants_channels_last(input, frozen) else torch.contiguous_format
    return input.new_empty(size).contiguous(memory_format=layout)


def _fake_linear(input, values, frozen, bias, pattern, shape):
    return input.new_empty(_check_linear(input, values, frozen, bias, pattern, shape))


def _save_nothing(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    pass


def _no_gradient(ctx: Any, grad: Tensor) -> NoReturn:
    raise RuntimeError(
        "fbconv: this graph was traced without gradients, so it has none; trace it with gradients enabled to train it"
    )


for _name, _fake in (("dense_conv2d", _fake_conv2d), ("dense_linear", _fake_linear)):
    fake(_name)(_fake)
    autograd.register(_name, _save_nothing, _no_gradient)
