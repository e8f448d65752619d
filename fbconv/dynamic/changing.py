"""New masks for a model under training, and the optimizer's state with them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..nn.compressed import Compressed, compressed_layers, key_of
from ..pattern import SparsePattern


def set_masks(model: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None = None) -> None:
    """Train other entries of compressed layers from now on, in place.

    Values that survive stay as they are, with their momentum and moments; grown ones start at zero (in frozen layers at
    their initialisation) with optimizer state zero. Each changed layer gets a new parameter, which takes the old one's
    place in the optimizer.

    Args:
        model: with compressed layers.
        masks: name of their values (as :func:`fbconv.prunable` has them) -> bool mask of the pattern's shape; True =
            trained. Other layers stay.
        optimizer: of torch or alike: entries of its state that have a parameter's shape belong to the single values.

    Raises:
        KeyError: a mask for something else than a compressed layer's values. ValueError: a mask of another shape.

    Example:
        >>> model = fbconv.sparsify(torch.nn.Sequential(torch.nn.Linear(3, 1)), {"0.weight": torch.tensor([[1, 1, 0]])})
        >>> set_masks(model, {"0.values": torch.tensor([[False, True, True]])})
        >>> model[0].weight[0, 2]
        tensor(0., grad_fn=<SelectBackward0>)
    """
    layers = layers_by_values(model)
    sharers = compressed_layers(model).values()
    unknown = [name for name in masks if name not in layers]
    if unknown:
        raise KeyError(f"masks: {unknown[0]!r} is not the values of a compressed layer; the model has {list(layers)}")
    for name, mask in masks.items():
        layer = layers[name]
        old, pattern = layer.values, layer.pattern
        for sharer in [other for other in sharers if other.values is old]:
            sharer.set_mask(mask)
        if optimizer is not None and layer.values is not old:
            _replace(optimizer, old, layer.values, pattern, mask)


def match_masks(averaged: nn.Module, model: nn.Module) -> None:
    """Train the entries in ``averaged`` that ``model`` trains, where the masks of the model have changed; in place.

    To be called before ``averaged.update_parameters(model)``. An average that survives stays, others start at zero (in
    frozen layers at their initialisation).

    Args:
        averaged: a ``torch.optim.swa_utils.AveragedModel``, or a copy of ``model``.
        model: with compressed layers.

    Raises:
        KeyError: a model with other layers.

    Example:
        >>> model = fbconv.sparsify(torch.nn.Sequential(torch.nn.Linear(3, 1)), {"0.weight": torch.tensor([[1, 1, 0]])})
        >>> averaged = torch.optim.swa_utils.AveragedModel(model)
        >>> set_masks(model, {"0.values": torch.tensor([[False, True, True]])})
        >>> match_masks(averaged, model)
        >>> averaged.module[0].pattern.mask()
        tensor([[False,  True,  True]])
    """
    copy = averaged.module if isinstance(averaged, AveragedModel) else averaged
    set_masks(copy, {name: layer.pattern.mask() for name, layer in layers_by_values(model).items()})


def layers_by_values(model: nn.Module) -> dict[str, Compressed]:
    """Name of the values -> compressed layer, the first of those that share them."""
    first: dict[int, tuple[str, Compressed]] = {}
    for name, layer in compressed_layers(model).items():
        first.setdefault(id(layer.values), (key_of(name, "values"), layer))
    return dict(first.values())


def _replace(
    optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, pattern: SparsePattern, mask: Tensor
) -> None:
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    if old in optimizer.state:
        state = optimizer.state.pop(old)
        optimizer.state[new] = {key: _moved(value, old, pattern, mask) for key, value in state.items()}


def _moved(value: object, old: nn.Parameter, pattern: SparsePattern, mask: Tensor) -> object:
    """State of single values at the new mask, zero where they are grown; anything else as it is."""
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return value
    return pattern.scatter(value)[mask.to(value.device)]
