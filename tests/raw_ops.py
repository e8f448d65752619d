"""Argument lists for calling every torch.ops.fbconv operator directly."""

from collections.abc import Callable

import torch
from cases import randn, random_mask
from torch import Tensor

from fbconv import SparsePattern

GEOMETRY = ([2, 1], [1, 0], [1, 2])  # stride, padding, dilation
GROUPS = 2
WEIGHT_SHAPE = [4, 3, 3, 2]
COEFFICIENT_SHAPE = [4, 3, 5]
LINEAR_SHAPE = [4, 6]
INPUT_SHAPE = [2, 6, 7, 8]
OUTPUT_SHAPE = [2, 4, 4, 6]


def op(name: str) -> Callable[..., Tensor]:
    return getattr(torch.ops.fbconv, name).default


def raw_calls(generator: torch.Generator, device: torch.device, dtype: torch.dtype = torch.float64) -> dict[str, tuple]:
    """Valid positional arguments by operator name; values, bases and inputs are fresh leaves without gradients."""

    def rand(*shape: int) -> Tensor:
        return randn(generator, *shape).to(device, dtype)

    def sparse(shape: list[int]) -> tuple[Tensor, Tensor]:
        pattern = SparsePattern.from_mask(random_mask(generator, shape, 0.4)).to(device)
        return rand(pattern.nnz), pattern.packed

    x, grad = rand(*INPUT_SHAPE), rand(*OUTPUT_SHAPE)
    values, pattern = sparse(WEIGHT_SHAPE)
    coefficients, mixing = sparse(COEFFICIENT_SHAPE)
    entries, matrix = sparse(LINEAR_SHAPE)
    bias, basis = rand(4), rand(2, 5, 3, 2)
    rows, row_grad = rand(3, 6), rand(3, 4)
    conv, fb = (WEIGHT_SHAPE, *GEOMETRY, GROUPS), (COEFFICIENT_SHAPE, *GEOMETRY, GROUPS, "in")
    return {
        "sparse_conv2d": (x, values, bias, pattern, *conv),
        "sparse_conv2d_grad_input": (grad, values, pattern, INPUT_SHAPE, *conv),
        "sparse_conv2d_grad_values": (grad, x, pattern, *conv),
        "sparse_linear": (rows, entries, bias, matrix, LINEAR_SHAPE),
        "sparse_linear_grad_input": (row_grad, entries, matrix, LINEAR_SHAPE),
        "sparse_linear_grad_values": (row_grad, rows, matrix, LINEAR_SHAPE),
        "fb_conv2d": (x, basis, coefficients, bias, mixing, *fb, "basis_first"),
        "fb_conv2d_grad_input": (grad, basis, coefficients, mixing, INPUT_SHAPE, *fb),
        "fb_conv2d_grad_basis": (grad, x, coefficients, mixing, list(basis.shape), *fb),
        "fb_conv2d_grad_values": (grad, x, basis, mixing, *fb),
        "frozen_conv2d": (x, rand(*WEIGHT_SHAPE), values, bias, pattern, *GEOMETRY, GROUPS),
        "frozen_linear": (rows, rand(*LINEAR_SHAPE), entries, bias, matrix),
        "dense_conv2d": (x, coefficients, None, basis, bias, mixing, *fb),
        "dense_linear": (rows, entries, rand(*LINEAR_SHAPE), bias, matrix, LINEAR_SHAPE),
        "embed": (values, rand(*WEIGHT_SHAPE), pattern, WEIGHT_SHAPE),
        "gather": (rand(*WEIGHT_SHAPE), pattern),
    }


TRACED_INFERENCE = ["dense_conv2d", "dense_linear"]  # what layers on their dense plan become in a trace
ASKED_OF_PYTHON = ["dense_weight", "may_keep_weight", "half_conv2d"]  # by compiled code, no trace has them
DIFFERENTIABLE = ["sparse_conv2d", "sparse_linear", "fb_conv2d", "frozen_conv2d", "frozen_linear", "embed", "gather"]
ALL = [
    *DIFFERENTIABLE,
    *(f"sparse_conv2d_grad_{of}" for of in ("input", "values")),
    *(f"sparse_linear_grad_{of}" for of in ("input", "values")),
    *(f"fb_conv2d_grad_{of}" for of in ("input", "basis", "values")),
]
