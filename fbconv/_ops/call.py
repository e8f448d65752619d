"""How Python code calls an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def call(op: Callable[..., Tensor], tensors: Sequence[Tensor | None], args: Sequence) -> Tensor:
    """Calls an operator; where no gradient is to be tracked, below the autograd layer, which is Python and slow."""
    if differentiable(*tensors) or torch.compiler.is_compiling():
        return op(*tensors, *args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*tensors, *args)


def differentiable(*tensors: Tensor | None) -> bool:
    """Whether a result of these tensors would carry a gradient."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
