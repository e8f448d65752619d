"""Masks of weights that are zero already."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..convert import prunable
from ..nn import Compressed


@torch.no_grad()
def masks_of_zeros(model: nn.Module) -> dict[str, Tensor]:
    """Masks that keep what is not zero, for pruned models that have lost their masks (``prune.remove``, a file).

    A kept weight that happens to be exactly zero is not told from a pruned one.

    Args:
        model: any module.

    Returns:
        :func:`fbconv.prunable`'s name -> bool mask, False at zeros of either sign, for every layer that has a zero;
        the others stay dense under :func:`fbconv.sparsify`.

    Example:
        >>> linear = torch.nn.Linear(2, 1)
        >>> linear.weight.data = torch.tensor([[0.5, 0.0]])
        >>> masks_of_zeros(linear)
        {'weight': tensor([[ True, False]])}
    """
    kept = {key: _prunable_tensor(model, key) != 0 for key in prunable(model)}
    return {key: mask for key, mask in kept.items() if not bool(mask.all())}


def _prunable_tensor(model: nn.Module, key: str) -> Tensor:
    module = model.get_submodule(key.rpartition(".")[0])
    return module.dense_values() if isinstance(module, Compressed) else module.weight
