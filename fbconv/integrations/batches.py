"""The first batches of a trainer's data, without a trace in what the trainer draws later."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..scores.context import random_states


def first_batches(loader: object, count: int, model: nn.Module) -> list[object]:
    """The first ``count`` batches, or as many as there are.

    Trainers' own loaders place batches and count epochs, and their workers may persist: a copy that is iterated as a
    plain DataLoader does none of that.
    """
    if not isinstance(loader, DataLoader):
        raise ValueError("SparseTraining: batches must be given where the training data is not one DataLoader, got "
                         f"{type(loader).__name__}")  # fmt: skip
    plain = copy.copy(loader)
    plain._iterator = None
    with random_states(model, torch.Generator().manual_seed(0)), _generators(loader):
        return list(islice(DataLoader.__iter__(plain), count))


@contextmanager
def _generators(loader: DataLoader) -> Iterator[None]:
    """Those of the loader and its sampler, as before afterwards."""
    owners = (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    generators = [g for owner in owners if isinstance(g := getattr(owner, "generator", None), torch.Generator)]
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
