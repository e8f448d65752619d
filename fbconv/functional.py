"""Differentiable calls: sparse, filter-basis and frozen convolutions and linear layers.

Every call checks its arguments and raises an error that names the operator, the argument, what was expected and what
came. Gradients are computed only for what requires them, in the shape in which it is stored: ``(nnz,)`` for values.
``backend="auto"`` takes the plan that :mod:`fbconv.planner` expects to be fastest, dense included.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

import torch
from torch import Tensor

from . import planner
from ._dense_weights import dense_weight
from ._ops import checks, ops
from ._ops.call import call, differentiable
from ._ops.checks import check_basis, composed_shape, conv_output_shape
from ._plans import Decision, choose, recorded_decisions  # noqa: F401  (the decisions are for benches)
from .pattern import SparsePattern

_Pair = int | Sequence[int]
_CONTIGUOUS = torch.contiguous_format

__all__ = ["compose_filters", "fb_conv2d", "frozen_conv2d", "frozen_linear", "sparse_conv2d", "sparse_linear"]


def sparse_conv2d(
    input: Tensor,
    values: Tensor,
    pattern: SparsePattern,
    bias: Tensor | None = None,
    *,
    stride: _Pair = 1,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    groups: int = 1,
    backend: str = "auto",
) -> Tensor:
    """Convolution with an unstructured-sparse weight: ``values`` at ``pattern``, zeros elsewhere.

    Args:
        input: ``(batch, C_in, H, W)`` or ``(C_in, H, W)``; float32, float64, bfloat16 or float16 (computed in float32).
        values: ``(nnz,)``, the kept weights in row-major order of the mask, in the input's dtype.
        pattern: of shape ``(C_out, C_in / groups, KH, KW)``.
        bias: ``(C_out,)`` or None.
        stride, padding, dilation: an int or a pair (rows, columns), in pixels.
        groups: number of blocks of channels that are convolved apart.
        backend: "auto", "sparse" or "dense" (scatter to a dense weight, torch's convolution).

    Returns:
        ``(batch, C_out, H_out, W_out)`` in the input's dtype and memory format.

    Raises:
        RuntimeError: arguments that do not fit together. ValueError: an unknown backend.

    Example:
        >>> mask = torch.rand(8, 4, 3, 3) < 0.1
        >>> pattern = fbconv.SparsePattern.from_mask(mask)
        >>> y = sparse_conv2d(torch.randn(2, 4, 16, 16), torch.randn(pattern.nnz), pattern, padding=1)
        >>> y.shape
        torch.Size([2, 8, 16, 16])

    Source: interspace pruning, section on sparse convolutions (``Y[a] = sum over kept (b, i, j)``); methods section 0.
    """
    op = "sparse_conv2d"
    if input.dim() == 3:
        args = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "backend": backend}
        return sparse_conv2d(input[None], values, pattern, bias, **args)[0]
    stride, padding, dilation = _pairs(op, stride, padding, dilation)
    _check_call(op, pattern, backend)
    if backend == "auto":
        geometry = (pattern.shape, stride, padding, dilation, groups)
        training = differentiable(input, values, bias)
        backend = choose(planner.sparse_costs, op, input, geometry, pattern.nnz, training)
    args = (pattern.packed, pattern.shape, stride, padding, dilation, groups)
    if backend == "dense":
        try:
            weight = _scattered(values, pattern, layout=_layout(input))
            return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        except RuntimeError:  # torch's words do not name our arguments, and checks before it would cost more than it
            checks.check_sparse_conv2d(input, values, bias, *args)
            raise
    return call(ops.sparse_conv2d.default, (input, values, bias), args)


def fb_conv2d(
    input: Tensor,
    basis: Tensor,
    values: Tensor,
    pattern: SparsePattern,
    bias: Tensor | None = None,
    *,
    stride: _Pair = 1,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    groups: int = 1,
    basis_axis: str = "in",
    backend: str = "auto",
) -> Tensor:
    """Filter-basis convolution: filters are sparse combinations of a shared basis.

    ``filter[a, b] = sum over kept n of coefficient[a, b, n] * basis[n]``, computed without composing the filters unless
    that is cheaper.

    Args:
        input: ``(batch, C_in, H, W)`` or ``(C_in, H, W)``; float32, float64, bfloat16 or float16.
        basis: ``(n_elements, KH, KW)``, or ``(n_bases, n_elements, KH, KW)`` where equal blocks of neighbouring
            channels have a basis each.
        values: ``(nnz,)``, the kept coefficients in row-major order of the mask.
        pattern: of shape ``(C_out, C_in / groups, n_elements)``.
        bias: ``(C_out,)`` or None.
        stride, padding, dilation, groups: as in :func:`sparse_conv2d`.
        basis_axis: whether blocks of "in" or of "out" channels have a basis each.
        backend: "auto", "basis_first" (convolve with the basis, then mix), "mix_first" (mix, then convolve), "sparse"
            (the cheaper of these two), "composed" or "dense" (compose the filters, torch's convolution).

    Returns:
        ``(batch, C_out, H_out, W_out)`` in the input's dtype and memory format.

    Raises:
        RuntimeError: arguments that do not fit together. ValueError: an unknown backend.

    Example:
        >>> pattern = fbconv.SparsePattern.from_mask(torch.rand(8, 4, 9) < 0.1)
        >>> y = fb_conv2d(torch.randn(2, 4, 16, 16), torch.randn(9, 3, 3), torch.randn(pattern.nnz), pattern, padding=1)
        >>> y.shape
        torch.Size([2, 8, 16, 16])

    Source: interspace pruning, FB convolution and its gradients.
    """
    op = "fb_conv2d"
    if input.dim() == 3:
        args = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return fb_conv2d(input[None], basis, values, pattern, bias, basis_axis=basis_axis, backend=backend, **args)[0]
    stride, padding, dilation = _pairs(op, stride, padding, dilation)
    _check_call(op, pattern, backend, "basis_first", "mix_first", "composed")
    bases = basis[None] if basis.dim() == 3 else basis
    if backend in ("auto", "sparse"):
        weight_shape = composed_shape(op, bases.shape, pattern.shape)
        geometry = (tuple(weight_shape), stride, padding, dilation, groups)
        training = differentiable(input, basis, values, bias)
        costs = planner.filter_basis_costs if backend == "auto" else planner.order_costs
        backend = choose(costs, op, input, geometry, pattern.nnz, training, pattern.shape[-1])
    args = (pattern.packed, pattern.shape, stride, padding, dilation, groups, basis_axis)
    if backend in ("composed", "dense"):
        try:
            weight = _composed(values, pattern, basis, groups, basis_axis, _layout(input))
            return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        except RuntimeError:
            checks.check_fb_conv2d(input, bases, values, bias, *args)
            raise
    return call(ops.fb_conv2d.default, (input, bases, values, bias), (*args, backend))


def frozen_conv2d(
    input: Tensor,
    frozen: Tensor,
    values: Tensor,
    pattern: SparsePattern,
    bias: Tensor | None = None,
    *,
    stride: _Pair = 1,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    groups: int = 1,
    backend: str = "auto",
) -> Tensor:
    """Convolution with a dense weight of which only the entries at ``pattern`` are trained.

    The weight is ``frozen`` with ``values`` put at the pattern. With ``backend="sparse"`` frozen gradients are not
    zeroed, they are never computed: the weight gradient is evaluated at the pattern alone. "auto" does so wherever
    that is expected to be faster than torch's whole gradient.

    Args:
        input: ``(batch, C_in, H, W)`` or ``(C_in, H, W)``; float32, float64, bfloat16 or float16.
        frozen: ``(C_out, C_in / groups, KH, KW)``; its entries at the pattern are ignored, it gets no gradient.
        values: ``(nnz,)``, the trained weights.
        pattern: of ``frozen``'s shape.
        bias, stride, padding, dilation, groups: as in :func:`sparse_conv2d`.
        backend: "auto", "sparse" (weight gradient at the pattern only) or "dense" (all of it, then a gather).

    Returns:
        ``(batch, C_out, H_out, W_out)``.

    Raises:
        RuntimeError: arguments that do not fit together. ValueError: an unknown backend.

    Example:
        >>> frozen = torch.randn(8, 4, 3, 3)
        >>> pattern = fbconv.SparsePattern.from_mask(torch.rand(8, 4, 3, 3) < 0.01)
        >>> y = frozen_conv2d(torch.randn(2, 4, 16, 16), frozen, pattern.gather(frozen), pattern, padding=1)

    Source: FreezeNet, ``psi theta + (1 - m) * Theta0``.
    """
    op = "frozen_conv2d"
    if input.dim() == 3:
        args = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "backend": backend}
        return frozen_conv2d(input[None], frozen, values, pattern, bias, **args)[0]
    stride, padding, dilation = _pairs(op, stride, padding, dilation)
    _check_call(op, pattern, backend)
    if backend == "auto":
        geometry = (pattern.shape, stride, padding, dilation, groups)
        training = differentiable(input, values, bias)
        backend = choose(planner.frozen_costs, op, input, geometry, pattern.nnz, training)
    args = (pattern.packed, stride, padding, dilation, groups)
    try:
        weight = _scattered(values, pattern, frozen, _layout(input, frozen))
        if backend == "dense":
            return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        return call(ops.frozen_conv2d.default, (input, weight, values, bias), args)
    except RuntimeError:
        checks.check_frozen_conv2d(input, frozen, values, bias, *args)
        raise


def sparse_linear(
    input: Tensor, values: Tensor, pattern: SparsePattern, bias: Tensor | None = None, *, backend: str = "auto"
) -> Tensor:
    """Linear layer with an unstructured-sparse weight: ``values`` at ``pattern``, zeros elsewhere.

    Args:
        input: ``(*, in)``; float32, float64, bfloat16 or float16.
        values: ``(nnz,)``, the kept weights in row-major order of the mask.
        pattern: of shape ``(out, in)``.
        bias: ``(out,)`` or None.
        backend: "auto", "sparse" or "dense".

    Returns:
        ``(*, out)`` in the input's dtype.

    Raises:
        RuntimeError: arguments that do not fit together. ValueError: an unknown backend.

    Example:
        >>> pattern = fbconv.SparsePattern.from_mask(torch.rand(10, 20) < 0.1)
        >>> sparse_linear(torch.randn(5, 20), torch.randn(pattern.nnz), pattern).shape
        torch.Size([5, 10])
    """
    op = "sparse_linear"
    _check_call(op, pattern, backend)
    if backend == "auto":
        training = differentiable(input, values, bias)
        backend = choose(planner.sparse_costs, op, input, (pattern.shape,), pattern.nnz, training)
    if backend == "dense":
        checks.check_sparse_linear(input, values, bias, pattern.packed, pattern.shape)
        return torch.nn.functional.linear(input, _scattered(values, pattern), bias)
    return call(ops.sparse_linear.default, (input, values, bias), (pattern.packed, pattern.shape))


def frozen_linear(
    input: Tensor,
    frozen: Tensor,
    values: Tensor,
    pattern: SparsePattern,
    bias: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Linear layer with a dense weight of which only the entries at ``pattern`` are trained.

    Args:
        input: ``(*, in)``; float32, float64, bfloat16 or float16.
        frozen: ``(out, in)``; its entries at the pattern are ignored, it gets no gradient.
        values: ``(nnz,)``, the trained weights.
        pattern: of ``frozen``'s shape.
        bias: ``(out,)`` or None.
        backend: "auto", "sparse" (weight gradient at the pattern only) or "dense".

    Returns:
        ``(*, out)`` in the input's dtype.

    Raises:
        RuntimeError: arguments that do not fit together. ValueError: an unknown backend.

    Example:
        >>> frozen = torch.randn(10, 20)
        >>> pattern = fbconv.SparsePattern.from_mask(torch.rand(10, 20) < 0.1)
        >>> frozen_linear(torch.randn(5, 20), frozen, pattern.gather(frozen), pattern).shape
        torch.Size([5, 10])

    Source: FreezeNet, ``psi theta + (1 - m) * Theta0``.
    """
    op = "frozen_linear"
    _check_call(op, pattern, backend)
    if backend == "auto":
        training = differentiable(input, values, bias)
        backend = choose(planner.frozen_costs, op, input, (pattern.shape,), pattern.nnz, training)
    checks.check_frozen_linear(input, frozen, values, bias, pattern.packed)
    weight = _scattered(values, pattern, frozen)
    if backend == "dense":
        return torch.nn.functional.linear(input, weight, bias)
    return call(ops.frozen_linear.default, (input, weight, values, bias), (pattern.packed,))


def dense_conv2d(
    op: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """torch's convolution, with errors in the name of the layer ``op`` whose dense weight this is."""
    checks.check_floating(op, "input", input)
    shape = input.shape if input.dim() == 4 else (1, *input.shape)
    conv_output_shape(op, shape, weight.shape, stride, padding, dilation, groups)
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def compose_filters(coefficients: Tensor, basis: Tensor, *, groups: int = 1, basis_axis: str = "in") -> Tensor:
    """The spatial filters of a filter-basis layer.

    Args:
        coefficients: dense ``(C_out, C_in / groups, n_elements)``.
        basis: ``(n_bases, n_elements, KH, KW)``.
        groups, basis_axis: as in :func:`fb_conv2d`.

    Returns:
        ``(C_out, C_in / groups, KH, KW)``; differentiable in both.

    Example:
        >>> compose_filters(torch.randn(8, 4, 9), torch.randn(1, 9, 3, 3)).shape
        torch.Size([8, 4, 3, 3])
    """
    composed_shape("fb_conv2d", basis.shape, coefficients.shape)
    bases = bases_of_channels(basis, coefficients.shape, groups, basis_axis)
    if basis.shape[0] == 1:  # one product instead of one for every filter
        return (coefficients @ basis[0].flatten(-2)).unflatten(-1, basis.shape[-2:])
    return (coefficients[..., None, :] @ bases.flatten(-2))[..., 0, :].unflatten(-1, basis.shape[-2:])


def bases_of_channels(basis: Tensor, weight_shape: Sequence[int], groups: int, basis_axis: str) -> Tensor:
    """The basis that each (output, input) channel pair uses, broadcastable to
    ``(C_out, C_in / groups, n_elements, KH, KW)``."""
    if basis.dim() != 4:
        raise RuntimeError(f"fb_conv2d: basis must have 4 dimensions (n_bases, n_elements, KH, KW), got {basis.dim()}")
    out_channels, group_inputs = weight_shape[:2]
    check_basis("fb_conv2d", basis.shape, group_inputs * groups, out_channels, basis_axis)
    if basis.shape[0] == 1:
        return basis[None]
    if basis_axis == "out":
        return basis.repeat_interleave(out_channels // basis.shape[0], dim=0)[:, None]
    per_input = basis.repeat_interleave(group_inputs * groups // basis.shape[0], dim=0)
    return per_input.unflatten(0, (groups, group_inputs)).repeat_interleave(out_channels // groups, dim=0)


def _scattered(
    values: Tensor, pattern: SparsePattern, frozen: Tensor | None = None, layout: torch.memory_format = _CONTIGUOUS
) -> Tensor:
    def scatter() -> Tensor:
        return pattern.scatter(values, None if frozen is None else frozen.detach()).to(memory_format=layout)

    return dense_weight(scatter, (values,), (pattern.packed, frozen), pattern.shape, layout)


def _composed(
    values: Tensor, pattern: SparsePattern, basis: Tensor, groups: int, basis_axis: str, layout: torch.memory_format
) -> Tensor:
    def compose() -> Tensor:
        bases = basis[None] if basis.dim() == 3 else basis
        weight = compose_filters(pattern.scatter(values), bases, groups=groups, basis_axis=basis_axis)
        return weight.to(memory_format=layout)

    return dense_weight(compose, (values, basis), (pattern.packed,), pattern.shape, groups, basis_axis, layout)


def _layout(*tensors: Tensor | None) -> torch.memory_format:
    """Of the weight: as torch's convolution does, channels_last as soon as one of the tensors is."""
    return torch.channels_last if any(map(_is_channels_last, tensors)) else _CONTIGUOUS


def _is_channels_last(t: Tensor | None) -> bool:
    # Of single pixels, or taps, both formats have the same bits in the same order.
    return t is not None and t.dim() == 4 and t.stride(1) == 1 and t.shape[2:] != (1, 1)


def _pairs(op: str, stride: _Pair, padding: _Pair, dilation: _Pair) -> tuple[tuple[int, int], ...]:
    return _pair(op, "stride", stride), _pair(op, "padding", padding), _pair(op, "dilation", dilation)


def _pair(op: str, name: str, option: _Pair) -> tuple[int, int]:
    if type(option) is int:  # the usual case: asking a protocol costs more than the rest of a call
        return (option, option)
    try:
        pair = (option, option) if hasattr(option, "__index__") else tuple(option)
        if len(pair) == 2:
            return (index(pair[0]), index(pair[1]))
    except TypeError:
        pass
    raise RuntimeError(f"{op}: {name} must be an int or a pair of ints, got {option!r}")


def _check_call(op: str, pattern: SparsePattern, backend: str, *more_backends: str) -> None:
    if not isinstance(pattern, SparsePattern):
        raise TypeError(f"{op}: pattern must be a SparsePattern, got {type(pattern).__name__}")
    allowed = ("auto", "sparse", "dense", *more_backends)
    if backend not in allowed:
        raise ValueError(f"{op}: backend must be one of {', '.join(allowed)}, got {backend!r}")
