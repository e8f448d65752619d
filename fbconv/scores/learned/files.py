"""Learned scores in safetensors files: tensors, two words and a checksum, which no reader has to run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from ..._files.container import check_seal, metadata_of, sealed
from ...experiment import replacing
from .features import names_of
from .regressors import KINDS, Linear, Perceptron, Regressor, Trees
from .score import LearnedScore

_FORMAT = "fbconv learned score 1"
_WHOLE = {"roots", "feature", "left", "right"}
_HIDDEN = (64, 32)


def save(score: LearnedScore, path: str | Path) -> None:
    """Writes a learned score, whole or not at all.

    Example:
        >>> save(LearnedScore(Linear(torch.ones(4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))), "a.st")
    """
    tensors = {field.name: getattr(score.regressor, field.name) for field in dataclasses.fields(score.regressor)}
    metadata = {"format": _FORMAT, "kind": score.regressor.kind, "features": " ".join(names_of(score.extended))}
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(sealed({name: part.cpu().contiguous() for name, part in tensors.items()}, metadata))


def load(path: str | Path) -> LearnedScore:
    """The learned score in a file, for :func:`fbconv.score` and whatever else takes scores.

    Raises:
        FileNotFoundError. ValueError: naming the file, if it is none, was altered, or leads trees astray.

    Example:
        >>> save(LearnedScore(Linear(torch.ones(4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))), "a.st")
        >>> load("a.st").regressor.kind
        'linear'
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file") from error
    try:
        tensors = load_tensors(data)
        check_seal(data)
        return _parsed(metadata_of(data), tensors)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a learned score: {error}") from error


def _parsed(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> LearnedScore:
    if metadata.get("format") != _FORMAT or metadata.get("kind") not in KINDS:
        raise ValueError(f"its header must say {_FORMAT!r} and a known kind, got {dict(metadata)}")
    known = {" ".join(names_of(extended)): extended for extended in (False, True)}
    if metadata.get("features") not in known:
        raise ValueError(f"unknown features {metadata.get('features')!r}")
    kind = KINDS[metadata["kind"]]
    names = {field.name for field in dataclasses.fields(kind)}
    if tensors.keys() != names:
        raise ValueError(f"it must hold {', '.join(sorted(names))}, got {', '.join(sorted(tensors)) or 'nothing'}")
    extended = known[metadata["features"]]
    regressor = kind(**tensors)
    _check(regressor, len(names_of(extended)))
    return LearnedScore(regressor, extended)


def _check(regressor: Regressor, features: int) -> None:
    """Shapes, dtypes and, of trees, that every way ends within the nodes."""
    for name, shape in _shapes(regressor, features).items():
        tensor = getattr(regressor, name)
        dtype = torch.int64 if name in _WHOLE else torch.float32 if regressor.kind == "perceptron" else torch.float64
        if tensor.shape != shape or tensor.dtype != dtype:
            got = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            raise ValueError(f"{name} must be {dtype} of shape {shape}, got {got}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} must be finite")
    if isinstance(regressor, Trees):
        _check_ways(regressor, features)


def _shapes(regressor: Regressor, features: int) -> dict[str, tuple[int, ...]]:
    if isinstance(regressor, Linear):
        return {"coefficients": (features,), "intercept": (1,)}
    if isinstance(regressor, Perceptron):
        first, second = _HIDDEN
        widths = {"1": (first, features), "2": (second, first), "3": (1, second)}
        return {f"weight{i}": shape for i, shape in widths.items()} | {
            f"bias{i}": shape[:1] for i, shape in widths.items()
        }
    nodes = (regressor.value.numel(),)
    per_node = dict.fromkeys(("feature", "threshold", "left", "right", "value"), nodes)
    return per_node | {"roots": (max(1, regressor.roots.numel()),)}


def _check_ways(trees: Trees, features: int) -> None:
    """Every way leads down the row until a leaf: none is endless."""
    nodes = len(trees.value)
    for name, end in {"roots": nodes, "left": nodes, "right": nodes, "feature": features}.items():
        _require_below(name, getattr(trees, name), end)
    here = torch.arange(nodes)
    leaf = (trees.left == here) & (trees.right == here)
    if not (leaf | ((trees.left > here) & (trees.right > here))).all():
        raise ValueError("left and right must lead to later nodes, or both to the node itself")


def _require_below(name: str, indices: Tensor, end: int) -> None:
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < end:
        raise ValueError(f"{name} must lie in [0, {end}), got {int(indices.min())} to {int(indices.max())}")
