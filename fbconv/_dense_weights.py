"""Dense weights that outlive a call: a layer that is only used is scattered (or composed) once, not in every call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _C
from ._ops.call import differentiable

_MOST_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class _Kept:
    owner: weakref.ref[Tensor]  # with it the entry goes
    state: tuple
    fixed: tuple[Tensor | None, ...]
    weight: Tensor


_kept: dict[int, _Kept] = {}  # by the owner's id, oldest first; single dict operations need no lock


def dense_weight(
    make: Callable[[], Tensor], learned: Sequence[Tensor], fixed: tuple[Tensor | None, ...], *options: object
) -> Tensor:
    """``make()``, or what it gave before from tensors that held the same.

    Learned tensors are known by their contents, because optimizers and averages write to ``.data``, which no version
    counts; fixed ones (patterns, frozen weights), which no optimizer touches, by identity and version. Where a gradient
    is tracked or somebody looks at the operators, ``make`` is called.

    Args:
        make: without side effects; its result is shared by calls and must not be changed.
        learned: the values, which own what is kept, and what else is trained.
        fixed: what else the weight is made of.
        options: anything hashable that it depends on.
    """
    if not _keepable(learned, fixed):
        return make()
    # What is made in inference mode can take part in no backward pass.
    state = (options, torch.is_inference_mode_enabled(), *map(_content, learned), *map(_version, fixed))
    owner = learned[0]
    found = _kept.get(id(owner))
    if found is not None and found.state == state and all(a is b for a, b in zip(found.fixed, fixed, strict=True)):
        return found.weight
    weight = make()
    _keep(owner, state, fixed, weight)
    return weight


def _keepable(learned: Sequence[Tensor], fixed: Sequence[Tensor | None]) -> bool:
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or differentiable(*learned):
        return False
    if torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active():
        return False
    if torch._C._is_any_autocast_enabled():
        return False
    return all(t is None or _is_plain(t) for t in (*learned, *fixed))


def _is_plain(t: Tensor) -> bool:
    plain = type(t) in (Tensor, torch.nn.Parameter)
    return plain and t.is_cpu and t.is_contiguous() and not t.is_inference()


def _content(t: Tensor) -> tuple:
    return _C.fingerprint(t.data_ptr(), t.nbytes), t.dtype, t.shape


def _version(t: Tensor | None) -> tuple:
    return () if t is None else (t._version, t.data_ptr())


def _keep(owner: Tensor, state: tuple, fixed: tuple[Tensor | None, ...], weight: Tensor) -> None:
    key = id(owner)
    _kept.pop(key, None)
    _kept[key] = _Kept(weakref.ref(owner, lambda _: _kept.pop(key, None)), state, fixed, weight)
    entries = list(_kept.copy().items())  # a copy is made at once: owners may die meanwhile
    excess = sum(entry.weight.nbytes for _, entry in entries) - _MOST_BYTES
    for oldest, entry in entries:
        if excess <= 0:
            return
        _kept.pop(oldest, None)
        excess -= entry.weight.nbytes
