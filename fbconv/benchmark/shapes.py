"""The layers that benchmarks run on: square maps, padding that keeps the size at stride 1."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Layer:
    """A convolution of square maps, or a linear layer.

    Attributes:
        name: on the command line and in tables.
        in_channels, out_channels: features of a linear layer.
        size: height and width of the input in pixels.
        kernel, stride, groups: of a convolution.
        linear: a linear layer has rows instead of maps; the other sizes stay 1.

    Example:
        >>> layer = Layer("strided", 128, 128, 56, stride=2)
        >>> layer.input_shape(32), layer.output_shape(32), layer.weight_shape
        ((32, 128, 56, 56), (32, 128, 28, 28), (128, 128, 3, 3))
    """

    name: str
    in_channels: int
    out_channels: int
    size: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    linear: bool = False

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        shape = (self.out_channels, self.in_channels // self.groups)
        return shape if self.linear else (*shape, self.kernel, self.kernel)

    def input_shape(self, batch: int) -> tuple[int, ...]:
        return (batch, self.in_channels) if self.linear else (batch, self.in_channels, self.size, self.size)

    def output_shape(self, batch: int) -> tuple[int, ...]:
        return (batch, self.out_channels) if self.linear else (batch, self.out_channels, self.out_size, self.out_size)

    def positions(self, batch: int) -> int:
        """Outputs of each channel: how often every weight is used."""
        return batch * prod(self.output_shape(batch)[2:])


VGG = (
    Layer("vgg-64x32", 64, 64, 32),
    Layer("vgg-128x16", 128, 128, 16),
    Layer("vgg-256x8", 256, 256, 8),
    Layer("vgg-512x4", 512, 512, 4),
)
RESNET50 = (
    Layer("resnet50-stem-7x7", 3, 64, 224, kernel=7, stride=2),
    Layer("resnet50-1x1", 256, 64, 56, kernel=1),
    Layer("resnet50-3x3", 128, 128, 28),
    Layer("resnet50-3x3-strided", 128, 128, 56, stride=2),
)
DEPTHWISE = (Layer("depthwise-3x3", 128, 128, 28, groups=128),)
LINEAR = (Layer("linear-512", 512, 512, 1, kernel=1, linear=True),)
LAYERS = {layer.name: layer for layer in VGG + RESNET50 + DEPTHWISE + LINEAR}
