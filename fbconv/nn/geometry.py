"""The geometry of a convolution module, apart from its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from .compressed import copied_parameter


@dataclass(frozen=True)
class ConvGeometry:
    """Kernel size, stride, padding, dilation and groups as ``nn.Conv2d`` understands them."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int
    padding_mode: str

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvGeometry:
        """The geometry of a torch module."""
        padding = conv.padding if isinstance(conv.padding, str) else _pair(conv.padding)
        return cls(conv.kernel_size, conv.stride, padding, conv.dilation, conv.groups, conv.padding_mode)

    def padded(self, input: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The input and the keyword arguments of a functional call: padding that the kernels do not know (other modes
        than zeros, uneven "same") is put around the input first."""
        before, after = self._margins()
        geometry: dict[str, Any] = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        if self.padding_mode == "zeros" and before == after:
            return input, geometry | {"padding": before}
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        margins = (before[1], after[1], before[0], after[0])
        return nn.functional.pad(input, margins, mode=mode), geometry | {"padding": (0, 0)}

    def _margins(self) -> tuple[tuple[int, int], tuple[int, int]]:
        if self.padding == "valid":
            return (0, 0), (0, 0)
        if self.padding == "same":
            total = [self.dilation[i] * (self.kernel_size[i] - 1) for i in range(2)]
            return (total[0] // 2, total[1] // 2), (total[0] - total[0] // 2, total[1] - total[1] // 2)
        return self.padding, self.padding

    @torch.no_grad()
    def dense_module(self, weight: Tensor, requires_grad: bool, bias: nn.Parameter | None) -> nn.Conv2d:
        """A plain convolution of this geometry with these weights."""
        conv = nn.Conv2d(
            weight.shape[1] * self.groups,
            weight.shape[0],
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            bias is not None,
            self.padding_mode,
            device="meta",
        )
        conv.weight = nn.Parameter(weight.detach().clone(), requires_grad)
        conv.bias = copied_parameter(bias)
        return conv

    def text(self, shape: tuple[int, ...], bias: bool) -> str:
        """What ``nn.Conv2d`` prints of itself, defaults left out."""
        text = f"{shape[1] * self.groups}, {shape[0]}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}" if self.padding != (0, 0) else ""
        text += f", dilation={self.dilation}" if self.dilation != (1, 1) else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        text += "" if bias else ", bias=False"
        return text + (f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else "")


class ConvAttributes:
    """What code around an ``nn.Conv2d`` reads of it, from the geometry and the shape of the pattern."""

    geometry: ConvGeometry
    _shape: tuple[int, ...]

    @property
    def in_channels(self) -> int:
        return self._shape[1] * self.geometry.groups

    @property
    def out_channels(self) -> int:
        return self._shape[0]

    @property
    def kernel_size(self) -> tuple[int, int]:
        return self.geometry.kernel_size

    @property
    def stride(self) -> tuple[int, int]:
        return self.geometry.stride

    @property
    def padding(self) -> tuple[int, int] | str:
        return self.geometry.padding

    @property
    def dilation(self) -> tuple[int, int]:
        return self.geometry.dilation

    @property
    def groups(self) -> int:
        return self.geometry.groups

    @property
    def padding_mode(self) -> str:
        return self.geometry.padding_mode
