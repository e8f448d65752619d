"""Passes through a layer as users make them: forward without gradients, gradients by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .timing import Candidate

DIRECTIONS = ("forward", "grad-input", "grad-values", "backward", "step")

# Which gradients a pass asks for, of (input, *parameters).
_WANTED = {"grad-input": slice(0, 1), "grad-values": slice(1, None)}


def pass_through(
    layer: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Tensor, direction: str, training: bool
) -> Candidate:
    """One pass as a candidate for timing.

    Args:
        layer: computes the output from ``tensors``.
        tensors: the input and the parameters; the candidate has leaves of its own in the same memory formats.
        grad: gradient of the output.
        direction: "forward"; "grad-input", "grad-values" or "backward" (both), after an untimed forward pass that
            tracks just these gradients; "step", forward and backward together.
        training: whether parameters change in place before each call, untimed, as an optimiser changes them, so that
            nothing cached under their version serves again.

    Returns:
        A candidate whose call returns the output ("forward") or the tuple of gradients in the order of ``tensors``.
    """
    leaves = [tensor.detach().clone(memory_format=torch.preserve_format) for tensor in tensors]
    change = (lambda: _change_in_place(leaves[1:])) if training else (lambda: None)
    if direction == "forward":
        return Candidate(torch.no_grad()(lambda: layer(*leaves)), change)
    wanted = [leaf.requires_grad_() for leaf in leaves[_WANTED.get(direction, slice(None))]]
    if direction == "step":
        return Candidate(lambda: torch.autograd.grad(layer(*leaves), wanted, grad), change)
    outputs: list[Tensor] = []

    def forward() -> None:
        change()
        outputs.append(layer(*leaves))

    return Candidate(lambda: torch.autograd.grad(outputs.pop(), wanted, grad), forward)


def _change_in_place(parameters: Sequence[Tensor]) -> None:
    """Moves the version of each parameter, not its numbers."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0)
