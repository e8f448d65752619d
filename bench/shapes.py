"""The layers that benchmarks run on; their list is installed with the package, for ``fbconv bench``."""

from __future__ import annotations

from fbconv.benchmark.shapes import DEPTHWISE, LAYERS, LINEAR, RESNET50, VGG, Layer

__all__ = ["DEPTHWISE", "LAYERS", "LINEAR", "RESNET50", "VGG", "Layer", "resnet50_weights"]


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
