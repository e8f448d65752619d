"""ONNX files of compressed models; needs the packages onnx and onnxscript (``pip install "fbconv[onnx]"``)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .convert import densify

__all__ = ["export"]


def export(model: nn.Module, args: tuple[Tensor, ...], path: str | os.PathLike[str], **options: Any) -> int:
    """Writes a model as one ONNX file that computes the same with plain convolutions and linear layers.

    ONNX has no sparse layers: the file holds every weight, pruned zeros included, and runs as a dense model. The model
    itself stays as it is; what is written is its densified copy in evaluation mode.

    Args:
        model: with or without compressed layers.
        args: example inputs, a tuple of tensors.
        path: where to write; an old file stays whole until the new one is.
        options: for ``torch.onnx.export``, such as ``dynamic_shapes=({0: torch.export.Dim("batch")},)``.

    Returns:
        The file's size in bytes.

    Raises:
        ModuleNotFoundError: without onnx or onnxscript.

    Example:
        >>> layer = fbconv.nn.SparseConv2d(3, 8, 3, mask=torch.rand(8, 3, 3, 3) < 0.1)
        >>> fbconv.onnx.export(layer, (torch.randn(2, 3, 8, 8),), "layer.onnx", verbose=False) > 4 * 8 * 3 * 3 * 3
        True
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"fbconv.onnx.export needs {package}: pip install 'fbconv[onnx]'", name=package)
    from .experiment import replacing  # not at import: commands need it, models do not

    # Weights in a second file would be looked for under the temporary name.
    options = {"dynamo": True, "external_data": False} | options
    with replacing(Path(path)) as temporary:
        torch.onnx.export(densify(model).eval(), args, temporary, **options)
    return Path(path).stat().st_size
