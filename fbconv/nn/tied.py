"""Layers that share their values keep sharing them when their pattern changes."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

# A layer does not know who shares its values: the first to change leaves word here for the others.
_successors: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def successor(old: nn.Parameter, packed: Tensor, values: Tensor) -> nn.Parameter:
    """A new parameter with these values, for the pattern ``packed``; the same one for all layers that had ``old`` and
    take this pattern."""
    known, reference = _successors.get(old, (None, lambda: None))
    new = reference()
    if new is None or not torch.equal(known, packed):
        new = nn.Parameter(values, requires_grad=old.requires_grad)
        _successors[old] = (packed, weakref.ref(new))
    return new
