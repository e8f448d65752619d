"""The same masks on every rank of a process group."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor


def reduce_scores(scores: Mapping[str, Tensor], group: dist.ProcessGroup | None = None) -> dict[str, Tensor]:
    """The sum of all ranks' scores, the same on every rank: each has scored the same model on its own batches.

    ``-inf``, outside masks and patterns, stays. SNIP and USNIP take absolute values before this sum, a little unlike
    one rank that sees all batches; where that matters, score on one rank and use :func:`broadcast_masks`.

    Args:
        scores: name -> score, the same names, shapes and dtypes on every rank.
        group: of ``torch.distributed``; by default all ranks.

    Raises:
        ValueError: without an initialised process group.

    Example:
        >>> masks = fbconv.select(reduce_scores(fbconv.score(model, "snip", batches)), 0.9)  # doctest: +SKIP
    """
    _check("reduce_scores")
    sums = {name: value.detach().clone() for name, value in scores.items()}
    for value in sums.values():
        dist.all_reduce(value, group=group)
    return sums


def broadcast_masks(
    masks: Mapping[str, Tensor] | None, source: int = 0, group: dist.ProcessGroup | None = None
) -> dict[str, Tensor]:
    """The masks of rank ``source``, on every rank: whatever the others' seeds and batches, all prune the same weights.

    Args:
        masks: name -> bool mask; only those of the source are read, other ranks may give None.
        source: global rank that has computed the masks.
        group: of ``torch.distributed``; by default all ranks.

    Returns:
        name -> bool mask, where the source has it; on the current CUDA device, with NCCL.

    Raises:
        ValueError: without an initialised process group, or without masks on the source.

    Example:
        >>> masks = fbconv.prune_masks(model, "snip", 0.9, 1, batches=batches) if rank == 0 else None  # doctest: +SKIP
        >>> model = DistributedDataParallel(fbconv.sparsify(model, broadcast_masks(masks)))  # doctest: +SKIP
    """
    _check("broadcast_masks")
    mine = dist.get_rank() == source
    if mine and masks is None:
        raise ValueError(f"broadcast_masks: masks must be given on the source, rank {source}, got None")
    shapes = [{name: tuple(mask.shape) for name, mask in masks.items()} if mine else None]
    dist.broadcast_object_list(shapes, source, group)
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else "cpu"
    received = {}
    for name, shape in shapes[0].items():
        words = masks[name].to(device, torch.uint8) if mine else torch.empty(shape, dtype=torch.uint8, device=device)
        dist.broadcast(words, source, group)
        received[name] = words.bool()
    return received


def _check(name: str) -> None:
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(f"{name}: torch.distributed must be initialised (init_process_group), got no process group")
