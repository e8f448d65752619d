"""Useful floating-point operations: what the layer is worth, not what a kernel spends on it."""

from __future__ import annotations

from .operands import Operands

# How often a pass of a masked layer uses each weight at each position.
_MASKED = {"forward": 1, "grad-input": 1, "grad-values": 1, "backward": 2, "step": 3}
_FROZEN_DENSE = {"forward": 1, "grad-input": 1, "grad-values": 0, "backward": 1, "step": 2}
# (coefficients, basis elements), of basis first on live columns with everything computed once. Z = basis * X and
# dZ = coefficients^T * dY are needed by both weight gradients, dZ by the input gradient, and Z remains from a step's
# forward pass.
_FILTER_BASIS = {"forward": (1, 1), "grad-input": (1, 1), "grad-values": (2, 2), "backward": (2, 3), "step": (3, 3)}


def useful_flops(operands: Operands, op: str, direction: str) -> int:
    """Two for each multiply-add: a kept weight at an output position, padding included.

    A frozen layer's forward pass and input gradient count as the dense ones that they are. A filter basis counts as
    basis first: the taps of each live column (input channel and basis element that any kept coefficient uses) and one
    multiply-add for each kept coefficient.

    Example:
        >>> from fbconv.benchmark.shapes import Layer
        >>> useful_flops(Operands(Layer("small", 4, 8, 6), batch=1, sparsity=0.5), "masked", "forward") == 2 * 144 * 36
        True
    """
    kept, weights = operands.pattern.nnz, operands.mask.numel()
    if op == "filter-basis":
        coefficients, taps = _FILTER_BASIS[direction]
        used = coefficients * kept + taps * operands.live_columns * operands.layer.kernel**2
    elif op == "frozen":
        dense = _FROZEN_DENSE[direction]
        used = dense * weights + (_MASKED[direction] - dense) * kept
    else:
        used = _MASKED[direction] * kept
    return 2 * used * operands.layer.positions(operands.batch)
