"""Optimizer state of dense training, for training that goes on pruned or frozen."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from ..nn import Compressed, FBConv2d
from ..nn.compressed import key_of

_PARAMETRIZED = re.compile(r"parametrizations\.(\w+)\.original$")


def carry_optimizer_state(
    old: torch.optim.Optimizer, dense: nn.Module, optimizer: torch.optim.Optimizer, model: nn.Module
) -> None:
    """Gives a compressed model's optimizer the state that a dense model's has gathered: momentum or moments of the
    weights that are kept, and all of biases and whatever else both models have.

    Options such as learning rates are the new optimizer's own.

    Args:
        old: optimizer of ``dense``; of a checkpoint, load its state into one first.
        dense: the plain model, perhaps with the masks of ``torch.nn.utils.prune`` or as parametrizations.
        optimizer: of ``model`` and of the same class; its state is replaced where ``old`` has some.
        model: ``dense`` after :func:`fbconv.sparsify` or :func:`fbconv.freeze`, and perhaps :func:`mask_others`.

    Raises:
        TypeError: optimizers of two classes. KeyError: a parameter of ``dense`` that ``model`` lacks. ValueError: a
            filter-basis layer, whose coefficients have other gradients than weights; state that is neither one number
            nor of the parameter's shape; parameters of two shapes; an optimizer of another model.

    Example:
        >>> dense = torch.nn.Linear(2, 1)
        >>> old = torch.optim.SGD(dense.parameters(), lr=0.1, momentum=0.9)
        >>> dense(torch.tensor([[3.0, 4.0]])).sum().backward()
        >>> old.step()
        >>> model = fbconv.sparsify(dense, {"weight": torch.tensor([[False, True]])})
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> carry_optimizer_state(old, dense, optimizer, model)
        >>> optimizer.state[model.values]["momentum_buffer"]
        tensor([4.])
    """
    if type(old) is not type(optimizer):
        raise TypeError(f"carry_optimizer_state: optimizer must be a {type(old).__name__} as old is, got "
                        f"{type(optimizer).__name__}")  # fmt: skip
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    targets = _targets(model)
    new = {}
    for key, parameter in dense.named_parameters(remove_duplicate=False):
        if parameter in old.state:
            target, mask = _target(key, targets)
            expected = target.shape if mask is None else mask.shape
            if parameter.shape != expected:
                raise ValueError(f"carry_optimizer_state: {key} must have shape {tuple(expected)} as in the model, got "
                                 f"{tuple(parameter.shape)}")  # fmt: skip
            state = old.state[parameter]
            new[target] = {part: _moved(f"{part} of {key}", value, parameter, mask) for part, value in state.items()}
    if new and not held & new.keys():
        raise ValueError("carry_optimizer_state: optimizer must hold parameters of model, got none of them")
    optimizer.state.update({target: state for target, state in new.items() if target in held})


def _targets(model: nn.Module) -> dict[str, nn.Parameter | Compressed]:
    """The dense model's names -> what has become of them: a parameter, or the layer that has compressed a weight."""
    targets: dict[str, nn.Parameter | Compressed] = dict(model.named_parameters(remove_duplicate=False))
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Compressed):
            targets[key_of(name, "weight")] = module
    return targets


def _target(key: str, targets: dict[str, nn.Parameter | Compressed]) -> tuple[nn.Parameter, Tensor | None]:
    """The parameter that a dense one has become, and the mask if it is only a part of it."""
    plain = _PARAMETRIZED.sub(r"\1", key).removesuffix("_orig")
    found = next((targets[name] for name in (key, plain, f"{plain}_orig") if name in targets), None)
    if found is None:
        raise KeyError(f"carry_optimizer_state: model has no parameter {key!r}")
    if isinstance(found, FBConv2d):
        raise ValueError(f"carry_optimizer_state: {key} must be spatial in the model, got a {type(found).__name__}, "
                         "whose coefficients have other gradients than weights")  # fmt: skip
    return (found.values, found.pattern.mask()) if isinstance(found, Compressed) else (found, None)


def _moved(what: str, value: object, parameter: nn.Parameter, mask: Tensor | None) -> object:
    if not isinstance(value, Tensor):
        return value
    if value.shape == parameter.shape:
        return value.clone() if mask is None else value[mask.to(value.device)]
    if value.numel() != 1:
        raise ValueError(f"carry_optimizer_state: {what} must be one number or of shape {tuple(parameter.shape)}, got "
                         f"shape {tuple(value.shape)}")  # fmt: skip
    return value.clone()
