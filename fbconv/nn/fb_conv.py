"""Filter-basis convolution: interspace coefficients over a shared basis."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import functional as F
from .._composing import bases_of_channels, project_filters
from .compressed import Compressed, copied_parameter
from .filter_basis import FilterBasis
from .geometry import ConvAttributes, ConvGeometry


class FBConv2d(ConvAttributes, Compressed):
    """Drop-in ``nn.Conv2d`` whose filters are sparse coefficients over a trained filter basis.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: as
            for ``nn.Conv2d``.
        basis: a :class:`FilterBasis`, which other layers may share; a standard one of its own if None.
        mask: ``(C_out, C_in / groups, n_elements)``, True = trained coefficient; None trains all.
        basis_axis: whether a basis with ``n_bases`` belongs to blocks of "in" or of "out" channels.

    Attributes:
        values: parameter ``(nnz,)``, the coefficients at the mask.
        basis: the :class:`FilterBasis`.

    Example:
        >>> layer = FBConv2d.from_dense(torch.nn.Conv2d(16, 32, 3, padding=1))
        >>> layer(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 8, 8])

    Source: interspace pruning.
    """

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
        basis: FilterBasis | None = None,
        mask: Tensor | None = None,
        basis_axis: str = "in",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        kwargs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias}
        dense = nn.Conv2d(
            in_channels, out_channels, kernel_size, **kwargs, padding_mode=padding_mode, device=device, dtype=dtype
        )
        self._take(dense, basis, mask, basis_axis)

    def _take(
        self,
        dense: nn.Conv2d,
        basis: FilterBasis | None,
        mask: Tensor | None,
        basis_axis: str,
        generator: torch.Generator | None = None,
    ) -> None:
        if basis_axis not in ("in", "out"):
            raise ValueError(f'FBConv2d: basis_axis must be "in" or "out", got {basis_axis!r}')
        self.geometry = ConvGeometry.of(dense)
        weight = dense.weight.detach()
        own = FilterBasis(dense.kernel_size, device=weight.device, dtype=weight.dtype)
        self.basis = basis or own.requires_grad_(dense.weight.requires_grad)
        self.basis_axis = basis_axis
        if self.basis.kernel_size != tuple(dense.kernel_size):
            raise ValueError(
                f"FBConv2d: basis must have kernel size {tuple(dense.kernel_size)}, got {self.basis.kernel_size}"
            )
        if self.basis.init == "random":
            shape = (*weight.shape[:2], self.basis.n_elements)
            noise = torch.randn(shape, generator=generator, dtype=weight.dtype, device=weight.device)
            coefficients = noise * weight.std()
        else:
            bases = bases_of_channels(self.basis.stacked().detach(), weight.shape, dense.groups, basis_axis)
            coefficients = project_filters(weight, bases)
        self._compress(coefficients, mask, frozen=False, requires_grad=dense.weight.requires_grad)
        self.bias = copied_parameter(dense.bias)

    @classmethod
    def from_dense(
        cls,
        conv: nn.Conv2d,
        basis: FilterBasis | None = None,
        mask: Tensor | None = None,
        *,
        basis_axis: str = "in",
        generator: torch.Generator | None = None,
    ) -> FBConv2d:
        """A layer that starts from the weights of ``conv``.

        The coefficients are those of the spatial filters in the basis, so a full basis computes the same function; with
        fewer elements they are the best approximation. A "random" basis cannot express every filter: its coefficients
        are drawn anew (from ``generator``) with the variance of the spatial weights, which its filters then have too.

        Raises:
            TypeError: another kind of module. ValueError: a basis or mask that does not fit.
        """
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"FBConv2d.from_dense: conv must be an nn.Conv2d, got {type(conv).__name__}")
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._take(conv, basis, mask, basis_axis, generator)
        return layer.train(conv.training)

    @property
    def weight(self) -> Tensor:
        """The composed spatial weight ``(C_out, C_in / groups, KH, KW)``."""
        groups, basis = self.geometry.groups, self.basis.stacked()
        return F.compose_filters(self.dense_values(), basis, groups=groups, basis_axis=self.basis_axis)

    def to_dense(self) -> nn.Conv2d:
        """A plain ``nn.Conv2d`` with the composed filters."""
        return self.geometry.dense_module(self.weight, self.values.requires_grad, self.bias).train(self.training)

    def forward(self, input: Tensor) -> Tensor:
        input, geometry = self.geometry.padded(input)
        if self.frozen is not None:  # frozen coefficients make every filter dense
            return F.checked_conv2d("fb_conv2d", input, self.weight, self.bias, **geometry)
        args = (self.basis.elements, self.values, self.pattern, self.bias)
        return F.fb_conv2d(input, *args, **geometry, basis_axis=self.basis_axis, backend=self.backend)

    def extra_repr(self) -> str:
        shape = (self._shape[0], self._shape[1])
        return f"{self.geometry.text(shape, self.bias is not None)}, {self._density_text()}"
