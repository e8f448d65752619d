"""Sparse and frozen 2-d convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import functional as F
from .compressed import Compressed, copied_parameter
from .geometry import ConvAttributes, ConvGeometry


class _CompressedConv2d(ConvAttributes, Compressed):
    """A convolution over a compressed spatial weight."""

    _frozen = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        kwargs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias}
        dense = nn.Conv2d(
            in_channels, out_channels, kernel_size, **kwargs, padding_mode=padding_mode, device=device, dtype=dtype
        )
        self._take(dense, mask)

    def _take(self, dense: nn.Conv2d, mask: Tensor | None) -> None:
        self.geometry = ConvGeometry.of(dense)
        self._compress(dense.weight, mask, self._frozen, dense.weight.requires_grad)
        self.bias = copied_parameter(dense.bias)

    @classmethod
    def from_dense(cls, module: nn.Conv2d, mask: Tensor | None = None):
        """A layer with the weights of ``module``, of which ``mask`` (the weight's shape; None keeps all) are trained.

        Raises:
            TypeError: another kind of module. ValueError: a mask of another shape.
        """
        if not isinstance(module, nn.Conv2d):
            raise TypeError(f"{cls.__name__}.from_dense: module must be an nn.Conv2d, got {type(module).__name__}")
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._take(module, mask)
        return layer.train(module.training)

    @property
    def weight(self) -> Tensor:
        """The effective dense weight ``(C_out, C_in / groups, KH, KW)``."""
        return self.dense_values()

    def to_dense(self) -> nn.Conv2d:
        """A plain ``nn.Conv2d`` that computes the same."""
        return self.geometry.dense_module(self.weight, self.values.requires_grad, self.bias).train(self.training)

    def extra_repr(self) -> str:
        return f"{self.geometry.text(self._shape, self.bias is not None)}, {self._density_text()}"


class SparseConv2d(_CompressedConv2d):
    """Drop-in ``nn.Conv2d`` that stores and trains only the weights its mask keeps.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: as
            for ``nn.Conv2d``, whose initialisation it takes.
        mask: ``(C_out, C_in / groups, KH, KW)``, True = kept; None keeps all.

    Example:
        >>> conv = torch.nn.Conv2d(64, 64, 3, padding=1)
        >>> sparse = SparseConv2d.from_dense(conv, torch.rand_like(conv.weight) < 0.01)
        >>> sparse(torch.randn(1, 64, 32, 32)).shape
        torch.Size([1, 64, 32, 32])
    """

    _may_freeze = False

    def forward(self, input: Tensor) -> Tensor:
        input, geometry = self.geometry.padded(input)
        return F.sparse_conv2d(input, self.values, self.pattern, self.bias, **geometry, backend=self.backend)


class FrozenConv2d(_CompressedConv2d):
    """Drop-in ``nn.Conv2d`` whose weights outside the mask stay frozen at their values, bit for bit.

    Args: as for :class:`SparseConv2d`; ``mask`` says which weights are trained.

    Example:
        >>> conv = torch.nn.Conv2d(64, 64, 3, padding=1)
        >>> frozen = FrozenConv2d.from_dense(conv, torch.rand_like(conv.weight) < 0.01)
        >>> [name for name, _ in frozen.named_parameters()]
        ['values', 'bias']

    Source: FreezeNet.
    """

    _frozen = True

    def forward(self, input: Tensor) -> Tensor:
        input, geometry = self.geometry.padded(input)
        args = (self.frozen_weights(), self.values, self.pattern, self.bias)
        return F.frozen_conv2d(input, *args, **geometry, backend=self.backend)
