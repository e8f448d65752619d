"""From models to what a file holds."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..initialisation import Draw
from ..nn import Compressed, FBConv2d, FBLinear, FilterBasis
from ..nn.compressed import key_of, layers_of_state
from ..replacing import alike
from .entries import Entry, Plain, Same, coded, same_bits

_OWN = ("values", "indices", "frozen")  # a compressed layer's tensors that its entry stands for


def entries_of_model(model: nn.Module, dtype: torch.dtype | None = None) -> list[Entry]:
    """Everything in a model's state dict, shared tensors once; ``dtype`` is what the file will be cast to.

    Raises:
        ValueError: something in the state dict that is not a tensor with data.
    """
    compressed = layers_of_state(model)
    own = {key_of(name, part) for name in compressed for part in _OWN}
    # All sharers of a basis have it under a name of their own, which follows from theirs.
    bases: dict[FilterBasis, str] = {}
    for name, module in compressed.items():
        if isinstance(module, FBConv2d):
            key = key_of(name, "basis.elements")
            if bases.setdefault(module.basis, key) != key:
                own.add(key)
    inits = {key: basis.init for basis, key in bases.items()}
    state = model.state_dict()
    # Bases come first: elsewhere in the model they may have other names, which refer to these.
    rest = {key: state[key] for key in inits} | {name: t for name, t in state.items() if name not in own}
    return [*_layers(compressed, bases, dtype), *plain_entries(rest, inits)]


def _layers(
    compressed: dict[str, Compressed], bases: dict[FilterBasis, str], dtype: torch.dtype | None
) -> Iterator[Entry]:
    first: dict[nn.Parameter, tuple[str, Compressed]] = {}
    for name, module in compressed.items():
        of, same = first.setdefault(module.values, (name, module))
        if of != name and alike(module, same):
            yield Same(name, of, layer=True)
            continue
        pattern = module.pattern
        rest = {}
        if isinstance(module, FBConv2d):
            rest = {"basis": bases[module.basis], "axis": module.basis_axis, "groups": module.geometry.groups}
            rest["linear"] = isinstance(module, FBLinear)
        rest["frozen"] = _frozen(module, dtype)
        yield coded(name, pattern.shape, pattern.positions, module.values.detach(), **rest)


def _frozen(module: Compressed, dtype: torch.dtype | None) -> Tensor | Draw | None:
    """The draw that gives the very bits of the frozen weights in the file's dtype, or the weights themselves."""
    frozen, draw = module.frozen, module.draw
    if frozen is None or draw is None:
        return frozen
    dtype = dtype or frozen.dtype
    return draw if same_bits(draw.tensor(frozen.shape).to(dtype), frozen.cpu().to(dtype)) else frozen


def plain_entries(state: dict[str, Tensor], inits: dict[str, str] | None = None) -> Iterator[Plain | Same]:
    """An entry for each tensor; those that are the same memory are stored once.

    Raises:
        ValueError: something that is not a tensor with data.
    """
    first: dict[object, str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.is_meta:
            got = "one on the meta device" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{name} must be a tensor with data, got {got}")
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        if tensor.numel() and first.setdefault(place, name) != name:
            yield Same(name, first[place], layer=False)
        else:
            yield Plain(name, tensor.detach(), (inits or {}).get(name))
