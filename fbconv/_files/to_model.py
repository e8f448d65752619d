"""From a file to a model: the layers that it says, with its tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..convert import densify
from ..convertibility import stays_dense
from ..initialisation import Draw
from ..nn import Compressed, FBConv2d, FBLinear, FilterBasis, FrozenConv2d, FrozenLinear, SparseConv2d, SparseLinear
from ..pattern import SparsePattern
from ..replacing import replace_modules
from .container import File
from .entries import Layer, Plain, Same, same_bits

_KINDS = {nn.Conv2d: (SparseConv2d, FrozenConv2d), nn.Linear: (SparseLinear, FrozenLinear)}


def model_of_file(file: File, model: nn.Module) -> nn.Module:
    """A copy of ``model`` with the layers and the tensors of the file.

    Raises:
        ValueError: naming the layer or tensor that does not fit, with what the model and the file have.
    """
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_meta:
            raise ValueError(
                f"{name}: the model must have memory (to_empty gives it some), got a tensor on the meta device"
            )
    backends = {name: module.backend for name, module in _modules(model).items() if isinstance(module, Compressed)}
    model = densify(model)
    modules, layers, state = _modules(model), file.layers(), file.tensors()
    for layer in layers.values():
        _check_place(layer, modules.get(layer.name), state)
    frozen = file.frozen_weights()
    bases = _bases(file)
    made: dict[nn.Module, nn.Module] = {}
    for name, layer in layers.items():
        module, mask = modules[name], layer.mask()
        state |= _state(layer, module, mask, frozen.get(name), state)
        if stays_dense(module) is None and module not in made:
            made[module] = _compressed(layer, module, mask, bases)
            made[module].backend = backends.get(name, "auto")
            scale = state.get(layer.key("frozen_scale"))
            if scale is not None:  # never of fewer bits than decay needs
                dtype = torch.promote_types(scale.dtype, torch.float32)
                made[module].frozen_scale = torch.ones((), dtype=dtype, device=made[module].values.device)
    for entry in file.entries:  # a basis may also be a module of its own
        borrowed = modules.get(entry.name.removesuffix(".elements"))
        if isinstance(entry, Same) and entry.of in bases and isinstance(borrowed, FilterBasis):
            made[borrowed] = bases[entry.of]
    model = replace_modules(model, made.get)
    _load(model, state)
    return model


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    return dict(model.named_modules(remove_duplicate=False))


def _check_place(layer: Layer, module: nn.Module | None, tensors: Mapping[str, Tensor]) -> None:
    """Before anything of the layer's size is made."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        got = "nothing of that name" if module is None else type(module).__name__
        raise ValueError(f"layer {layer.name!r} of shape {layer.shape}: the model has {got}")
    expected = tuple(weight.shape)
    if layer.basis is not None:
        kind = nn.Linear if layer.linear else nn.Conv2d
        if type(module) is not kind or stays_dense(module) is not None:
            reason = f" that stays dense: {stays_dense(module)}" if type(module) is kind else ""
            raise ValueError(f"layer {layer.name!r} must be a {kind.__name__}, got {type(module).__name__}{reason}")
        taps = tuple(tensors[layer.basis].shape)[-2:]
        filters = (layer.shape[0], layer.shape[1] * taps[1]) if layer.linear else (*layer.shape[:2], *taps)
        groups = getattr(module, "groups", 1)
        if filters != expected or layer.groups != groups:
            raise ValueError(
                f"layer {layer.name!r}: the file has filters {filters} in {layer.groups} groups, the model {expected} "
                f"in {groups}"
            )
    elif layer.shape != expected:
        raise ValueError(f"layer {layer.name!r}: the file has shape {layer.shape}, the model {expected}")


def _bases(file: File) -> dict[str, FilterBasis]:
    """Name -> basis, to be shared by the layers that name it; their elements are loaded later."""
    found = {}
    for entry in file.entries:
        if isinstance(entry, Plain) and entry.init is not None:
            shape = entry.tensor.shape
            n_bases = shape[0] if len(shape) == 4 else None
            try:
                found[entry.name] = FilterBasis(
                    tuple(shape[-2:]), shape[-3], entry.init, n_bases=n_bases, generator=torch.Generator()
                )
            except ValueError as error:
                raise ValueError(f"{entry.name}: {error}") from error
    return found


def _compressed(layer: Layer, module: nn.Module, mask: Tensor, bases: Mapping[str, FilterBasis]) -> Compressed:
    frozen = layer.frozen is not None
    if layer.basis is None:
        made = _KINDS[type(module)][frozen].from_dense(module, mask)
    else:
        basis = bases[layer.basis].to(module.weight)
        kind = FBLinear if layer.linear else FBConv2d
        made = kind.from_dense(module, basis, mask, basis_axis=layer.axis, generator=torch.Generator())
        if frozen:
            made.freeze(mask)
    made.draw = layer.frozen if isinstance(layer.frozen, Draw) else None
    return made


def _state(
    layer: Layer, module: nn.Module, mask: Tensor, frozen: Tensor | None, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of a layer; a module of a kind that has no compressed form takes the dense weight."""
    pattern = SparsePattern.from_mask(mask)
    if stays_dense(module) is not None:
        return {layer.key("weight"): scattered(layer, frozen, tensors.get(layer.key("frozen_scale")))}
    state = {layer.key("values"): layer.values, layer.key("indices"): pattern.packed}
    if frozen is not None:
        state[layer.key("frozen")] = frozen
    if layer.basis is not None:
        state[layer.key("basis.elements")] = tensors[layer.basis]
    return state


def scattered(layer: Layer, frozen: Tensor | None, scale: Tensor | None = None) -> Tensor:
    """The dense tensor of a layer: its values at their positions, elsewhere zeros or the frozen weights."""
    dense = layer.values.new_zeros(layer.shape) if frozen is None else frozen * (1 if scale is None else scale)
    dense.view(-1)[layer.positions()] = layer.values
    return dense


def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads tensors that are exactly the model's.

    Raises:
        ValueError: naming the first that is not.
    """
    own = model.state_dict(keep_vars=True)
    for names, what in ((own.keys() - state.keys(), "lacks"), (state.keys() - own.keys(), "has")):
        if names:
            raise ValueError(f"the file {what} {', '.join(sorted(names))}, unlike the model")
    first: dict[int, str] = {}
    for name, tensor in own.items():
        _check_tensor(name, state[name], tensor)
        sharer = first.setdefault(id(tensor), name)
        if not same_bits(state[name], state[sharer]):
            raise ValueError(f"{sharer} and {name} are one tensor in the model and two in the file")
    model.load_state_dict(state)


def _check_tensor(name: str, stored: Tensor, own: Tensor) -> None:
    if stored.shape != own.shape:
        raise ValueError(f"{name}: the file has shape {tuple(stored.shape)}, the model {tuple(own.shape)}")
    if stored.dtype != own.dtype and not (stored.is_floating_point() and own.is_floating_point()):
        raise ValueError(f"{name}: the file has {stored.dtype}, the model {own.dtype}")
