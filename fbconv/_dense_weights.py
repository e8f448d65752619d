"""Dense weights that outlive a call: a layer that is only used is scattered (or composed) once, not in every call.

Kept weights are found in compiled code (``csrc/bind/dense_ops.cpp``), by the contents of what is learned. How they are
made, how much they may take and that they go with their values is said here.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.library import impl

from . import _C
from ._composing import compose_filters
from .pattern import SparsePattern

_MOST_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class _Kept:
    owner: weakref.ref[Tensor]  # the values; with them the weight goes
    address: int
    bytes: int


_kept: dict[int, _Kept] = {}  # by the owner's id, oldest first; single dict operations need no lock


def make_weight(
    values: Tensor,
    frozen: Tensor | None,
    basis: Tensor | None,
    pattern: Tensor,
    shape: tuple[int, ...],
    groups: int,
    basis_axis: str,
    channels_last: bool,
) -> Tensor:
    """The dense weight with ``values`` at the packed pattern, over zeros or ``frozen``, or composed with ``basis``;
    differentiable in ``values`` and ``basis``."""
    weight = SparsePattern(pattern, shape).scatter(values, None if frozen is None else frozen.detach())
    if basis is not None:
        bases = basis[None] if basis.dim() == 3 else basis
        weight = compose_filters(weight, bases, groups=groups, basis_axis=basis_axis)
    return weight.to(memory_format=torch.channels_last) if channels_last else weight


def _may_keep(owner: Tensor, size: int) -> bool:
    """Whether a weight of this size may be kept for these values; others go for it."""
    key = id(owner)
    _forget(key)
    if torch._C._is_any_autocast_enabled():  # it may be rounded
        return False
    kept = _kept.copy()  # a copy is made at once: owners may die meanwhile
    excess = sum(entry.bytes for entry in kept.values()) + size - _MOST_BYTES
    for oldest, entry in kept.items():
        if excess <= 0:
            break
        _forget(oldest)
        excess -= entry.bytes
    if excess <= 0:
        _kept[key] = _Kept(weakref.ref(owner, lambda _: _forget(key)), owner.data_ptr(), size)
    return excess <= 0


def _forget(key: int) -> None:
    if (entry := _kept.pop(key, None)) is not None:
        _C.forget_weight(entry.address)


impl("fbconv::dense_weight", "default", torch.no_grad()(make_weight))
impl("fbconv::may_keep_weight", "default", _may_keep)
