"""How Python code calls an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# The autograd Functions of eager calls (autograd.py): a third of the time that the dispatcher takes for the same.
functions: dict[Callable[..., Tensor], type[torch.autograd.Function]] = {}
# The overloads without autograd, which eager calls without gradients and compiled graphs go to directly.
kernels: dict[Callable[..., Tensor], Callable[..., Tensor]] = {}


def call(op: Callable[..., Tensor], tensors: Sequence[Tensor | None], args: Sequence) -> Tensor:
    """Calls an operator past the dispatcher's autograd layer, which is Python and slow."""
    if torch.compiler.is_compiling() or torch._C._is_any_autocast_enabled():
        return op(*tensors, *args)  # autocast comes before autograd: casts need gradients too
    if differentiable(*tensors):
        return functions[op].apply(*tensors, *args)
    return kernels[op](*tensors, *args)


def differentiable(*tensors: Tensor | None) -> bool:
    """Whether a result of these tensors would carry a gradient."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
