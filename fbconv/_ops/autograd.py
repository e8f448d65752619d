"""Gradients of ``torch.ops.fbconv.*``, of any order.

A layer is the partial derivative of one multilinear form, ``F(grad, input, ..., values) = <grad, layer(input, ...,
values)>``: the layer itself is dF/dgrad, its gradient operators are dF/dinput, dF/dvalues and so on. A derivative of
any of them, contracted with u, is F with u in the place of the slot that the operator lacks, so one rule serves all
operators, and second derivatives need nothing new. Only what a needed gradient reads is saved, and only needed
gradients are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.library import register_autograd

ops = torch.ops.fbconv


@dataclass(frozen=True)
class Form:
    """A multilinear form: for each slot, dF/dslot as a function of the other slots and of the fixed arguments."""

    derivatives: Mapping[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], Tensor]]

    def register(self, op: str, slot: str, arguments: Sequence[str]) -> None:
        """Registers the gradients of ``op`` = dF/d``slot``, whose schema has these arguments."""

        def setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
            given = dict(zip(arguments, inputs, strict=True))
            # torch appends an argument of its own to the flags.
            needed = {name for name, need in zip(arguments, ctx.needs_input_grad, strict=False) if need}
            read = {other for name in needed & {*self.derivatives} for other in self.derivatives if other != name}
            ctx.slots = [name for name in arguments if name in read and name != slot]
            ctx.fixed = {name: value for name, value in given.items() if name not in self.derivatives}
            ctx.fixed |= {f"{name}_shape": value.shape for name, value in given.items() if name in self.derivatives}
            ctx.fixed.pop("bias", None)
            pattern = ctx.fixed.pop("pattern")
            ctx.save_for_backward(pattern, *(given[name] for name in ctx.slots))

        def backward(ctx: Any, upstream: Tensor) -> tuple:
            pattern, *saved = ctx.saved_tensors
            tensors = dict(zip(ctx.slots, saved, strict=True)) | {slot: upstream}
            fixed = ctx.fixed | {"pattern": pattern}
            flags = zip(arguments, ctx.needs_input_grad, strict=False)
            return tuple(self._gradient(name, tensors, fixed) if need else None for name, need in flags)

        register_autograd(f"fbconv::{op}", backward, setup_context=setup)

    def _gradient(self, name: str, tensors: Mapping[str, Tensor], fixed: Mapping[str, Any]) -> Tensor:
        if name == "bias":
            return _bias_gradient(tensors["grad"], channel=1 if "stride" in fixed else -1)
        return self.derivatives[name](tensors, fixed)


def _bias_gradient(grad: Tensor, channel: int) -> Tensor:
    return grad.movedim(channel, -1).reshape(-1, grad.shape[channel]).sum(0)


def _geometry(f: Mapping[str, Any]) -> tuple:
    return f["weight_shape"], f["stride"], f["padding"], f["dilation"], f["groups"]


_SPARSE_CONV2D = Form(
    {
        "grad": lambda t, f: ops.sparse_conv2d(t["input"], t["values"], None, f["pattern"], *_geometry(f)),
        "input": lambda t, f: ops.sparse_conv2d_grad_input(
            t["grad"], t["values"], f["pattern"], f["input_shape"], *_geometry(f)
        ),
        "values": lambda t, f: ops.sparse_conv2d_grad_values(t["grad"], t["input"], f["pattern"], *_geometry(f)),
    }
)
_CONV = ("weight_shape", "stride", "padding", "dilation", "groups")
_SPARSE_CONV2D.register("sparse_conv2d", "grad", ("input", "values", "bias", "pattern", *_CONV))
_SPARSE_CONV2D.register("sparse_conv2d_grad_input", "input", ("grad", "values", "pattern", "input_shape", *_CONV))
_SPARSE_CONV2D.register("sparse_conv2d_grad_values", "values", ("grad", "input", "pattern", *_CONV))

_SPARSE_LINEAR = Form(
    {
        "grad": lambda t, f: ops.sparse_linear(t["input"], t["values"], None, f["pattern"], f["weight_shape"]),
        "input": lambda t, f: ops.sparse_linear_grad_input(t["grad"], t["values"], f["pattern"], f["weight_shape"]),
        "values": lambda t, f: ops.sparse_linear_grad_values(t["grad"], t["input"], f["pattern"], f["weight_shape"]),
    }
)
_SPARSE_LINEAR.register("sparse_linear", "grad", ("input", "values", "bias", "pattern", "weight_shape"))
_SPARSE_LINEAR.register("sparse_linear_grad_input", "input", ("grad", "values", "pattern", "weight_shape"))
_SPARSE_LINEAR.register("sparse_linear_grad_values", "values", ("grad", "input", "pattern", "weight_shape"))


def _fb_geometry(f: Mapping[str, Any]) -> tuple:
    return f["coefficient_shape"], f["stride"], f["padding"], f["dilation"], f["groups"], f["basis_axis"]


_FB_CONV2D = Form(
    {
        "grad": lambda t, f: ops.fb_conv2d(
            t["input"], t["basis"], t["values"], None, f["pattern"], *_fb_geometry(f), f.get("order", "basis_first")
        ),
        "input": lambda t, f: ops.fb_conv2d_grad_input(
            t["grad"], t["basis"], t["values"], f["pattern"], f["input_shape"], *_fb_geometry(f)
        ),
        "basis": lambda t, f: ops.fb_conv2d_grad_basis(
            t["grad"], t["input"], t["values"], f["pattern"], f["basis_shape"], *_fb_geometry(f)
        ),
        "values": lambda t, f: ops.fb_conv2d_grad_values(
            t["grad"], t["input"], t["basis"], f["pattern"], *_fb_geometry(f)
        ),
    }
)
_FB = ("coefficient_shape", "stride", "padding", "dilation", "groups", "basis_axis")
_FB_CONV2D.register("fb_conv2d", "grad", ("input", "basis", "values", "bias", "pattern", *_FB, "order"))
_FB_CONV2D.register("fb_conv2d_grad_input", "input", ("grad", "basis", "values", "pattern", "input_shape", *_FB))
_FB_CONV2D.register("fb_conv2d_grad_basis", "basis", ("grad", "input", "values", "pattern", "basis_shape", *_FB))
_FB_CONV2D.register("fb_conv2d_grad_values", "values", ("grad", "input", "basis", "pattern", *_FB))

# The frozen layers are dense in their input and sparse in their values. Their weight takes part in second derivatives
# (it was embedded from the values) but gets no gradient of its own here.


def _setup_frozen(ctx: Any, inputs: tuple, output: Tensor) -> None:
    input, weight, _, _, pattern, *ctx.geometry = inputs
    need_input, _, need_values = ctx.needs_input_grad[:3]
    ctx.input_shape, ctx.weight_shape = input.shape, list(weight.shape)
    ctx.save_for_backward(input if need_values else None, weight if need_input else None, pattern)


def _frozen_conv2d_backward(ctx: Any, grad: Tensor) -> tuple:
    input, weight, pattern = ctx.saved_tensors
    need_input, _, need_values, need_bias = ctx.needs_input_grad[:4]
    grad_input = grad_values = None
    if need_input:
        grad_input = torch.nn.grad.conv2d_input(ctx.input_shape, weight, grad, *ctx.geometry)
    if need_values:
        grad_values = ops.sparse_conv2d_grad_values(grad, input, pattern, ctx.weight_shape, *ctx.geometry)
    return grad_input, None, grad_values, _bias_gradient(grad, 1) if need_bias else None, *[None] * 5


def _frozen_linear_backward(ctx: Any, grad: Tensor) -> tuple:
    input, weight, pattern = ctx.saved_tensors
    need_input, _, need_values, need_bias = ctx.needs_input_grad[:4]
    return (
        grad @ weight if need_input else None,
        None,
        ops.sparse_linear_grad_values(grad, input, pattern, ctx.weight_shape) if need_values else None,
        _bias_gradient(grad, -1) if need_bias else None,
        None,
    )


register_autograd("fbconv::frozen_conv2d", _frozen_conv2d_backward, setup_context=_setup_frozen)
register_autograd("fbconv::frozen_linear", _frozen_linear_backward, setup_context=_setup_frozen)

# embed and gather are each other's gradient.


def _setup_embed(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, _, pattern, _ = inputs
    ctx.set_materialize_grads(False)  # a frozen layer's weight sends no gradient back: don't make zeros for it
    ctx.save_for_backward(pattern)


def _embed_backward(ctx: Any, grad: Tensor | None) -> tuple:
    (pattern,) = ctx.saved_tensors
    need_values, need_frozen = ctx.needs_input_grad[:2]
    if grad is None:
        return None, None, None, None
    grad_values = ops.gather(grad, pattern) if need_values or need_frozen else None
    grad_frozen = grad - ops.embed(grad_values, None, pattern, grad.shape) if need_frozen else None
    return grad_values if need_values else None, grad_frozen, None, None


def _setup_gather(ctx: Any, inputs: tuple, output: Tensor) -> None:
    dense, pattern = inputs
    ctx.shape = dense.shape
    ctx.save_for_backward(pattern)


def _gather_backward(ctx: Any, grad: Tensor) -> tuple:
    (pattern,) = ctx.saved_tensors
    return ops.embed(grad, None, pattern, ctx.shape), None


register_autograd("fbconv::embed", _embed_backward, setup_context=_setup_embed)
register_autograd("fbconv::gather", _gather_backward, setup_context=_setup_gather)
