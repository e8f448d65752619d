"""New masks for a model under training, and the optimizer's state with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ..distributed import follow_parameters
from ..nn.compressed import Compressed, compressed_layers, key_of
from ..pattern import SparsePattern
from .ranks import from_first_rank, group_of, unwrapped


def set_masks(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer | None = None,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Train other entries of compressed layers from now on, in place.

    Values that survive stay as they are, with their momentum and moments; grown ones start at zero (in frozen layers at
    their initialisation) with optimizer state zero. With an optimizer, layers that keep their number of values keep
    their parameter too. Any other changed layer gets a new parameter, which takes the old one's place in the optimizer
    and in a ``DistributedDataParallel``. Gradients of changed layers are gone.

    Args:
        model: with compressed layers, perhaps in a ``DistributedDataParallel``; there all ranks must call this, and
            take the masks of the first one.
        masks: name of their values (as :func:`fbconv.prunable` has them) -> bool mask of the pattern's shape; True =
            trained. Other layers stay.
        optimizer: of torch or alike: entries of its state that have a parameter's shape belong to the single values.
        group: ranks that train copies of the model, where that is not in a ``DistributedDataParallel`` itself.

    Raises:
        KeyError: a mask for something else than a compressed layer's values. ValueError: a mask of another shape, or a
            model that ``fully_shard`` has distributed.

    Example:
        >>> model = fbconv.sparsify(torch.nn.Sequential(torch.nn.Linear(3, 1)), {"0.weight": torch.tensor([[1, 1, 0]])})
        >>> set_masks(model, {"0.values": torch.tensor([[False, True, True]])})
        >>> model[0].weight[0, 2]
        tensor(0., grad_fn=<SelectBackward0>)
    """
    own = unwrapped(model)
    layers, sharers = layers_by_values(own), list(compressed_layers(own).values())
    _check(masks, layers)
    masks = from_first_rank(masks, group_of(model) if group is None else group)
    for name, mask in masks.items():
        _change([layer for layer in sharers if layer.values is layers[name].values], mask, optimizer)
    if isinstance(model, DistributedDataParallel):
        follow_parameters(model)


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


def _check(masks: Mapping[str, Tensor], layers: Mapping[str, Compressed]) -> None:
    for name in masks:
        if name not in layers:
            raise KeyError(f"masks: {name!r} is not the values of a compressed layer; the model has {list(layers)}")
        if hasattr(layers[name].values, "to_local"):
            raise ValueError(f"set_masks: {name} must be whole on every rank, got a DTensor: masks of a model that "
                             "fully_shard has distributed cannot change")  # fmt: skip


def _change(layers: Sequence[Compressed], mask: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """Of layers that share their values."""
    old, pattern = layers[0].values, layers[0].pattern
    for layer in layers:
        layer.set_mask(mask)
    new = layers[0].values
    if optimizer is None or new is old:
        return
    state = optimizer.state.pop(old, {})
    state = {key: _moved(value, old, pattern, mask) for key, value in state.items()}
    if new.shape == old.shape:
        _put_back(layers, old)
    else:
        _replace(optimizer, old, new)
    if state:
        optimizer.state[layers[0].values] = state


@torch.no_grad()
def _put_back(layers: Sequence[Compressed], old: nn.Parameter) -> None:
    """Whoever holds the parameter, a data-parallel wrapper for instance, need not learn of the change."""
    old.copy_(layers[0].values)
    old.grad = None
    for layer in layers:
        layer.values = old


def _replace(optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter) -> None:
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]


def _moved(value: object, old: nn.Parameter, pattern: SparsePattern, mask: Tensor) -> object:
    """State of single values at the new mask, zero where they are grown; anything else as it is."""
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return value
    return pattern.scatter(value)[mask.to(value.device)]
