"""The tensors of one benchmark: a layer at a batch size and a sparsity, in the form that each operator takes."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ..pattern import SparsePattern
from .shapes import Layer


class Operands:
    """Float32 tensors of a layer whose weights are kept at random.

    Attributes:
        layer, batch, sparsity: what it was made for.
        input, grad: ``layer.input_shape(batch)``, ``layer.output_shape(batch)``.
        mask, weight: of ``layer.weight_shape``; the weight is dense, zeros are put into it where an operator has them.
        pattern, values: the mask and the weight at it, ``(nnz,)``.

    Example:
        >>> Operands(Layer("small", 4, 8, 6), batch=2, sparsity=0.9).values.shape
        torch.Size([29])
    """

    def __init__(self, layer: Layer, batch: int, sparsity: float, seed: int = 0) -> None:
        self.layer, self.batch, self.sparsity = layer, batch, sparsity
        generator = torch.Generator().manual_seed(seed)
        self.input = torch.randn(layer.input_shape(batch), generator=generator)
        self.grad = torch.randn(layer.output_shape(batch), generator=generator)
        self.weight = torch.randn(layer.weight_shape, generator=generator)
        self.mask = _random_mask(layer.weight_shape, sparsity, generator)
        self.pattern = SparsePattern.from_mask(self.mask)
        self.values = self.pattern.gather(self.weight)
        self._generator = generator

    @property
    def geometry(self) -> dict[str, int]:
        """The convolution's options."""
        return {"stride": self.layer.stride, "padding": self.layer.padding, "groups": self.layer.groups}

    @cached_property
    def basis(self) -> Tensor:
        """One filter basis of as many elements as a filter has taps, ``(1, K * K, K, K)``."""
        taps = self.layer.kernel**2
        return torch.randn(1, taps, self.layer.kernel, self.layer.kernel, generator=self._generator)

    @cached_property
    def coefficients(self) -> SparsePattern:
        """The same mask, read as that of the coefficients ``(C_out, C_in / groups, K * K)``."""
        return SparsePattern.from_mask(self.mask.flatten(2))

    @property
    def live_columns(self) -> int:
        """(input channel, basis element) pairs that any kept coefficient uses."""
        return int(self.mask.flatten(2).unflatten(0, (self.layer.groups, -1)).any(1).sum())


def _random_mask(shape: tuple[int, ...], sparsity: float, generator: torch.Generator) -> Tensor:
    """Exactly ``round((1 - sparsity) * size)`` kept entries, at least one."""
    size = torch.Size(shape).numel()
    kept = max(1, round((1 - sparsity) * size))
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.randperm(size, generator=generator)[:kept]] = True
    return mask.view(shape)
