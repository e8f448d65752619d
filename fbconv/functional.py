"""Differentiable calls: sparse, filter-basis and frozen convolutions and linear layers.

Every call checks its arguments and raises an error that names the operator, the argument, what was expected and what
came. Gradients are computed only for what requires them, in the shape in which it is stored: ``(nnz,)`` for values.
``backend="auto"`` takes the plan that :mod:`fbconv.planner` expects to be fastest, dense included.

NaN, infinities and denormal numbers. On the sparse plans ("sparse", "basis_first", "mix_first") a NaN or an infinity in
an input reaches exactly the outputs and the weight gradients whose kept weights see it, and one in an incoming gradient
exactly those input gradients. A pruned weight passes nothing on, where a zero in a dense weight makes NaN of 0 * NaN:
that is what the dense plans do, and so "auto" where it takes them. A weight that is not finite reaches whatever it is
multiplied with, and may also make NaN where it meets the zeros of the padding; so may an incoming gradient in weight
gradients. Everything else keeps its very bits. Denormal numbers are not flushed to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

from torch import Tensor

from . import planner
from ._composing import compose_filters
from ._dense_plans import dense_conv2d, dense_linear, wants_channels_last
from ._dense_weights import make_weight
from ._ops import checks, ops
from ._ops.call import call, differentiable
from ._ops.checks import composed_shape, conv_output_shape
from ._ops.torch_conv import conv2d
from ._plans import choose
from .pattern import SparsePattern

_Pair = int | Sequence[int]

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

    Source: interspace pruning, section on sparse convolutions (``Y[a] = sum over kept (b, i, j)``).
    """
    op = "sparse_conv2d"
    _check_tensors(op, input, values=values, bias=bias)
    if input.dim() == 3:
        args = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "backend": backend}
        return sparse_conv2d(input[None], values, pattern, bias, **args)[0]
    stride, padding, dilation, groups = _geometry(op, stride, padding, dilation, groups)
    _check_call(op, pattern, backend)
    if backend == "auto":
        geometry = (pattern.shape, stride, padding, dilation, groups)
        training = differentiable(input, values, bias)
        backend = choose(planner.sparse_costs, op, input, geometry, pattern.nnz, training)
    args = (pattern.packed, pattern.shape, stride, padding, dilation, groups)
    if backend == "dense":
        _check_devices(op, input, values=values, bias=bias)
        try:
            return dense_conv2d(input, values, pattern, bias, stride, padding, dilation, groups)
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
    _check_tensors(op, input, basis=basis, values=values, bias=bias)
    if input.dim() == 3:
        args = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return fb_conv2d(input[None], basis, values, pattern, bias, basis_axis=basis_axis, backend=backend, **args)[0]
    stride, padding, dilation, groups = _geometry(op, stride, padding, dilation, groups)
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
        _check_devices(op, input, basis=basis, values=values, bias=bias)
        try:
            geometry = (stride, padding, dilation, groups)
            return dense_conv2d(input, values, pattern, bias, *geometry, basis=basis, basis_axis=basis_axis)
        except RuntimeError:
            checks.check_fb_conv2d(input, bases, values, bias, *args)
            raise
    return call(ops.fb_conv2d.default, (input, bases, values, bias), (*args, backend))


def frozen_conv2d(
    input: Tensor,
    frozen: Tensor | None,
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
        frozen: ``(C_out, C_in / groups, KH, KW)``; its entries at the pattern are ignored, it gets no gradient. None
            stands for zeros.
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
    optional = {} if frozen is None else {"frozen": frozen}
    _check_tensors(op, input, values=values, bias=bias, **optional)
    if input.dim() == 3:
        args = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "backend": backend}
        return frozen_conv2d(input[None], frozen, values, pattern, bias, **args)[0]
    stride, padding, dilation, groups = _geometry(op, stride, padding, dilation, groups)
    _check_call(op, pattern, backend)
    training = differentiable(input, values, bias)
    if backend == "auto":
        geometry = (pattern.shape, stride, padding, dilation, groups)
        backend = choose(planner.frozen_costs, op, input, geometry, pattern.nnz, training)
    args = (pattern.packed, stride, padding, dilation, groups)
    _check_devices(op, input, frozen=frozen, values=values, bias=bias)
    try:
        if backend == "dense" or not training:  # forward, both are the same
            return dense_conv2d(input, values, pattern, bias, stride, padding, dilation, groups, frozen=frozen)
        channels_last = wants_channels_last(input, frozen)
        weight = make_weight(values, frozen, None, pattern.packed, pattern.shape, groups, "in", channels_last)
        return call(ops.frozen_conv2d.default, (input, weight, values, bias), args)
    except RuntimeError:
        zeros = values.new_zeros(()).expand(pattern.shape)
        checks.check_frozen_conv2d(input, zeros if frozen is None else frozen, values, bias, *args)
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
    _check_tensors(op, input, values=values, bias=bias)
    _check_call(op, pattern, backend)
    if backend == "auto":
        training = differentiable(input, values, bias)
        backend = choose(planner.sparse_costs, op, input, (pattern.shape,), pattern.nnz, training)
    if backend == "dense":
        _check_dense_linear(op, input, pattern, bias, values=values)
        try:
            return dense_linear(input, values, pattern, bias)
        except RuntimeError:
            checks.check_sparse_linear(input, values, bias, pattern.packed, pattern.shape)
            raise
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
    _check_tensors(op, input, frozen=frozen, values=values, bias=bias)
    _check_call(op, pattern, backend)
    training = differentiable(input, values, bias)
    if backend == "auto":
        backend = choose(planner.frozen_costs, op, input, (pattern.shape,), pattern.nnz, training)
    _check_dense_linear(op, input, pattern, bias, frozen=frozen, values=values)
    try:
        if backend == "dense" or not training:
            return dense_linear(input, values, pattern, bias, frozen)
        weight = pattern.scatter(values, frozen.detach())
        return call(ops.frozen_linear.default, (input, weight, values, bias), (pattern.packed,))
    except RuntimeError:
        checks.check_frozen_linear(input, frozen, values, bias, pattern.packed)
        raise


def checked_conv2d(
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
    return conv2d(input, weight, bias, stride, padding, dilation, groups)


def _geometry(op: str, stride: _Pair, padding: _Pair, dilation: _Pair, groups: int) -> tuple:
    pairs = _pair(op, "stride", stride), _pair(op, "padding", padding), _pair(op, "dilation", dilation)
    return (*pairs, checks.check_int(op, "groups", groups))


def _pair(op: str, name: str, option: _Pair) -> tuple[int, int]:
    # The usual case first: asking a protocol costs more than the rest of a call.
    pair = (option, option) if type(option) is int else _pair_of(op, name, option)
    if max(pair) > checks.INT32_MAX:  # torch's convolution could not even read it
        checks.fail(op, f"{name} must be below 2^31, got {option!r}")
    return pair


def _pair_of(op: str, name: str, option: _Pair) -> tuple[int, int]:
    try:
        pair = (option, option) if hasattr(option, "__index__") else tuple(option)
        if len(pair) == 2:
            return (index(pair[0]), index(pair[1]))
    except (TypeError, ValueError):  # the latter from tensors of several numbers
        pass
    raise RuntimeError(f"{op}: {name} must be an int or a pair of ints, got {option!r}")


def _check_tensors(op: str, input: Tensor, bias: Tensor | None, **others: Tensor) -> None:
    checks.check_tensors(op, input=input, **others)
    if bias is not None:
        checks.check_tensors(op, bias=bias)


def _check_devices(op: str, input: Tensor, **others: Tensor | None) -> None:
    """torch's convolution takes an input without data and a weight with it."""
    device = input.device
    for name, tensor in others.items():
        if tensor is not None and tensor.device != device:
            checks.fail(op, f"{name} must be on input's device {device}, got {tensor.device}")


def _check_dense_linear(op: str, input: Tensor, pattern: SparsePattern, bias: Tensor | None, **others: Tensor) -> None:
    """What torch's linear layer would take all the same: it stretches a bias."""
    _check_devices(op, input, bias=bias, **others)
    if bias is not None and bias.shape != pattern.shape[:1]:
        checks.check_bias(op, bias, pattern.shape[0], input)


def _check_call(op: str, pattern: SparsePattern, backend: str, *more_backends: str) -> None:
    if not isinstance(pattern, SparsePattern):
        raise TypeError(f"{op}: pattern must be a SparsePattern, got {type(pattern).__name__}")
    allowed = ("auto", "sparse", "dense", *more_backends)
    if backend not in allowed:
        raise ValueError(f"{op}: backend must be one of {', '.join(allowed)}, got {backend!r}")
