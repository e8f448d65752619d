"""What is compared, as candidates for timing: our operators, and torch's dense layer in both memory formats."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import functional as F
from .operands import Operands
from .passes import pass_through
from .shapes import Layer
from .timing import Candidate

OPS = ("masked", "filter-basis", "frozen")
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def applicable(layer: Layer, op: str) -> bool:
    """Whether a layer has this operator: one tap needs no filter basis."""
    return op != "filter-basis" or layer.kernel > 1


def our_candidate(operands: Operands, op: str, direction: str) -> Candidate:
    """One pass of one operator by the sparse backend.

    Values change before each call, but for the forward pass of a single image or row, which is inference. Gradients
    come in the order input, values, and the basis of "filter-basis"; "grad-values" is the whole weight gradient.
    """
    layer, parameters = (_linear if operands.layer.linear else _conv)(operands, op)
    training = direction != "forward" or operands.batch > 1
    return pass_through(layer, (operands.input, *parameters), operands.grad, direction, training)


def _conv(operands: Operands, op: str) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    pattern, values = operands.pattern, operands.values
    options = operands.geometry | {"backend": "sparse"}
    if op == "masked":
        return lambda x, v: F.sparse_conv2d(x, v, pattern, **options), (values,)
    if op == "frozen":
        return lambda x, v: F.frozen_conv2d(x, operands.weight, v, pattern, **options), (values,)
    coefficients = operands.coefficients
    return lambda x, v, b: F.fb_conv2d(x, b, v, coefficients, **options), (values, operands.basis)


def _linear(operands: Operands, op: str) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    pattern = operands.pattern
    if op == "masked":
        return lambda x, v: F.sparse_linear(x, v, pattern, backend="sparse"), (operands.values,)
    return lambda x, v: F.frozen_linear(x, operands.weight, v, pattern, backend="sparse"), (operands.values,)


def dense_candidates(operands: Operands, direction: str) -> dict[str, Candidate]:
    """By memory format, one pass of torch's layer with the masked weight; a linear layer knows one format."""
    weight = operands.weight * operands.mask
    tensors = (operands.input, weight)
    if operands.layer.linear:
        return {"contiguous": pass_through(torch.nn.functional.linear, tensors, operands.grad, direction, False)}

    def layer(input: Tensor, weight: Tensor) -> Tensor:
        return torch.conv2d(input, weight, **operands.geometry)

    def candidate(memory_format: torch.memory_format) -> Candidate:
        input, kernel, grad = (t.contiguous(memory_format=memory_format) for t in (*tensors, operands.grad))
        return pass_through(layer, (input, kernel), grad, direction, False)

    return {name: candidate(memory_format) for name, memory_format in FORMATS.items()}
