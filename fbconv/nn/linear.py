"""Sparse and frozen linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import functional as F
from .compressed import Compressed, copied_parameter


def linear_module(weight: Tensor, requires_grad: bool, bias: nn.Parameter | None) -> nn.Linear:
    """A plain linear layer with these weights."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad)
    linear.bias = copied_parameter(bias)
    return linear


class _CompressedLinear(Compressed):
    """A linear layer over a compressed weight."""

    _frozen = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._take(nn.Linear(in_features, out_features, bias, device=device, dtype=dtype), mask)

    def _take(self, dense: nn.Linear, mask: Tensor | None) -> None:
        self._compress(dense.weight, mask, self._frozen, dense.weight.requires_grad)
        self.bias = copied_parameter(dense.bias)

    @classmethod
    def from_dense(cls, module: nn.Linear, mask: Tensor | None = None):
        """A layer with the weights of ``module``, of which ``mask`` ``(out, in)`` (None keeps all) are trained.

        Raises:
            TypeError: another kind of module. ValueError: a mask of another shape.
        """
        if not isinstance(module, nn.Linear):
            raise TypeError(f"{cls.__name__}.from_dense: module must be an nn.Linear, got {type(module).__name__}")
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._take(module, mask)
        return layer.train(module.training)

    @property
    def weight(self) -> Tensor:
        """The effective dense weight ``(out, in)``."""
        return self.dense_values()

    @property
    def in_features(self) -> int:
        return self._shape[1]

    @property
    def out_features(self) -> int:
        return self._shape[0]

    def to_dense(self) -> nn.Linear:
        """A plain ``nn.Linear`` that computes the same."""
        return linear_module(self.weight, self.values.requires_grad, self.bias).train(self.training)

    def extra_repr(self) -> str:
        return f"{self._shape[1]}, {self._shape[0]}, bias={self.bias is not None}, {self._density_text()}"


class SparseLinear(_CompressedLinear):
    """Drop-in ``nn.Linear`` that stores and trains only the weights its mask keeps.

    Args:
        in_features, out_features, bias, device, dtype: as for ``nn.Linear``, whose initialisation it takes.
        mask: ``(out, in)``, True = kept; None keeps all.

    Example:
        >>> linear = torch.nn.Linear(300, 100)
        >>> sparse = SparseLinear.from_dense(linear, torch.rand_like(linear.weight) < 0.05)
        >>> sparse(torch.randn(8, 300)).shape
        torch.Size([8, 100])
    """

    _may_freeze = False

    def forward(self, input: Tensor) -> Tensor:
        return F.sparse_linear(input, self.values, self.pattern, self.bias, backend=self.backend)


class FrozenLinear(_CompressedLinear):
    """Drop-in ``nn.Linear`` whose weights outside the mask stay frozen at their values, bit for bit.

    Args: as for :class:`SparseLinear`; ``mask`` says which weights are trained.

    Example:
        >>> linear = torch.nn.Linear(300, 100)
        >>> frozen = FrozenLinear.from_dense(linear, torch.rand_like(linear.weight) < 0.05)
        >>> frozen(torch.randn(8, 300)).shape
        torch.Size([8, 100])

    Source: FreezeNet.
    """

    _frozen = True

    def forward(self, input: Tensor) -> Tensor:
        return F.frozen_linear(input, self.frozen_weights(), self.values, self.pattern, self.bias, backend=self.backend)
