"""The spatial filters of filter-basis layers: coefficients over bases, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._ops.checks import check_basis, check_floating, check_int, check_like, check_tensors, composed_shape, fail


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
    _check(coefficients, basis, groups, basis_axis)
    bases = bases_of_channels(basis, coefficients.shape, groups, basis_axis)
    if basis.shape[0] == 1:  # one product instead of one for every filter
        return (coefficients @ basis[0].flatten(-2)).unflatten(-1, basis.shape[-2:])
    return (coefficients[..., None, :] @ bases.flatten(-2))[..., 0, :].unflatten(-1, basis.shape[-2:])


def _check(coefficients: Tensor, basis: Tensor, groups: int, basis_axis: str) -> None:
    op = "compose_filters"
    check_tensors(op, coefficients=coefficients, basis=basis)
    check_floating(op, "coefficients", coefficients)
    check_like(op, "basis", basis, "coefficients", coefficients)
    composed_shape(op, basis.shape, coefficients.shape)
    if not check_int(op, "groups", groups) >= 1 or coefficients.shape[0] % groups != 0:
        fail(op, f"groups must divide the {coefficients.shape[0]} output channels, got {groups}")
    check_basis(op, basis.shape, coefficients.shape[1] * groups, coefficients.shape[0], basis_axis)


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


def project_filters(weight: Tensor, bases: Tensor) -> Tensor:
    """Coefficients ``(C_out, C_in / groups, n_elements)`` of filters in the bases ``(C_out or 1, C_in / groups or 1,
    n_elements, KH, KW)``, by least squares."""
    if weight.is_meta:
        return weight.new_empty(*weight.shape[:2], bases.shape[-3])
    flat = bases.flatten(-2)
    identity = torch.eye(flat.shape[-2], dtype=flat.dtype, device=flat.device)
    orthonormal = bool((flat @ flat.mT == identity).all())  # unit filters: keep the weights' very bits
    inverse = flat.mT if orthonormal else torch.linalg.pinv(flat.double()).to(flat.dtype)
    return (weight.flatten(-2)[..., None, :] @ inverse)[..., 0, :]
