"""The kept weights of a sweep's models: how much the masks of groups have in common, and how large weights are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from ._files.container import read
from ._files.entries import Layer
from ._files.state_dicts import require_sensible_size
from .overlap import jaccard, mask_similarity
from .results import Record, sparsity_of
from .train import MODEL

_Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Tickets:
    """The masks at one sparsity.

    Attributes:
        sparsity: of all of them.
        names: of the groups, in the order of rows and columns.
        jaccard, similarity: how much masks of two groups share, mean over the seeds that both have
            (:func:`fbconv.overlap.jaccard`, :func:`fbconv.overlap.mask_similarity`); None where there is none, or
            where the masks are of other layers.
        weights: name -> all kept weights of the first seed, one vector.
    """

    sparsity: float
    names: tuple[str, ...]
    jaccard: list[list[float | None]]
    similarity: list[list[float | None]]
    weights: dict[str, Tensor]


def tickets(records: Sequence[Record], folder: Path) -> list[Tickets]:
    """What the models in a sweep's folder keep, by sparsity; dense runs keep everything and are left out.

    Args:
        records: with results; their models are in ``folder/ID/model.fbc``.
        folder: of the sweep.

    Raises:
        ValueError: a damaged file.
    """
    sparse = [record for record in records if record.result is not None and record.config.mode != "dense"]
    kept = [record for record in sparse if (folder / record.id / MODEL).exists()]
    return [
        _at(sparsity, [record for record in kept if sparsity_of(record.config) == sparsity], folder)
        for sparsity in sorted({sparsity_of(record.config) for record in kept})
    ]


def _at(sparsity: float, records: Sequence[Record], folder: Path) -> Tickets:
    masks: dict[str, dict[int, _Masks]] = {}
    weights: dict[str, Tensor] = {}
    for record in sorted(records, key=lambda record: record.config.seed):
        layers = _layers(folder / record.id / MODEL)
        masks.setdefault(record.name, {})[record.config.seed] = {name: layer.mask() for name, layer in layers.items()}
        if record.name not in weights:
            weights[record.name] = torch.cat([layer.values.float() for layer in layers.values()])
    names = tuple(dict.fromkeys(record.name for record in records))
    matrices = [
        [[_shared(measure, masks[a], masks[b]) for b in names] for a in names] for measure in (jaccard, mask_similarity)
    ]
    return Tickets(sparsity, names, *matrices, {name: weights[name] for name in names})


def _layers(path: Path) -> dict[str, Layer]:
    file = read(path)
    try:
        require_sensible_size(file)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return file.layers()


def _shared(
    measure: Callable[[_Masks, _Masks], float], a: Mapping[int, _Masks], b: Mapping[int, _Masks]
) -> float | None:
    seeds = a.keys() & b.keys()
    if not seeds or any(_shapes(a[seed]) != _shapes(b[seed]) for seed in seeds):
        return None
    return mean(measure(a[seed], b[seed]) for seed in sorted(seeds))


def _shapes(masks: _Masks) -> dict[str, torch.Size]:
    return {name: mask.shape for name, mask in masks.items()}
