"""State dicts of plain models, without the models: to a file's entries, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .._composing import compose_filters
from ..initialisation import Draw
from .container import File
from .entries import Entry, Layer, Plain, Same, coded
from .of_model import plain_entries
from .to_model import scattered

_ROOM = 2**27  # entries that the dense form of any file may have
_RATIO = 1_000  # and for each byte of the file
_MOST = 2**31 - 1  # entries of a compressed layer
_LAYOUT = 10  # bytes, about, that a compressed layer takes in the layout beyond a tensor's
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def compressed_state(
    state: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None, draw: tuple[str, int] | None = None
) -> list[Entry]:
    """Entries of a state dict, weights in whichever form takes the fewest bytes: dense, without zeros, or without
    what a seed gives. Tensors with several names stay dense and are stored once.

    Args:
        state: of a plain model. Weights are the floating-point ``*.weight`` of two or four dimensions.
        masks: weight name -> bool mask of its shape: what to store, be it zero or not; nothing may stand elsewhere.
        draw: (init, seed) of weights that were initialised by name, as :func:`fbconv.initialise` does.

    Raises:
        ValueError: the state of a compressed model; a mask that does not fit, or that leaves something out.
    """
    masks = masks or {}
    _check(state, masks)
    entries = list(plain_entries(dict(state)))
    shared = {entry.of for entry in entries if isinstance(entry, Same)}
    return [e if e.name in shared else _smallest(e, masks.get(e.name), draw) for e in entries]


def _check(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    for name in state:
        if name.endswith("indices") and f"{name.removesuffix('indices')}values" in state:
            raise ValueError(f"{name}: the state dict is a compressed model's; write that with fbconv.save")
    for name, mask in masks.items():
        if name not in state or not _is_weight(name, state[name]):
            raise ValueError(f"masks: {name} is no weight of the state dict")
        if mask.dtype != torch.bool or mask.shape != state[name].shape:
            raise ValueError(f"masks: {name} must be bool of shape {tuple(state[name].shape)}, got {mask.dtype} of "
                             f"shape {tuple(mask.shape)}")  # fmt: skip


def _is_weight(name: str, tensor: Tensor) -> bool:
    named = name == "weight" or name.endswith(".weight")
    return named and tensor.dim() in (2, 4) and tensor.is_floating_point() and 0 < tensor.numel() <= _MOST


def _smallest(entry: Entry, mask: Tensor | None, draw: tuple[str, int] | None) -> Entry:
    if not isinstance(entry, Plain) or not _is_weight(entry.name, entry.tensor):
        return entry
    forms: list[Entry] = [layer for layer in _layers(entry, mask, draw) if layer is not None]
    if mask is not None and not forms:
        raise ValueError(f"masks: {entry.name} has entries outside of its mask that are not zero"
                         f"{' or drawn' if draw else ''}")  # fmt: skip
    return min(forms if mask is not None else [entry, *forms], key=_bytes)


def _layers(entry: Plain, mask: Tensor | None, draw: tuple[str, int] | None) -> Iterator[Layer | None]:
    """The weight without zeros, and without what the seed gives; None where the mask leaves something out."""
    name = entry.name.removesuffix("weight").removesuffix(".")
    yield _layer(name, entry.tensor, torch.zeros_like(entry.tensor), mask, None)
    if draw is not None:
        made = Draw(*draw, name)
        yield _layer(name, entry.tensor, made.tensor(entry.tensor.shape).to(entry.tensor.dtype), mask, made)


def _layer(name: str, weight: Tensor, background: Tensor, mask: Tensor | None, draw: Draw | None) -> Layer | None:
    bits = _BITS[weight.element_size()]  # a negative zero is no zero
    differs = weight.contiguous().view(bits) != background.view(bits)
    if mask is None:
        mask = differs
    elif bool((differs & ~mask).any()):
        return None
    positions = mask.reshape(-1).nonzero()[:, 0]
    return coded(name, weight.shape, positions, weight.reshape(-1)[positions], frozen=draw)


def _bytes(entry: Entry) -> int:
    if isinstance(entry, Plain):
        return entry.tensor.nbytes
    return entry.values.nbytes + len(entry.code) + _LAYOUT


def dense_state(file: File) -> dict[str, Tensor]:
    """The state dict of the plain model: weights scattered, drawn and composed from bases, in the file's dtypes.

    Raises:
        ValueError: if the file cannot be that large, or its frozen weights cannot be drawn.
    """
    require_sensible_size(file)
    layers, state = file.layers(), file.tensors()
    frozen = file.frozen_weights()
    weights = {}
    for name, layer in layers.items():
        scale = state.get(layer.key("frozen_scale"))
        dense = scattered(layer, frozen.get(name), scale)
        weights[layer.key("weight")] = dense if layer.basis is None else _composed(layer, dense, state[layer.basis])
    used = {layer.basis for layer in layers.values()} | {layer.key("frozen_scale") for layer in layers.values()}
    # Tensors of their own: those of the file share memory, with which safetensors refuses them.
    return weights | {name: tensor.clone() for name, tensor in state.items() if name not in used}


def require_sensible_size(file: File) -> None:
    """Before weights are drawn or made dense: a few bytes may declare any number of them.

    Raises:
        ValueError: if the file cannot be that large.
    """
    tensors = file.tensors()
    size = sum(_dense_size(layer, tensors) for layer in file.layers().values())
    if size > max(_ROOM, _RATIO * file.size):
        raise ValueError(f"{file.size} bytes stand for {size:,} weights, which no sensible file does")


def _dense_size(layer: Layer, tensors: Mapping[str, Tensor]) -> int:
    if layer.basis is None:
        return layer.size
    elements = tensors[layer.basis]
    return max(layer.size, layer.shape[0] * layer.shape[1] * elements.shape[-1] * elements.shape[-2])


def _composed(layer: Layer, coefficients: Tensor, elements: Tensor) -> Tensor:
    """In float32 at least, then in the dtype of the values."""
    wide = torch.promote_types(coefficients.dtype, torch.float32)
    bases = (elements if elements.dim() == 4 else elements[None]).to(wide)
    weight = compose_filters(coefficients.to(wide), bases, groups=layer.groups, basis_axis=layer.axis)
    return (weight.flatten(1) if layer.linear else weight).to(coefficients.dtype)
