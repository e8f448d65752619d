"""The networks of the experiments, built by name, their weights drawn from a seed."""

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .convert import initialise

_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_VGG7 = ((16,), (32,), (64,), (128, 128), (256,))  # trains on CIFAR-10 in half a minute an epoch and core
_RESNET18 = (64, 128, 256, 512)


def _lenet300(channels: int, size: int, classes: int) -> nn.Sequential:
    widths = (channels * size * size, 300, 100)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
        layers[f"fc{i}"] = nn.Linear(inputs, outputs)
        layers[f"relu{i}"] = nn.ReLU()
    layers["fc3"] = nn.Linear(widths[-1], classes)
    return nn.Sequential(layers)


def _lenet5(channels: int, size: int, classes: int) -> nn.Sequential:
    # ReLU after the pool: the maximum of the clipped is the clipped maximum, at a quarter of the cost.
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(((channels, 20), (20, 50)), start=1):
        layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, 5)
        layers[f"pool{i}"] = nn.MaxPool2d(2)
        layers[f"relu{i}"] = nn.ReLU()
        size = (size - 4) // 2
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(50 * size * size, 500)
    layers["relu3"] = nn.ReLU()
    layers["fc2"] = nn.Linear(500, classes)
    return nn.Sequential(layers)


def _vgg(stages: Sequence[Sequence[int]], hidden: int, channels: int, size: int, classes: int) -> nn.Sequential:
    """Stages of 3x3 convolutions, a pool after each, then so many hidden linear layers of 512 units."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, stage in enumerate(stages, start=1):
        for j, width in enumerate(stage, start=1):
            layers[f"conv{i}_{j}"] = nn.Conv2d(channels, width, 3, padding=1)
            layers[f"norm{i}_{j}"] = nn.BatchNorm2d(width)
            layers[f"relu{i}_{j}"] = nn.ReLU()
            channels = width
        # Rounding up changes nothing at 32 x 32 and lets 28 x 28 images through.
        layers[f"pool{i}"] = nn.MaxPool2d(2, ceil_mode=True)
        size = math.ceil(size / 2)
    layers["flatten"] = nn.Flatten()
    features = channels * size * size
    for i in range(1, hidden + 1):
        layers[f"fc{i}"] = nn.Linear(features, 512)
        layers[f"fc_norm{i}"] = nn.BatchNorm1d(512)
        layers[f"fc_relu{i}"] = nn.ReLU()
        features = 512
    layers[f"fc{hidden + 1}"] = nn.Linear(features, classes)
    return nn.Sequential(layers)


class BasicBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut: ``(B, C_in, H, W)`` to ``(B, C_out, H', W')``.

    ``H' = ceil(H / stride)``, and so W'. The shortcut is the input itself, or its normalised 1x1 convolution where the
    shape changes.

    Args:
        inputs, outputs: channels.
        stride: of the first convolution and the shortcut.

    Example:
        >>> BasicBlock(16, 32, stride=2)(torch.zeros(2, 16, 7, 7)).shape
        torch.Size([2, 32, 4, 4])

    Source:
        He et al., "Deep residual learning for image recognition", figure 2; projections of its option B.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        projection: OrderedDict[str, nn.Module] = OrderedDict()
        if stride != 1 or inputs != outputs:
            projection["conv"] = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            projection["norm"] = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(projection)
        self.relu2 = nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        residual = self.conv2(self.relu1(self.norm1(self.conv1(input))))
        return self.relu2(self.norm2(residual) + self.shortcut(input))


def _resnet18(channels: int, size: int, classes: int) -> nn.Sequential:
    # A stem for small images: no stride and no pool, else the last stage would see a single pixel of 32 x 32.
    inputs = _RESNET18[0]
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Conv2d(channels, inputs, 3, padding=1, bias=False))
    layers["norm"], layers["relu"] = nn.BatchNorm2d(inputs), nn.ReLU()
    for i, width in enumerate(_RESNET18, start=1):
        first = BasicBlock(inputs, width, stride=1 if i == 1 else 2)
        layers[f"stage{i}"] = nn.Sequential(OrderedDict(block1=first, block2=BasicBlock(width, width, stride=1)))
        inputs = width
    layers["pool"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    layers["fc"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)


@dataclass(frozen=True)
class Architecture:
    """A network of the registry.

    Attributes:
        layers: ``(in_channels, image_size, num_classes) -> nn.Sequential``.
        init: distribution of the weights (:class:`fbconv.initialisation.Draw`).
        lr: a learning rate that trains it dense, pruned, frozen and in the interspace.
        smallest: least image size in pixels.
    """

    layers: Callable[[int, int, int], nn.Sequential]
    init: str
    lr: float
    smallest: int


# LeNet-5 has no normalisation: at the papers' .1 it diverges dense and in the interspace, hence .03.
MODELS = {
    "lenet300": Architecture(_lenet300, "xavier_normal", lr=0.1, smallest=1),
    "lenet5": Architecture(_lenet5, "xavier_normal", lr=0.03, smallest=16),
    "vgg7": Architecture(partial(_vgg, _VGG7, 0), "kaiming_normal", lr=0.1, smallest=1),
    "vgg16": Architecture(partial(_vgg, _VGG16, 2), "kaiming_normal", lr=0.1, smallest=1),
    "vgg16-lth": Architecture(partial(_vgg, _VGG16, 0), "kaiming_normal", lr=0.1, smallest=1),
    "resnet18": Architecture(_resnet18, "kaiming_normal", lr=0.1, smallest=1),
}


def build(
    name: str,
    *,
    in_channels: int = 1,
    image_size: int = 28,
    num_classes: int = 10,
    init: str | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """A network for square images ``(batch, in_channels, image_size, image_size)`` giving ``(batch, num_classes)``.

    ``lenet300`` (784-300-100-10), ``lenet5`` (LeNet-5-Caffe: two 5x5 convolutions, 20 and 50 channels, and 500 hidden
    units), ``vgg16`` (13 convolutions and two hidden linear layers, all with batch norm), ``vgg16-lth`` (without the
    hidden layers), ``vgg7`` (the same with six convolutions of 16 to 256 channels) and ``resnet18`` (a 3x3 stem and
    four stages of two :class:`BasicBlock` each). Weights are Xavier-normal (LeNets) or Kaiming-normal (VGG and
    ResNet) unless ``init`` says otherwise, biases 0. The global random state is neither read nor changed.

    Args:
        name: a key of :data:`MODELS`.
        in_channels: colours of an image.
        image_size: height and width in pixels.
        num_classes: outputs.
        init, seed: of the weights (:func:`fbconv.initialise`); the network's own distribution if None.

    Raises:
        ValueError: unknown name, seed or distribution, or a size that the network cannot take.

    Source:
        Wimmer, "Dimensionality reduced training" (thesis), tables A.1 to A.3 and A.9; He et al., "Deep residual
        learning for image recognition".

    Example:
        >>> net = build("lenet5", seed=1)
        >>> net(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    if name not in MODELS:
        raise ValueError(f"build: name must be one of {', '.join(MODELS)}, got {name!r}")
    architecture = MODELS[name]
    if image_size < architecture.smallest:
        raise ValueError(f"build: image_size must be at least {architecture.smallest} for {name}, got {image_size}")
    if in_channels < 1 or num_classes < 1:
        raise ValueError(f"build: in_channels and num_classes must be positive, got {in_channels} and {num_classes}")
    with torch.random.fork_rng(devices=[]):
        model = architecture.layers(in_channels, image_size, num_classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return initialise(model, init or architecture.init, seed, inplace=True)
