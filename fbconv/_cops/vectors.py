"""Score dicts as vectors over all weights, lower = keep, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Scores = Mapping[str, Tensor]


class Layout:
    """Where each tensor of a score lies in the vector of all its weights."""

    def __init__(self, scores: Scores, op: str = "cops") -> None:
        if not scores:
            raise ValueError(f"{op}: target must hold at least one tensor, got none")
        self.op = op
        self._check_tensors("target", scores)
        self.shapes = {name: value.shape for name, value in scores.items()}
        self.device = next(iter(scores.values())).device
        self.size = sum(shape.numel() for shape in self.shapes.values())

    def check(self, argument: str, scores: Scores) -> None:
        """Tensors with names and shapes as the first score's."""
        self._check_tensors(argument, scores)
        if scores.keys() != self.shapes.keys():
            name = next(iter(scores.keys() ^ self.shapes.keys()))
            where = argument if name in scores else "target"
            raise ValueError(f"{self.op}: {argument} must have target's names, but {name!r} is only in {where}")
        for name, shape in self.shapes.items():
            if scores[name].shape != shape:
                raise ValueError(
                    f"{self.op}: {argument} of {name!r} must have target's shape {tuple(shape)}, "
                    f"got {tuple(scores[name].shape)}"
                )

    def _check_tensors(self, argument: str, scores: Scores) -> None:
        for name, value in scores.items():
            if not isinstance(value, Tensor):
                raise ValueError(f"{self.op}: {argument} of {name!r} must be a tensor, got {type(value).__name__}")

    def flatten(self, argument: str, scores: Scores) -> Tensor:
        """One vector in the paper's convention: the negative importances, float32 where that holds all of them."""
        for name, value in scores.items():
            if value.is_complex():
                raise ValueError(f"{self.op}: {argument} of {name!r} must be real, got {value.dtype}")
            if value.device != self.device:
                raise ValueError(f"{self.op}: {argument} of {name!r} must be on {self.device}, got {value.device}")
        wide = any(value.dtype in (torch.float64, torch.int32, torch.int64) for value in scores.values())
        flat = torch.empty(self.size, dtype=torch.float64 if wide else torch.float32, device=self.device)
        sizes = [shape.numel() for shape in self.shapes.values()]
        for name, part in zip(self.shapes, flat.split(sizes), strict=True):
            part.copy_(scores[name].detach().reshape(-1)).neg_()
        return flat

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """name -> tensor, each with storage of its own."""
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape).clone() for (name, shape), part in named}


def clear_excluded(named: Mapping[str, Scores], vectors: Sequence[Tensor], op: str = "cops") -> Tensor | None:
    """Gives entries of importance -inf the score 0, which is never selected, in all vectors; None without any.

    Raises:
        ValueError: on what else is not finite, with the tensor's name.
    """
    if all(bool(vector.isfinite().all()) for vector in vectors):
        return None
    for argument, scores in named.items():
        for name, value in scores.items():
            bad = value.isnan() | (value == math.inf)
            if bool(bad.any()):
                what = "NaN" if bool(value.isnan().any()) else "infinite"
                raise ValueError(
                    f"{op}: {argument} of {name!r} must be finite (or -inf: never kept), got {int(bad.sum())} {what}"
                )
    excluded = torch.stack([vector.isinf() for vector in vectors]).any(0)
    for vector in vectors:
        vector[excluded] = 0
    return excluded


def norms_of(named: Mapping[str, Scores], vectors: Sequence[Tensor], op: str = "cops") -> list[float]:
    """Sums of absolute values, fit to divide by; see :func:`finite`."""
    return finite(named, [float(vector.abs().sum(dtype=torch.float64)) for vector in vectors], op)


def finite(named: Mapping[str, Scores], norms: Sequence[float], op: str = "cops") -> list[float]:
    """The norms, with 1 for a score that is all zeros.

    Raises:
        ValueError: on an infinite one, with the score's argument.
    """
    for name, norm in zip(named, norms, strict=True):
        if norm == math.inf:
            raise ValueError(f"{op}: {name} must have absolute values of finite sum, got infinity")
    return [norm or 1.0 for norm in norms]
