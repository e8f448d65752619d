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
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.library import fallthrough_kernel

from .call import call, differentiable, functions, kernels
from .torch_conv import conv2d_grad_input

ops = torch.ops.fbconv


_library = torch.library.Library("fbconv", "IMPL")


def register(name: str, setup: Callable[[Any, tuple, Tensor], None], backward: Callable[..., tuple]) -> None:
    """Gives an operator its gradients: in the dispatcher, for tracers, and as the Function of eager calls."""
    op, kernel = (getattr(getattr(ops, name), overload) for overload in ("default", "kernel"))

    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = kernel(*inputs)
        setup(ctx, inputs, output)
        return output

    def dispatched(*inputs: Any) -> Tensor:
        tensors = (each for each in inputs if isinstance(each, Tensor))
        return functions[op].apply(*inputs) if differentiable(*tensors) else kernel(*inputs)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    functions[op] = type(name, (torch.autograd.Function,), methods)
    kernels[op] = kernel
    _library.impl(name, dispatched, "Autograd")
    _library.impl(f"{name}.kernel", fallthrough_kernel, "Autograd")


@dataclass(frozen=True)
class Form:
    """A multilinear form: for each slot, dF/dslot as a function of the other slots and of the fixed arguments."""

    derivatives: Mapping[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], Tensor]]

    def register(self, op: str, slot: str, tensors: Sequence[str], fixed: Sequence[str]) -> None:
        """Registers the gradients of ``op`` = dF/d``slot``, whose schema has these tensors, a pattern, and these fixed
        arguments."""
        pattern = len(tensors)
        shapes = [(f"{name}_shape", i) for i, name in enumerate(tensors) if name in self.derivatives]

        @cache
        def read(*needs: bool) -> list[int]:
            """The tensors that the gradients of those in need read."""
            needed = {name for name, need in zip(tensors, needs, strict=True) if need} & {*self.derivatives}
            others = {other for name in needed for other in self.derivatives if other != name}
            return [i for i, name in enumerate(tensors) if name in others and name != slot]

        def setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
            ctx.read = read(*ctx.needs_input_grad[:pattern])
            ctx.save_for_backward(inputs[pattern], *[inputs[i] for i in ctx.read])
            ctx.fixed = inputs[pattern + 1 :]
            ctx.shapes = {shape: inputs[i].shape for shape, i in shapes}

        def backward(ctx: Any, upstream: Tensor) -> tuple:
            packed, *saved = ctx.saved_tensors
            slots = {tensors[i]: tensor for i, tensor in zip(ctx.read, saved, strict=True)}
            slots[slot] = upstream
            given = {"pattern": packed, **ctx.shapes, **dict(zip(fixed, ctx.fixed, strict=True))}
            needs = zip(tensors, ctx.needs_input_grad, strict=False)
            gradients = [self._gradient(name, slots, given) if need else None for name, need in needs]
            return (*gradients, None, *[None] * len(fixed))

        register(op, setup, backward)

    def _gradient(self, name: str, tensors: Mapping[str, Tensor], fixed: Mapping[str, Any]) -> Tensor:
        if name == "bias":
            return _bias_gradient(tensors["grad"], map="stride" in fixed)
        return self.derivatives[name](tensors, fixed)


def _bias_gradient(grad: Tensor, *, map: bool) -> Tensor:
    return grad.sum((0, 2, 3)) if map else grad.reshape(-1, grad.shape[-1]).sum(0)


def _geometry(f: Mapping[str, Any]) -> tuple:
    return f["weight_shape"], f["stride"], f["padding"], f["dilation"], f["groups"]


_SPARSE_CONV2D = Form(
    {
        "grad": lambda t, f: call(
            ops.sparse_conv2d.default, (t["input"], t["values"], None), (f["pattern"], *_geometry(f))
        ),
        "input": lambda t, f: call(
            ops.sparse_conv2d_grad_input.default,
            (t["grad"], t["values"]),
            (f["pattern"], f["input_shape"], *_geometry(f)),
        ),
        "values": lambda t, f: call(
            ops.sparse_conv2d_grad_values.default, (t["grad"], t["input"]), (f["pattern"], *_geometry(f))
        ),
    }
)
_CONV = ("weight_shape", "stride", "padding", "dilation", "groups")
_SPARSE_CONV2D.register("sparse_conv2d", "grad", ("input", "values", "bias"), _CONV)
_SPARSE_CONV2D.register("sparse_conv2d_grad_input", "input", ("grad", "values"), ("input_shape", *_CONV))
_SPARSE_CONV2D.register("sparse_conv2d_grad_values", "values", ("grad", "input"), _CONV)

_SPARSE_LINEAR = Form(
    {
        "grad": lambda t, f: call(
            ops.sparse_linear.default, (t["input"], t["values"], None), (f["pattern"], f["weight_shape"])
        ),
        "input": lambda t, f: call(
            ops.sparse_linear_grad_input.default, (t["grad"], t["values"]), (f["pattern"], f["weight_shape"])
        ),
        "values": lambda t, f: call(
            ops.sparse_linear_grad_values.default, (t["grad"], t["input"]), (f["pattern"], f["weight_shape"])
        ),
    }
)
_SPARSE_LINEAR.register("sparse_linear", "grad", ("input", "values", "bias"), ("weight_shape",))
_SPARSE_LINEAR.register("sparse_linear_grad_input", "input", ("grad", "values"), ("weight_shape",))
_SPARSE_LINEAR.register("sparse_linear_grad_values", "values", ("grad", "input"), ("weight_shape",))


def _fb_geometry(f: Mapping[str, Any]) -> tuple:
    return f["coefficient_shape"], f["stride"], f["padding"], f["dilation"], f["groups"], f["basis_axis"]


_FB_CONV2D = Form(
    {
        "grad": lambda t, f: call(
            ops.fb_conv2d.default,
            (t["input"], t["basis"], t["values"], None),
            (f["pattern"], *_fb_geometry(f), f.get("order", "basis_first")),
        ),
        "input": lambda t, f: call(
            ops.fb_conv2d_grad_input.default,
            (t["grad"], t["basis"], t["values"]),
            (f["pattern"], f["input_shape"], *_fb_geometry(f)),
        ),
        "basis": lambda t, f: call(
            ops.fb_conv2d_grad_basis.default,
            (t["grad"], t["input"], t["values"]),
            (f["pattern"], f["basis_shape"], *_fb_geometry(f)),
        ),
        "values": lambda t, f: call(
            ops.fb_conv2d_grad_values.default,
            (t["grad"], t["input"], t["basis"]),
            (f["pattern"], *_fb_geometry(f)),
        ),
    }
)
_FB = ("coefficient_shape", "stride", "padding", "dilation", "groups", "basis_axis")
_FB_CONV2D.register("fb_conv2d", "grad", ("input", "basis", "values", "bias"), (*_FB, "order"))
_FB_CONV2D.register("fb_conv2d_grad_input", "input", ("grad", "basis", "values"), ("input_shape", *_FB))
_FB_CONV2D.register("fb_conv2d_grad_basis", "basis", ("grad", "input", "values"), ("basis_shape", *_FB))
_FB_CONV2D.register("fb_conv2d_grad_values", "values", ("grad", "input", "basis"), _FB)

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
        grad_input = conv2d_grad_input(ctx.input_shape, weight, grad, *ctx.geometry)
    if need_values:
        args = (pattern, ctx.weight_shape, *ctx.geometry)
        grad_values = call(ops.sparse_conv2d_grad_values.default, (grad, input), args)
    return grad_input, None, grad_values, _bias_gradient(grad, map=True) if need_bias else None, *[None] * 5


def _frozen_linear_backward(ctx: Any, grad: Tensor) -> tuple:
    input, weight, pattern = ctx.saved_tensors
    need_input, _, need_values, need_bias = ctx.needs_input_grad[:4]
    grad_values = None
    if need_values:
        grad_values = call(ops.sparse_linear_grad_values.default, (grad, input), (pattern, ctx.weight_shape))
    grad_bias = _bias_gradient(grad, map=False) if need_bias else None
    return grad @ weight if need_input else None, None, grad_values, grad_bias, None


register("frozen_conv2d", _setup_frozen, _frozen_conv2d_backward)
register("frozen_linear", _setup_frozen, _frozen_linear_backward)

# embed and gather are each other's gradient.


def _embedded(values: Tensor, pattern: Tensor, shape: Sequence[int]) -> Tensor:
    return call(ops.embed.default, (values, None), (pattern, shape))


def _setup_embed(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, _, pattern, _ = inputs
    ctx.set_materialize_grads(False)  # a frozen layer's weight sends no gradient back: don't make zeros for it
    ctx.save_for_backward(pattern)


def _embed_backward(ctx: Any, grad: Tensor | None) -> tuple:
    (pattern,) = ctx.saved_tensors
    need_values, need_frozen = ctx.needs_input_grad[:2]
    if grad is None:
        return None, None, None, None
    grad_values = call(ops.gather.default, (grad,), (pattern,)) if need_values or need_frozen else None
    grad_frozen = grad - _embedded(grad_values, pattern, grad.shape) if need_frozen else None
    return grad_values if need_values else None, grad_frozen, None, None


def _setup_gather(ctx: Any, inputs: tuple, output: Tensor) -> None:
    dense, pattern = inputs
    ctx.shape = dense.shape
    ctx.save_for_backward(pattern)


def _gather_backward(ctx: Any, grad: Tensor) -> tuple:
    (pattern,) = ctx.saved_tensors
    return _embedded(grad, pattern, ctx.shape), None


register("embed", _setup_embed, _embed_backward)
register("gather", _setup_gather, _gather_backward)
