"""Every operator in plain PyTorch: its definition, and the tests' oracle.

Nothing here calls a compiled kernel. Each function is written as its formula is, differentiable by autograd in any
floating dtype, and slow. A pattern is a boolean ``mask`` (True = trained or kept) and ``values`` holds the masked
entries in the mask's row-major order.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = int | tuple[int, int]


def embed(values: Tensor, mask: Tensor, frozen: Tensor | None = None) -> Tensor:
    """Dense tensor with ``values`` at the mask and ``frozen`` (by default zeros) elsewhere.

    The embedding psi of dimensionality-reduced training: pruning without ``frozen``, freezing with it. ``frozen``
    gets no gradient.

    Args:
        values: ``(nnz,)``.
        mask: bool, any shape with ``nnz`` entries True.
        frozen: the mask's shape.

    Example:
        >>> embed(torch.tensor([5.0]), torch.tensor([[False, True]]))
        tensor([[0., 5.]])
    """
    base = values.new_zeros(mask.shape) if frozen is None else frozen.detach()
    return base.masked_scatter(mask, values)


def gather(dense: Tensor, mask: Tensor) -> Tensor:
    """The masked entries of ``dense`` as ``(nnz,)``, in row-major order: the left inverse of :func:`embed`.

    Example:
        >>> gather(torch.tensor([[1.0, 2.0]]), torch.tensor([[False, True]]))
        tensor([2.])
    """
    return dense.masked_select(mask)


def sparse_conv2d(
    input: Tensor,
    values: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution with the pruned weight ``psi values`` (static pruning).

    Args:
        input: ``(batch, in_channels, height, width)``.
        values: ``(nnz,)``.
        mask: ``(out_channels, in_channels / groups, kernel_height, kernel_width)``.
        bias: ``(out_channels,)`` or None.

    Example:
        >>> mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
        >>> sparse_conv2d(torch.ones(1, 1, 2, 2), torch.ones(4), mask).item()
        4.0
    """
    return F.conv2d(input, embed(values, mask), bias, stride, padding, dilation, groups)


def frozen_conv2d(
    input: Tensor,
    frozen: Tensor,
    values: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution with the weight ``frozen`` whose masked entries are replaced by the trained ``values`` (FreezeNet).

    Shapes as in :func:`sparse_conv2d`; ``frozen`` has the mask's shape and gets no gradient.

    Example:
        >>> mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
        >>> frozen_conv2d(torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 3.0), torch.empty(0), mask).item()
        3.0
    """
    return F.conv2d(input, embed(values, mask, frozen), bias, stride, padding, dilation, groups)


def sparse_linear(input: Tensor, values: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input @ weight.T + bias`` with the pruned weight.

    Args:
        input: ``(*, in_features)``.
        values: ``(nnz,)``.
        mask: ``(out_features, in_features)``.
        bias: ``(out_features,)`` or None.

    Example:
        >>> sparse_linear(torch.ones(1, 2), torch.tensor([5.0]), torch.tensor([[False, True]]))
        tensor([[5.]])
    """
    return F.linear(input, embed(values, mask), bias)


def frozen_linear(input: Tensor, frozen: Tensor, values: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
    """:func:`sparse_linear` with ``frozen`` outside the mask instead of zeros; ``frozen`` gets no gradient.

    Example:
        >>> frozen_linear(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([5.0]), torch.tensor([[False, True]]))
        tensor([[6.]])
    """
    return F.linear(input, embed(values, mask, frozen), bias)


def fb_conv2d(
    input: Tensor,
    basis: Tensor,
    values: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    basis_axis: str = "in",
) -> Tensor:
    """Filter-basis convolution: every input channel with every filter of its basis, then the sparse mix.

    ``Z[b, n] = conv(input[b], g[n])`` and ``output[a] = sum over kept (b, n) of lam[a, b, n] Z[b, n]`` (interspace
    pruning, the forward pass in basis-first order).

    Args:
        input: ``(batch, in_channels, height, width)``.
        basis: ``(n_elements, kernel_height, kernel_width)``; or ``(n_bases, n_elements, kernel_height,
            kernel_width)``, where equal blocks of neighbouring channels have a basis each.
        values: ``(nnz,)``, the kept coefficients.
        mask: ``(out_channels, in_channels / groups, n_elements)``.
        bias: ``(out_channels,)`` or None.
        basis_axis: whether the blocks are of input (``"in"``) or of output channels (``"out"``).

    Example:
        >>> basis = torch.eye(4).reshape(4, 2, 2)
        >>> mask = torch.ones(1, 1, 4, dtype=torch.bool)
        >>> fb_conv2d(torch.ones(1, 1, 2, 2), basis, torch.ones(4), mask).item()
        4.0
    """
    bases = basis if basis.dim() == 4 else basis.unsqueeze(0)
    coefficients = embed(values, mask)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    if basis_axis == "in":
        per_channel = bases.repeat_interleave(_block(input.shape[1], len(bases)), dim=0)
        output = _mix(_basis_maps(input, per_channel, **geometry), coefficients, groups)
    elif basis_axis == "out":
        rows = _block(len(mask), len(bases))
        outputs = []
        for i, one in enumerate(bases):
            maps = _basis_maps(input, one.expand(input.shape[1], *one.shape), **geometry)
            outputs.append(_mix(maps, coefficients, groups)[:, i * rows : (i + 1) * rows])
        output = torch.cat(outputs, dim=1)
    else:
        raise ValueError(f'fb_conv2d: basis_axis must be "in" or "out", got {basis_axis!r}')
    return output if bias is None else output + bias.view(-1, 1, 1)


def _block(channels: int, n_bases: int) -> int:
    if channels % n_bases:
        raise ValueError(f"fb_conv2d: basis must hold a divisor of {channels} bases, got {n_bases}")
    return channels // n_bases


def _basis_maps(input: Tensor, per_channel: Tensor, **geometry: Pair) -> Tensor:
    """``Z`` as (batch, in_channels, n_elements, h, w); ``per_channel`` is (in_channels, n_elements, kh, kw)."""
    channels, elements = per_channel.shape[:2]
    maps = F.conv2d(input, per_channel.flatten(0, 1).unsqueeze(1), groups=channels, **geometry)
    return maps.unflatten(1, (channels, elements))


def _mix(maps: Tensor, coefficients: Tensor, groups: int) -> Tensor:
    maps = maps.unflatten(1, (groups, -1))
    coefficients = coefficients.unflatten(0, (groups, -1))
    return torch.einsum("xgbnhw,gabn->xgahw", maps, coefficients).flatten(1, 2)
