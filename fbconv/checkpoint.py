"""Models in compressed files: kept weights, the positions of these at their entropy, and seeds of frozen ones."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from ._files.container import read, write
from ._files.entries import cast
from ._files.of_model import entries_of_model
from ._files.to_model import model_of_file

__all__ = ["load", "save"]

_DTYPES = (None, torch.float32, torch.bfloat16, torch.float16)


def save(model: nn.Module, path: str | os.PathLike[str], dtype: torch.dtype | None = None) -> int:
    """Writes a model to a compressed file, whole or not at all.

    The file is a safetensors file. It holds the values that compressed layers keep, their positions coded at
    ``log2(size choose kept)`` bits a layer, every other parameter and buffer, and for layers that
    :func:`fbconv.freeze` froze at the numbers of a seed the seed instead of the frozen weights; tensors that layers
    share are held once. The same model gives the same bytes.

    Args:
        model: any module; plain layers are stored densely.
        path: where to.
        dtype: ``torch.float32``, ``torch.bfloat16`` or ``torch.float16`` for all floating-point tensors, buffers
            included; None keeps each its own, for a bit-exact round trip.

    Returns:
        The size of the file in bytes.

    Raises:
        ValueError: another dtype; a number too large for it; a state dict with something else than dense tensors.

    Example:
        >>> model = fbconv.sparsify(nn.Sequential(nn.Linear(300, 100)), {"0.weight": torch.rand(100, 300) < 0.01})
        >>> size = save(model, "model.fbc")
        >>> load("model.fbc", nn.Sequential(nn.Linear(300, 100)))[0]
        SparseLinear(...)
    """
    if dtype not in _DTYPES:
        raise ValueError(f"save: dtype must be None, {', '.join(map(str, _DTYPES[1:]))}, got {dtype!r}")
    return write(Path(path), cast(entries_of_model(model, dtype), dtype))


def load(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """A model from a compressed file.

    Nothing in the file is executed or taken on trust: its checksum, all sizes and positions are checked first, and
    sizes against the model before anything is made of them.

    Args:
        path: a file of :func:`save`.
        model: the same architecture, dense or compressed in whatever way; its weights do not matter.

    Returns:
        A copy of ``model`` whose layers are compressed as the file says, on the device and of the dtypes of ``model``:
        a file in another floating-point dtype is converted.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: naming the file, if it is truncated, altered, of another format or version, or does not fit the
            model (naming the layer, what the file and what the model has).

    Example:
        >>> size = save(fbconv.interspace(nn.Sequential(nn.Conv2d(3, 8, 3))), "model.fbc", torch.bfloat16)
        >>> load("model.fbc", nn.Sequential(nn.Conv2d(3, 8, 3)))[0].weight.dtype
        torch.float32
    """
    file = read(Path(path))
    try:
        return model_of_file(file, model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
