"""Which layers of a model share a filter basis."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator

import torch
from torch import nn

from .nn import FilterBasis
from .nn.fb_linear import blocked

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.FractionalMaxPool2d, nn.LPPool2d)
_STAGES = ("layer", "stage")  # and a number from 1 on: torchvision's names, and ours
_FEWEST_STAGES = 3  # of a ResNet for small images
_VGG16_GROUPS = (0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4)
_VGG16_WIDTHS = (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8)  # as multiples of the first


def convolution_of(module: nn.Module, block: int | None) -> nn.Conv2d | None:
    """The convolution that a filter basis is for: a plain one larger than 1x1, or that of a linear layer over blocks of
    its input, where these divide it."""
    if type(module) is nn.Conv2d and module.kernel_size != (1, 1):
        return module
    if type(module) is nn.Linear and block is not None and module.in_features % block == 0:
        return blocked(module, block)
    return None


def basis_chooser(
    model: nn.Module, sharing: str, init: str, n_elements: int | None, generator: torch.Generator | None
) -> Callable[[nn.Module, nn.Conv2d], tuple[FilterBasis, str]]:
    """Which basis a module of the model gets, as the convolution that it is, and on which axis its blocks lie;
    arguments as for :func:`fbconv.interspace`."""
    shared: dict[tuple, FilterBasis] = {}

    def basis(group: Hashable, conv: nn.Conv2d, n_bases: int | None = None) -> FilterBasis:
        # Filters that do not train have bases that do not either.
        where = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        key = (group, conv.kernel_size, conv.weight.requires_grad, *where.values())
        if key not in shared:
            made = FilterBasis(conv.kernel_size, n_elements, init, n_bases=n_bases, generator=generator, **where)
            shared[key] = made.requires_grad_(conv.weight.requires_grad)
        return shared[key]

    def by_group(module: nn.Module, conv: nn.Conv2d) -> tuple[FilterBasis, str]:
        return basis(group_of(module), conv), "in"

    if sharing in _GROUPINGS:
        group_of = _GROUPINGS[sharing](model)
        return by_group
    axis, _, count = sharing.partition(":")
    if axis not in ("in", "out") or not count.isdigit() or int(count) < 1:
        raise ValueError(f"interspace: sharing must be coarse, medium, fine, in:N or out:N, got {sharing!r}")

    def by_channels(module: nn.Module, conv: nn.Conv2d) -> tuple[FilterBasis, str]:
        channels = conv.in_channels if axis == "in" else conv.out_channels
        if channels <= int(count):
            return basis(id(module.weight), conv), axis
        size = next(size for size in range(int(count), 0, -1) if channels % size == 0)
        return basis(id(module.weight), conv, channels // size), axis

    return by_channels


def _medium(model: nn.Module) -> Callable[[nn.Module], Hashable]:
    groups = _resolutions(model) | _vgg16_groups(model) | dict(_resnet_groups(model))
    return groups.__getitem__


_GROUPINGS: dict[str, Callable[[nn.Module], Callable[[nn.Module], Hashable]]] = {
    "coarse": lambda model: lambda module: None,
    "medium": _medium,
    "fine": lambda model: lambda module: id(module.weight),  # layers that share a weight share its basis
}


def _resnet_groups(model: nn.Module) -> Iterator[tuple[nn.Module, Hashable]]:
    """Stem and stages of each ResNet within the model; what follows the stages belongs to neither."""
    for name, parent in model.named_modules():
        children = dict(parent.named_children())
        for word in _STAGES:
            stages = list(itertools.takewhile(children.__contains__, (f"{word}{i}" for i in itertools.count(1))))
            if len(stages) >= _FEWEST_STAGES:
                stem = list(children)[: min(map(list(children).index, stages))]
                for child in (*stem, *stages):
                    group = (name, child if child in stages else "stem")
                    yield from ((module, group) for module in children[child].modules())


def _vgg16_groups(model: nn.Module) -> dict[nn.Module, Hashable]:
    """The groups of a VGG-16 of any width, known by its 13 convolutions; its pools need not be modules."""
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    widths = [width * convs[0].out_channels for width in _VGG16_WIDTHS] if convs else []
    if [conv.out_channels for conv in convs] != widths or {conv.kernel_size for conv in convs} != {(3, 3)}:
        return {}
    return dict(zip(convs, _VGG16_GROUPS, strict=True))


def _resolutions(model: nn.Module) -> dict[nn.Module, Hashable]:
    """How often the maps were made smaller before each module, judged by module order; 1x1 convolutions do not count,
    they stand on shortcuts beside the layer that does."""
    level, levels = 0, {}
    for module in model.modules():
        strided = isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) and max(module.stride) > 1
        level += isinstance(module, _POOLS) or strided
        levels[module] = level
    return levels
