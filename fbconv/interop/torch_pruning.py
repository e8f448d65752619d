"""Models pruned by ``torch.nn.utils.prune`` or by masks as parametrizations: to a plain model with masks, and back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from ..convert import densify
from ..convertibility import convertible
from ..nn import FBConv2d
from ..nn.compressed import compressed_layers, key_of
from ..replacing import copied
from . import parametrizations
from .dense_states import load_dense_state_dict


class Pruned(NamedTuple):
    """A plain model and its masks.

    Attributes:
        model: without masks of its own; what they prune is zero.
        masks: of weights, for :func:`fbconv.sparsify`: :func:`fbconv.prunable`'s name -> bool mask, True = kept.
        others: masks of everything else, such as biases, which fbconv does not prune: parameter name -> bool mask. The
            zeros stay where they are until training moves them; :func:`mask_others` has torch hold them.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    others: dict[str, Tensor]


def from_torch_pruning(model: nn.Module) -> Pruned:
    """The plain model and the masks of a model pruned the ways of torch; :func:`fbconv.sparsify` does the rest.

    Found are the masks of ``torch.nn.utils.prune`` (of any parameter, however often it was pruned) and parametrizations
    that multiply by a mask, whatever their class. Other parametrizations stay, and so do layers without masks; for
    zeros that ``prune.remove`` left see :func:`masks_of_zeros`.

    Args:
        model: stays as it is.

    Returns:
        A copy that computes the same without hooks, and its masks.

    Raises:
        ValueError: a mask with something else than 0 and 1; a parameter of two layers with two masks.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> _ = prune.l1_unstructured(model[0], "weight", amount=0.75)
        >>> dense, masks, others = from_torch_pruning(model)
        >>> fbconv.sparsify(dense, masks)[0].values.shape
        torch.Size([8])
    """
    model = copied(model)
    parametrized, hooked = list(parametrizations.masked(model)), list(_hooks(model))
    found = {key_of(name, tensor): mask for name, _, tensor, mask in parametrized}
    for name, module, tensor in hooked:
        key = key_of(name, tensor)
        found[key] = _as_bool("from_torch_pruning", f"{key}_mask", getattr(module, f"{tensor}_mask"))
    originals = {(module, f"{tensor}_orig"): found[key_of(name, tensor)] for name, module, tensor in hooked}
    originals |= {(module.parametrizations[tensor], "original"): mask for _, module, tensor, mask in parametrized}
    _check_tied(model, originals)
    for _, module, tensor, _ in parametrized:
        parametrizations.remove(module, tensor)
    for _, module, tensor in hooked:
        prune.remove(module, tensor)
    return _split(model, found)


def from_pruned_state_dict(state: Mapping[str, Tensor], model: nn.Module) -> Pruned:
    """As :func:`from_torch_pruning`, from a state dict with ``weight_orig`` and ``weight_mask`` in the place of
    ``weight``.

    Args:
        state: of a model that ``torch.nn.utils.prune`` had pruned.
        model: of the same architecture, not pruned; stays as it is.

    Returns:
        A copy of ``model`` with the weights of ``state``, and its masks.

    Raises:
        KeyError: a state dict of another architecture. ValueError: another shape, or a mask with something else than 0
            and 1.

    Example:
        >>> linear = prune.l1_unstructured(torch.nn.Linear(8, 4), "weight", amount=0.75)
        >>> dense, masks, others = from_pruned_state_dict(linear.state_dict(), torch.nn.Linear(8, 4))
        >>> int(masks["weight"].sum())
        8
    """
    plain, found = dict(state), {}
    for orig in state:
        key = orig.removesuffix("_orig")
        if key != orig and f"{key}_mask" in state:
            tensor, mask = plain.pop(orig), plain.pop(f"{key}_mask")
            if tensor.shape != mask.shape:
                raise ValueError(f"from_pruned_state_dict: {key}_mask must have shape {tuple(tensor.shape)} as {orig}, "
                                 f"got {tuple(mask.shape)}")  # fmt: skip
            found[key] = _as_bool("from_pruned_state_dict", f"{key}_mask", mask)
            plain[key] = tensor * mask.to(tensor.dtype)
    model = copy.deepcopy(model)
    load_dense_state_dict(model, plain)
    return _split(model, found)


def to_torch_pruning(model: nn.Module) -> nn.Module:
    """The same function as a plain model pruned by ``torch.nn.utils.prune``, with ``weight_orig`` and ``weight_mask``.

    Args:
        model: with pruned layers; stays as it is.

    Raises:
        ValueError: a frozen or filter-basis layer, whose weights no mask describes; :func:`fbconv.densify` takes both.

    Example:
        >>> sparse = fbconv.sparsify(torch.nn.Linear(2, 1), {"weight": torch.tensor([[True, False]])})
        >>> to_torch_pruning(sparse).weight_mask
        tensor([[1., 0.]])
    """
    layers = compressed_layers(model)
    for name, layer in layers.items():
        if layer.frozen is not None or isinstance(layer, FBConv2d):
            kind = f"{type(layer).__name__}{'' if layer.frozen is None else ' with frozen weights'}"
            raise ValueError(f"to_torch_pruning: model must have pruned spatial layers only, got {name!r}, a {kind}")
    plain = densify(model)
    with torch.no_grad():  # the masked weight would else refuse to be deep-copied
        for name, layer in layers.items():
            mask = layer.pattern.mask().to(layer.values.dtype)
            prune.custom_from_mask(plain.get_submodule(name), "weight", mask)
    return plain


@torch.no_grad()
def mask_others(model: nn.Module, others: Mapping[str, Tensor]) -> None:
    """Has ``torch.nn.utils.prune`` hold the masks that fbconv has no layers for, so that training cannot move zeros.

    Convert, copy and save models before this or after ``prune.remove``: the parameters have torch's names meanwhile.

    Args:
        model: edited in place, before its optimizer is made.
        others: :class:`Pruned`'s, parameter name -> mask.

    Raises:
        KeyError: a name that is no parameter of the model. ValueError: a mask of another shape.

    Example:
        >>> layer = fbconv.nn.SparseLinear(3, 2)
        >>> mask_others(layer, {"bias": torch.tensor([True, False])})
        >>> [name for name, _ in layer.named_parameters()]
        ['values', 'bias_orig']
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for key, mask in others.items():
        if key not in parameters:
            raise KeyError(f"mask_others: {key!r} is no parameter of the model")
        if parameters[key].shape != mask.shape:
            raise ValueError(f"mask_others: the mask of {key} must have shape {tuple(parameters[key].shape)}, got "
                             f"{tuple(mask.shape)}")  # fmt: skip
    for key, mask in others.items():
        name, _, tensor_name = key.rpartition(".")
        prune.custom_from_mask(model.get_submodule(name), tensor_name, mask.to(parameters[key].device))


def is_pruned(model: nn.Module) -> bool:
    """Whether weights of a model are pruned: by a layer of fbconv that leaves some out, by ``torch.nn.utils.prune`` or
    by a mask that is a parametrization. Frozen weights are not pruned, and mere zeros no sign of pruning.

    Example:
        >>> is_pruned(torch.nn.Linear(2, 1))
        False
        >>> is_pruned(fbconv.sparsify(torch.nn.Linear(2, 1), {"weight": torch.tensor([[True, False]])}))
        True
    """
    left_out = any(layer.frozen is None and layer.pattern.density < 1 for layer in compressed_layers(model).values())
    return left_out or prune.is_pruned(model) or any(True for _ in parametrizations.masked(model))


def _hooks(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Module name, module and tensor name of everything that ``torch.nn.utils.prune`` holds."""
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                yield name, module, hook._tensor_name


def _check_tied(model: nn.Module, originals: Mapping[tuple[nn.Module, str], Tensor]) -> None:
    """A parameter of several modules becomes one masked parameter, so all of them must have the same mask."""
    places: dict[nn.Parameter, tuple[str, Tensor | None]] = {}
    for name, module in model.named_modules():
        for tensor, parameter in module._parameters.items():
            if parameter is None:
                continue
            key, mask = key_of(name, tensor), originals.get((module, tensor))
            first, other = places.setdefault(parameter, (key, mask))
            if (mask is None) != (other is None) or (mask is not None and not torch.equal(mask, other)):
                raise ValueError(f"from_torch_pruning: {first} and {key} are one parameter and must have the same mask")


def _as_bool(function: str, key: str, mask: Tensor) -> Tensor:
    kept = mask == 1
    wrong = mask[~(kept | (mask == 0))]
    if wrong.numel():
        raise ValueError(f"{function}: {key} must hold only 0 and 1, got {wrong[0].item()}")
    return kept


def _split(model: nn.Module, found: Mapping[str, Tensor]) -> Pruned:
    """Shared weights have one mask, under their first name."""
    known = convertible(model)
    masks = {key: mask for key, mask in found.items() if key in known.weights}
    others = {key: mask for key, mask in found.items() if key not in known.weights and key not in known.tied}
    return Pruned(model, masks, others)
