"""State dicts of the plain architecture, of and for compressed models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._composing import bases_of_channels, project_filters
from ..nn import Compressed, FBConv2d, FBLinear
from ..nn.compressed import key_of, layers_of_state


class LoadedKeys(NamedTuple):
    """What did not meet, by the plain model's names, as ``load_state_dict`` of torch returns it."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def dense_state_dict(model: nn.Module) -> dict[str, Any]:
    """The state dict of the plain model that computes the same: its keys, shapes and dtypes.

    Equal to ``fbconv.densify(model).state_dict()`` without a copy of the model: weights are made dense, everything else
    is the model's own memory, as in any state dict. For ``torch.save``, safetensors and ``load_state_dict`` with
    ``strict=True``.

    Example:
        >>> sparse = fbconv.sparsify(torch.nn.Linear(2, 1), {"weight": torch.tensor([[True, False]])})
        >>> {key: tuple(tensor.shape) for key, tensor in dense_state_dict(sparse).items()}
        {'weight': (1, 2), 'bias': (1,)}
    """
    layers, state = layers_of_state(model), {}
    compressed = {key for name, layer in layers.items() for key in _own_keys(name, layer)}
    weights = {key_of(name, "values"): name for name in layers}
    made: dict[Compressed, Tensor] = {}  # a layer of two names has one weight
    for key, tensor in model.state_dict().items():
        if key in weights:
            name = weights[key]
            if layers[name] not in made:
                made[layers[name]] = layers[name].to_dense().weight.detach()
            state[key_of(name, "weight")] = made[layers[name]]
        elif key not in compressed:
            state[key] = tensor
    return state


@torch.no_grad()
def load_dense_state_dict(model: nn.Module, state: Mapping[str, Any], strict: bool = True) -> LoadedKeys:
    """Loads a state dict of the plain architecture into a model with compressed layers; all of it, or nothing.

    Masks and filter bases stay. Pruned layers take the weights that they keep and drop the others. Frozen layers take
    them all; where the frozen ones are as they were already, their seed stays too. Filter-basis layers take the
    coefficients of the weights in their basis.

    Args:
        model: edited in place; its parameters stay the same objects, as optimizers need it.
        state: name -> tensor of any floating-point dtype and device. Of a checkpoint, the state dict in it; other
            prefixes than the model's are for :func:`without_prefix`.
        strict: whether the names must be exactly the plain model's. Without, layers that are missing stay as they are.

    Returns:
        The names that are missing in and unexpected of ``state``.

    Raises:
        TypeError: something that is not a state dict. KeyError: other names, if strict. ValueError: a tensor of another
            shape, or a weight for a filter basis that cannot express every filter.

    Example:
        >>> plain = torch.nn.Linear(2, 1)
        >>> sparse = fbconv.sparsify(plain, {"weight": torch.tensor([[False, True]])})
        >>> load_dense_state_dict(sparse, {"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.zeros(1)})
        LoadedKeys(missing_keys=[], unexpected_keys=[])
        >>> sparse.weight
        tensor([[0., 4.]], grad_fn=<...>)
    """
    _check_state(state)
    layers, own = layers_of_state(model), model.state_dict()
    compressed = {key for name, layer in layers.items() for key in _own_keys(name, layer)}
    rest = {key: tensor for key, tensor in own.items() if key not in compressed}
    weights = {key_of(name, "weight"): name for name in layers}
    shapes = {key: tuple(tensor.shape) for key, tensor in rest.items() if isinstance(tensor, Tensor)}
    shapes |= {key: _weight_shape(layers[name]) for key, name in weights.items()}
    plain = [*rest, *weights]
    keys = LoadedKeys([key for key in plain if key not in state], sorted(state.keys() - set(plain)))
    _check_keys(keys, strict)
    _check_shapes(state, shapes)
    dense = {name: _dense_values(key, layers[name], state[key]) for key, name in weights.items() if key in state}
    model.load_state_dict({key: state[key] for key in rest if key in state}, strict=False)
    for name, tensor in dense.items():
        _store(layers[name], tensor)
    return keys


def without_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries of a state dict whose names begin with a prefix, without it; all others are left out.

    For what wrappers put before names: ``"module."`` (DDP, DataParallel), ``"model."`` (the attribute of a Lightning
    module), ``"_orig_mod."`` (``torch.compile``).

    Raises:
        KeyError: if no name begins with it.

    Example:
        >>> without_prefix({"model.fc.bias": torch.zeros(1), "loss.weight": torch.ones(1)}, "model.")
        {'fc.bias': tensor([0.])}
    """
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not found:
        raise KeyError(f"without_prefix: names must begin with {prefix!r}, got {_few(state)}")
    return found


def _own_keys(name: str, layer: Compressed) -> Iterator[str]:
    """Of the tensors that a compressed layer has in the place of a weight."""
    parts = [*(part for part, _ in layer.named_buffers(recurse=False)), "values"]
    parts += ["basis.elements"] if isinstance(layer, FBConv2d) else []
    return (key_of(name, part) for part in parts)


def _weight_shape(layer: Compressed) -> tuple[int, ...]:
    shape = layer.pattern.shape
    if isinstance(layer, FBLinear):
        return (shape[0], shape[1] * layer.basis.kernel_size[1])
    return (*shape[:2], *layer.basis.kernel_size) if isinstance(layer, FBConv2d) else shape


def _dense_values(key: str, layer: Compressed, weight: Tensor) -> Tensor:
    """The tensor that the layer's pattern belongs to: the weight, or its coefficients."""
    if isinstance(layer, FBConv2d):
        weight = _coefficients(key, layer, weight.to(layer.values.device))
    return weight.to(layer.values)


def _coefficients(key: str, layer: FBConv2d, weight: Tensor) -> Tensor:
    bases = layer.basis.stacked().double()
    size = prod(layer.basis.kernel_size)
    rank = int(torch.linalg.matrix_rank(bases.flatten(-2)).min())
    if rank < size or layer.basis.n_elements != size:
        raise ValueError(
            f"load_dense_state_dict: {key}: the filter basis must have {size} independent elements for filters of size "
            f"{tuple(layer.basis.kernel_size)}, got {layer.basis.n_elements} elements of rank {rank}"
        )
    filters = weight.double().view(*layer.pattern.shape[:2], *layer.basis.kernel_size)
    return project_filters(filters, bases_of_channels(bases, filters.shape, layer.geometry.groups, layer.basis_axis))


def _store(layer: Compressed, dense: Tensor) -> None:
    kept = layer.pattern.mask()
    layer.values.copy_(dense[kept])
    if layer.frozen is not None and not torch.equal(layer.frozen_weights()[~kept], dense[~kept]):
        layer.frozen, layer.frozen_scale, layer.draw = dense.clone(), None, None


def _check_state(state: Mapping[str, Any]) -> None:
    if not isinstance(state, Mapping):
        raise TypeError(f"load_dense_state_dict: state must map names to tensors, got {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(value, Tensor) and not str(key).endswith("_extra_state"):
            raise TypeError(f"load_dense_state_dict: state must map names to tensors, got {type(value).__name__} under "
                            f"{key!r} (of a checkpoint, give the state dict in it)")  # fmt: skip


def _check_keys(keys: LoadedKeys, strict: bool) -> None:
    if strict and (keys.missing_keys or keys.unexpected_keys):
        texts = [f"{what} {_few(names)}" for what, names in zip(("missing", "unexpected"), keys, strict=True) if names]
        raise KeyError(f"load_dense_state_dict: state must have the plain model's names, got {', '.join(texts)}")


def _few(names: Any) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"


def _check_shapes(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for key, shape in shapes.items():
        if key in state and tuple(state[key].shape) != shape:
            raise ValueError(f"load_dense_state_dict: {key} must have shape {shape}, got {tuple(state[key].shape)}")
