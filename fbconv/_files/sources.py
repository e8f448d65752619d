"""Files of others that can be packed: state dicts that safetensors or torch wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from .container import check_seal, is_ours, metadata_of, parse_file
from .entries import Entry
from .state_dicts import compressed_state, require_sensible_size
from .torch_files import load_torch

_TORCH = (".pt", ".pth", ".ckpt", ".bin")
_INSIDE = ("state_dict", "model")  # where training frameworks keep it


def entries_of_source(
    path: Path, masks: Mapping[str, Tensor] | None = None, draw: tuple[str, int] | None = None
) -> list[Entry]:
    """What a file of a state dict (``.safetensors``, or torch's ``.pt``, ``.pth``, ``.ckpt``, ``.bin``, read without
    running anything) holds, or what a packed file does.

    Raises:
        FileNotFoundError: if there is none. ValueError: naming the file, if it is none of these.
    """
    if path.suffix in _TORCH:
        state = _torch_state(path)
    else:
        data = path.read_bytes()
        state = _safetensors(path, data)
        if is_ours(data):
            if masks or draw:
                raise ValueError(f"{path}: packed already; masks and seeds are for plain state dicts")
            return _sensible_entries(path, data)
    try:
        return compressed_state(state, masks, draw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _sensible_entries(path: Path, data: bytes) -> list[Entry]:
    file = parse_file(path, data)
    try:
        require_sensible_size(file)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return file.entries


def load_masks(path: Path) -> dict[str, Tensor]:
    """Masks as ``fbconv score`` writes them: weight name -> bool tensor.

    Raises:
        FileNotFoundError: if there are none. ValueError: naming the file, if it is not a safetensors file, was altered
            since it was written, or holds something else.
    """
    data = path.read_bytes()
    masks = _safetensors(path, data)
    try:
        if metadata_of(data).keys() - {"format"}:  # masks of others have no metadata, or torch's word for its format
            check_seal(data)
        for name, mask in masks.items():
            _check_mask(name, mask)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return masks


def _check_mask(name: str, mask: Tensor) -> None:
    # Any other byte counts as True here and as more there.
    if mask.dtype == torch.bool and mask.numel() and int(mask.view(torch.uint8).max()) > 1:
        raise ValueError(f"masks: {name} must hold only 0 and 1")


def _safetensors(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return dict(sorted(load_tensors(data).items()))  # the library gives them in any order
    except Exception as error:  # whatever a broken file makes the library raise
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from error


def _torch_state(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        state = load_torch(path)
    except Exception as error:  # whatever a broken file makes torch raise
        raise ValueError(f"{path}: not a file of tensors: {error}") from error
    for key in _INSIDE:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{path}: must hold a state dict, got {type(state).__name__}")
    return dict(state)
