"""How Python code calls an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# The autograd Functions of eager calls (autograd.py): a third of the time that the dispatcher takes for the same.
functions: dict[Callable[..., Tensor], type[torch.autograd.Function]] = {}


def call(op: Callable[..., Tensor], tensors: Sequence[Tensor | None], args: Sequence) -> Tensor:
    """Calls an operator past the dispatcher's autograd layer, which is Python and slow."""
    if torch.compiler.is_compiling():
        return op(*tensors, *args)
    if differentiable(*tensors):
        # Autocast comes before autograd: casts need gradients too.
        eager = not torch._C._is_any_autocast_enabled()
        return functions[op].apply(*tensors, *args) if eager else op(*tensors, *args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*tensors, *args)


def differentiable(*tensors: Tensor | None) -> bool:
    """Whether a result of these tensors would carry a gradient."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
