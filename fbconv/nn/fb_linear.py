"""Filter-basis linear layer: blocks of rows as coefficients over a shared basis."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .fb_conv import FBConv2d
from .filter_basis import FilterBasis
from .linear import linear_module


class FBLinear(FBConv2d):
    """Drop-in ``nn.Linear`` whose rows are cut into blocks, each a sparse combination of trained basis vectors.

    ``weight[a, b * K : (b + 1) * K] = sum_n coefficients[a, b, n] basis[n]``: a convolution whose channels are the
    blocks of the input and whose kernel, 1 x K, covers one of them.

    Args:
        in_features, out_features, bias, device, dtype: as for ``nn.Linear``.
        block: K, which divides ``in_features``; the width of ``basis`` if there is one.
        basis: a :class:`FilterBasis` of kernel size ``(1, K)``, which other layers may share; a standard one of its own
            if None.
        mask: ``(out, in / K, n_elements)``, True = trained coefficient; None trains all.
        basis_axis: whether a basis with ``n_bases`` belongs to groups of input blocks ("in") or of output features
            ("out").

    Attributes:
        values: parameter ``(nnz,)``, the coefficients at the mask.
        basis: the :class:`FilterBasis`.

    Raises:
        ValueError: a block that does not divide the input, a basis or mask that does not fit.

    Example:
        >>> layer = FBLinear.from_dense(torch.nn.Linear(64, 10), block=8)
        >>> layer(torch.randn(2, 5, 64)).shape
        torch.Size([2, 5, 10])

    Source: interspace pruning, outlook on linear layers.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        block: int = 8,
        basis: FilterBasis | None = None,
        mask: Tensor | None = None,
        basis_axis: str = "in",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        dense = nn.Linear(in_features, out_features, bias, device=device, dtype=dtype)
        self._take(blocked(dense, _width(block, basis)), basis, mask, basis_axis)

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear,
        basis: FilterBasis | None = None,
        mask: Tensor | None = None,
        *,
        block: int = 8,
        basis_axis: str = "in",
        generator: torch.Generator | None = None,
    ) -> FBLinear:
        """A layer that starts from the weights of ``linear``, as :meth:`FBConv2d.from_dense` does.

        Raises:
            TypeError: another kind of module. ValueError: a block, basis or mask that does not fit.
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"FBLinear.from_dense: linear must be an nn.Linear, got {type(linear).__name__}")
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._take(blocked(linear, _width(block, basis)), basis, mask, basis_axis, generator)
        return layer.train(linear.training)

    @property
    def weight(self) -> Tensor:
        """The composed weight ``(out, in)``."""
        return super().weight.flatten(1)

    @property
    def in_features(self) -> int:
        return self._shape[1] * self.basis.kernel_size[1]

    @property
    def out_features(self) -> int:
        return self._shape[0]

    def to_dense(self) -> nn.Linear:
        """A plain ``nn.Linear`` with the composed rows."""
        return linear_module(self.weight, self.values.requires_grad, self.bias).train(self.training)

    def forward(self, input: Tensor) -> Tensor:
        blocks, width = self._shape[1], self.basis.kernel_size[1]
        if input.dim() == 0 or input.shape[-1] != self.in_features:
            raise RuntimeError(
                f"fb_linear: input must have {self.in_features} features in its last dimension, got shape "
                f"{tuple(input.shape)}"
            )
        if self.frozen is not None:  # frozen coefficients make every row dense
            return nn.functional.linear(input, self.weight, self.bias)
        output = super().forward(input.reshape(-1, blocks, 1, width))
        return output.view(*input.shape[:-1], self._shape[0])

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self._density_text()}"


def blocked(linear: nn.Linear, block: int) -> nn.Conv2d:
    """The convolution over blocks of the input that a linear layer is; it shares the layer's memory.

    Raises:
        ValueError: a block that does not divide the input.
    """
    inputs, outputs = linear.in_features, linear.out_features
    if block < 1 or inputs % block != 0:
        raise ValueError(f"FBLinear: block must divide the {inputs} input features, got {block}")
    conv = nn.Conv2d(inputs // block, outputs, (1, block), bias=linear.bias is not None, device="meta")
    weight = linear.weight.detach().view(outputs, inputs // block, 1, block)
    conv.weight, conv.bias = nn.Parameter(weight, linear.weight.requires_grad), linear.bias
    return conv


def _width(block: int, basis: FilterBasis | None) -> int:
    return block if basis is None else basis.kernel_size[1]
