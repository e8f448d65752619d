"""Other modules in the places of a model's, with what hangs on the old ones: hooks and shared parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from .nn.compressed import Compressed, key_of

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)
_STATE_HOOKS = {
    "_state_dict_hooks": "state_dict hook",
    "_state_dict_pre_hooks": "state_dict pre-hook",
    "_load_state_dict_pre_hooks": "load_state_dict pre-hook",
    "_load_state_dict_post_hooks": "load_state_dict post-hook",
}


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model whose weights are computed by hooks, which torch refuses to copy: they are computed
    anew in the next forward pass."""
    values = (value for module in model.modules() for value in vars(module).values())
    computed = (value for value in values if isinstance(value, Tensor) and not value.is_leaf)
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})


def replace_modules(model: nn.Module, convert: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Puts ``convert(module)`` in the place of each module for which it is not None.

    A module that occurs twice is converted once and stays shared; so do parameters that modules share. Forward and
    backward hooks move to the new module, with their order and handles.

    Raises:
        ValueError: a module with hooks on its state dict, which would meet other tensors; modules that share a weight
            and become too different for that.
    """
    made: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules()):
        new = convert(module)
        if new is not None:
            _check_state_hooks(name, module)
            made[module] = new
    _tie(model, made)
    for old, new in made.items():
        _move_hooks(old, new)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():  # named_children leaves out repetitions
            if child in made:
                setattr(parent, name, made[child])
    return made.get(model, model)


def _check_state_hooks(name: str, module: nn.Module) -> None:
    for attribute, what in _STATE_HOOKS.items():
        if getattr(module, attribute):
            raise ValueError(
                f"layer {name!r} ({type(module).__name__}) has a {what}, which is made for the tensors it has now: "
                "remove it before the conversion, and register one for the new tensors after it"
            )


def _move_hooks(old: nn.Module, new: nn.Module) -> None:
    """The very dicts, which the handles of the hooks remove them from."""
    for attribute in _HOOKS:
        object.__setattr__(new, attribute, getattr(old, attribute))


def _tie(model: nn.Module, made: dict[nn.Module, nn.Module]) -> None:
    """Parameters that were one become one again."""
    for owners in _shared_parameters(model):
        if not any(module in made for _, module, _ in owners):
            continue
        if not all(alike(a, b) for (_, a, _), (_, b, _) in pairwise(owners)):
            continue  # one parameter, but different weights: filters over different bases
        places = [(made.get(module, module), _renamed(made.get(module, module), own)) for _, module, own in owners]
        weights = places[0][1] != "bias"
        for (place, next_place), (owner, next_owner) in zip(pairwise(places), pairwise(owners), strict=True):
            if weights and not alike(place[0], next_place[0]):
                first, second = (key_of(name, own) for name, _, own in (owner, next_owner))
                raise ValueError(
                    f"{first!r} and {second!r} are one parameter: they can only be compressed alike, over one basis; "
                    f"leave them dense, or give the second one a parameter of its own"
                )
        kept = [module._parameters[own] for _, module, own in owners if module not in made]
        shared = kept[0] if kept else places[0][0]._parameters[places[0][1]]
        for module, own in places:
            module._parameters[own] = shared


def _shared_parameters(model: nn.Module) -> Iterator[list[tuple[str, nn.Module, str]]]:
    """Of every parameter that several modules have: name of the module, module, name within it."""
    owners: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for name, module in model.named_modules():
        for own, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((name, module, own))
    return (group for group in owners.values() if len(group) > 1)


def _renamed(module: nn.Module, own: str) -> str:
    """A parameter's name in the module that replaces its owner."""
    if own in module._parameters:
        return own
    return "values" if own == "weight" else "weight"


def alike(a: nn.Module, b: nn.Module) -> bool:
    """Whether one parameter gives both modules the same weight."""
    if not isinstance(a, Compressed) and not isinstance(b, Compressed):
        return True
    return (
        type(a) is type(b)
        and a.pattern.shape == b.pattern.shape
        and _equal(a.indices, b.indices)
        and _equal(a.frozen, b.frozen)
        and getattr(a, "basis", None) is getattr(b, "basis", None)
    )


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and (a.is_meta or torch.equal(a, b))
