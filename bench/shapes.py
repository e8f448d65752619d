"""The layers that benchmarks run on; their list is installed with the package, for ``fbconv bench``."""

from fbconv.benchmark.shapes import DEPTHWISE, LAYERS, LINEAR, RESNET50, VGG, Layer

__all__ = ["DEPTHWISE", "LAYERS", "LINEAR", "RESNET50", "VGG", "Layer"]
