"""Ranks that train copies of one model: the same masks on all of them, from the gradients of all of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..distributed import broadcast_masks


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of a data-parallel one, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def group_of(model: nn.Module) -> dist.ProcessGroup | None:
    """The ranks that a data-parallel model exchanges gradients with; None for any other model."""
    return model.process_group if isinstance(model, DistributedDataParallel) else None


def from_first_rank(masks: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> Mapping[str, Tensor]:
    """The masks of the group's first rank, on all of its ranks; without a group, these masks."""
    return masks if group is None else broadcast_masks(masks, dist.get_global_rank(group, 0), group)


def summed(gradients: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> Mapping[str, Tensor]:
    """The sum of the group's gradients, the same on all of its ranks; without a group, these gradients."""
    if group is None:
        return gradients
    sums = {name: gradient.clone() for name, gradient in gradients.items()}
    for gradient in sums.values():
        dist.all_reduce(gradient, group=group)
    return sums
