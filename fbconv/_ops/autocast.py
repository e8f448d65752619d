"""Autocast for the operators that take an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ops = torch.ops.fbconv


def _autocasting(op: Callable[..., Tensor], device: str, key: torch.DispatchKey) -> Callable[..., Tensor]:
    """Casts floating-point inputs to the dtype that autocast asks for, as it does for torch's own convolutions."""

    def call(*args: Any) -> Tensor:
        dtype = torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            return op(*(_cast(arg, dtype) for arg in args))

    return call


def _cast(arg: Any, dtype: torch.dtype) -> Any:
    castable = isinstance(arg, Tensor) and arg.is_floating_point() and arg.dtype != torch.float64
    return arg.to(dtype) if castable else arg


_library = torch.library.Library("fbconv", "IMPL")
for _name in ("sparse_conv2d", "sparse_linear", "fb_conv2d", "frozen_conv2d", "frozen_linear"):
    for _device, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        _overload = getattr(ops, _name).default
        _library.impl(_name, _autocasting(_overload, _device, getattr(torch._C.DispatchKey, _key)), _key)
