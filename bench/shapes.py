"""The layers that benchmarks run on: square maps, padding that keeps the size at stride 1."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A convolution: ``channels`` in and out, ``size`` x ``size`` maps, ``kernel`` x ``kernel`` filters."""

    name: str
    in_channels: int
    out_channels: int
    size: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)


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
LAYERS = VGG + RESNET50 + DEPTHWISE


def resnet50_weights() -> dict[str, tuple[int, ...]]:
    """Name -> shape of all 54 weights of ResNet-50 that can be pruned: 25,502,912 in its convolutions and last layer.

    Source: He et al. 2016, table 1.
    """
    shapes = {"conv1": (64, 3, 7, 7)}
    channels = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1"] = (width, channels, 1, 1)
            shapes[f"{name}.conv2"] = (width, width, 3, 3)
            shapes[f"{name}.conv3"] = (4 * width, width, 1, 1)
            if block == 0:
                shapes[f"{name}.downsample"] = (4 * width, channels, 1, 1)
            channels = 4 * width
    return shapes | {"fc": (1000, channels)}
