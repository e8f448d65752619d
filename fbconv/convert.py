"""Whole models: to compressed layers and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .convertibility import convertible, convertible_layers, dense_shape, layer_groups
from .initialisation import Draw
from .nn import (
    Compressed,
    FBConv2d,
    FBLinear,
    FrozenConv2d,
    FrozenLinear,
    SparseConv2d,
    SparseLinear,
)
from .nn.compressed import key_of
from .replacing import copied, replace_modules
from .sharing import basis_chooser, convolution_of

__all__ = ["densify", "freeze", "initialise", "interspace", "prunable", "sparsify"]

_CONVS = (nn.Conv2d, SparseConv2d, FrozenConv2d)
_LINEARS = (nn.Linear, SparseLinear, FrozenLinear)
_SPARSE = dict.fromkeys(_CONVS, SparseConv2d) | dict.fromkeys(_LINEARS, SparseLinear)
_FROZEN = dict.fromkeys(_CONVS, FrozenConv2d) | dict.fromkeys(_LINEARS, FrozenLinear)


def prunable(model: nn.Module) -> dict[str, torch.Size]:
    """The tensors that can be pruned or frozen: parameter name -> dense shape, in module order.

    A convolution or linear layer ``conv`` has ``conv.weight``; a compressed layer has ``conv.values`` with the shape of
    its pattern (coefficients, for filter-basis layers). Biases, norms and filter bases are never among them. A weight
    that several layers share is there once, as in ``model.named_parameters()``; what stays dense, and why, says
    :func:`fbconv.convertible`.

    Example:
        >>> prunable(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()))
        {'0.weight': torch.Size([3, 4])}
    """
    return {key: dense_shape(modules[0]) for key, modules in layer_groups(model).items()}


def sparsify(model: nn.Module, masks: Mapping[str, Tensor], inplace: bool = False) -> nn.Module:
    """A model that stores and trains only the weights its masks keep.

    Args:
        model: any module.
        masks: for each of :func:`prunable`'s names that shall change, a mask of its shape; True = kept. Other layers
            stay as they are. Layers that share a weight share its values.
        inplace: edit the model instead of a copy.

    Raises:
        KeyError: a mask for something that is not prunable, with the reason. ValueError: a mask of another shape; a
            layer with hooks on its state dict.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
        >>> sparsify(model, {"0.weight": torch.rand(8, 3, 3, 3) < 0.1})[0]
        SparseConv2d(...)
    """
    return _compress(model, masks, _SPARSE, FBConv2d.prune, inplace)


def freeze(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    seed: int | None = None,
    init: str = "xavier_normal",
    inplace: bool = False,
) -> nn.Module:
    """A model whose weights outside the masks stay frozen, at their present values or at those that a seed stands for.

    Args:
        model: any module; spatial or (for frozen coefficients) in the interspace.
        masks: as for :func:`sparsify`; True = trained. A mask that keeps nothing freezes the whole layer but its bias.
        seed: of the weights of all masked layers, trained ones at their start too, from 0 to 2^32 - 1;
            :func:`fbconv.save` then stores it in their place. With the seed that :func:`initialise` drew the model from
            before it was scored, under the same layer names, this changes no weight; another one
            draws new weights for the mask (FreezeNet-reinit). None freezes the weights as they are.
        init: the distribution that belongs to the seed, see :class:`~fbconv.initialisation.Draw`; unused without.
        inplace: edit the model instead of a copy.

    Raises:
        KeyError: a mask for something that is not prunable. ValueError: a mask of another shape, a seed or an
            initialisation that does not exist.

    Example:
        >>> model = initialise(torch.nn.Sequential(torch.nn.Linear(4, 3)), seed=7)
        >>> freeze(model, {"0.weight": torch.rand(3, 4) < 0.1}, seed=7)[0]
        FrozenLinear(...)

    Source: FreezeNet; with interspace coefficients, IP-FreezeNet.
    """
    draws = {} if seed is None else {key: _draw(init, seed, key) for key in masks}
    model = _compress(model, masks, _FROZEN, FBConv2d.freeze, inplace)
    groups = layer_groups(model) if draws else {}
    for key, draw in draws.items():
        for layer in groups[key_of(key.rpartition(".")[0], "values")]:
            layer.redraw(draw)
    return model


def initialise(model: nn.Module, init: str = "xavier_normal", seed: int = 0, inplace: bool = False) -> nn.Module:
    """A model whose prunable weights are drawn from a 32-bit seed: the same bits on every platform.

    Args:
        model: any module. Biases, normalisation and filter bases stay; in the interspace coefficients are drawn.
        init, seed: see :class:`~fbconv.initialisation.Draw`; a layer's name is part of its key.
        inplace: edit the model instead of a copy.

    Raises:
        ValueError: a seed or an initialisation that does not exist.

    Example:
        >>> initialise(torch.nn.Sequential(torch.nn.Linear(2, 1)), "pm_sigma", seed=7)[0].weight
        Parameter containing:
        tensor([[-0.8165,  0.8165]], requires_grad=True)

    Source: FreezeNet, Xavier-normal, Kaiming-uniform and +-sigma initialisation.
    """
    draws = {key: _draw(init, seed, key) for key in prunable(model)}
    model = model if inplace else copied(model)
    for key, modules in layer_groups(model).items():
        for module in modules:
            if isinstance(module, Compressed):
                module.redraw(draws[key])
            else:
                module.weight.data.copy_(draws[key].tensor(module.weight.shape))
    return model


def _draw(init: str, seed: int, key: str) -> Draw:
    """Of a prunable tensor; a model that ``torch.compile`` has wrapped draws what it would without."""
    return Draw(init, seed, key.rpartition(".")[0].replace("_orig_mod.", "").removesuffix("_orig_mod"))


def interspace(
    model: nn.Module,
    sharing: str = "coarse",
    init: str = "standard",
    n_elements: int | None = None,
    *,
    linear_block: int | None = None,
    generator: torch.Generator | None = None,
    inplace: bool = False,
) -> nn.Module:
    """A model whose convolutions with K > 1 are coefficients over trained filter bases, all coefficients kept.

    Args:
        model: any module. 1x1 convolutions and already compressed layers stay, and so do linear ones without
            ``linear_block``.
        sharing: "coarse" (one basis for each kernel size), "medium" (one for each kernel size and group of layers),
            "fine" (one for each layer), "in:N" or "out:N" (one for every N neighbouring input or output channels of a
            layer, or for a layer that has no more than N; where N does not divide the channels, for the largest number
            below that does). The groups of "medium" are: in a ResNet, known by children named layer1, layer2, layer3
            and so on, or stage1 and so on, the stem and each of these; in a VGG-16, known by its
            convolutions, layers 1-2, 3-4, 5-7, 8-10 and 11-13; elsewhere layers of the same resolution (pooling layers
            and strided convolutions, in module order, begin a new one).
        init, n_elements: of each :class:`~fbconv.nn.FilterBasis`.
        linear_block: length K of the blocks that rows of linear layers are cut into, each a combination of a basis of
            1 x K vectors (:class:`~fbconv.nn.FBLinear`); linear layers whose input it does not divide stay.
        generator: random numbers for the bases, and for the coefficients of "random" ones.
        inplace: edit the model instead of a copy.

    Returns:
        The model; the same function as before at standard and orthonormal initialisation with full bases. With fewer
        elements these two start from the best approximation, whose weights have n_elements / K^2 of the variance;
        "random" bases give filters of the whole variance, and so does :func:`initialise` for the other two.

    Raises:
        ValueError: an unknown sharing.

    Example:
        >>> interspace(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)))[0]
        FBConv2d(...)

    Source: interspace pruning, sharing of filter bases.
    """
    model = model if inplace else copied(model)
    basis_for = basis_chooser(model, sharing, init, n_elements, generator)
    layers = set(convertible_layers(model).values())

    def convert(module: nn.Module) -> nn.Module | None:
        conv = convolution_of(module, linear_block) if module in layers else None
        if conv is None:
            return None
        basis, axis = basis_for(module, conv)
        kind = FBConv2d if conv is module else FBLinear
        return kind.from_dense(module, basis, basis_axis=axis, generator=generator)

    return replace_modules(model, convert)


def densify(model: nn.Module, inplace: bool = False) -> nn.Module:
    """The same function in plain ``torch.nn`` modules: pruned weights are zeros, filters composed.

    Example:
        >>> densify(interspace(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))))[0]
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """

    def convert(module: nn.Module) -> nn.Module | None:
        return module.to_dense() if isinstance(module, Compressed) else None

    return replace_modules(model if inplace else copied(model), convert)


def _compress(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    kinds: Mapping[type, type],
    change: Callable[[FBConv2d, Tensor], None],
    inplace: bool,
) -> nn.Module:
    shapes = prunable(model)
    unknown = [name for name in masks if name not in shapes]
    if unknown:
        raise KeyError(f"masks: {unknown[0]!r} is not prunable: {convertible(model).why_not(unknown[0])}")
    for name, mask in masks.items():
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        if got != tuple(shapes[name]):
            raise ValueError(f"masks: {name} must be a tensor of shape {tuple(shapes[name])}, got {got}")
    model = model if inplace else copied(model)
    groups = layer_groups(model)
    wanted = {module: mask for key, mask in masks.items() for module in groups[key]}

    def convert(module: nn.Module) -> nn.Module | None:
        if module not in wanted:
            return None
        if isinstance(module, FBConv2d):
            change(module, wanted[module])
            return None
        if not isinstance(module, Compressed):
            return kinds[type(module)].from_dense(module, wanted[module])
        new = kinds[type(module)].from_dense(module.to_dense(), wanted[module])
        new.backend = module.backend
        return new

    return replace_modules(model, convert)
