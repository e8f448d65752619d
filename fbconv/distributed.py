"""Compressed models on several ranks: the same masks everywhere, and only trained values between them."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .nn.compressed import Compressed, compressed_layers, key_of

__all__ = ["broadcast_masks", "data_parallel", "reduce_scores"]


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
        >>> model = data_parallel(fbconv.sparsify(model, broadcast_masks(masks)))  # doctest: +SKIP
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


def data_parallel(model: nn.Module, group: dist.ProcessGroup | None = None, **options: Any) -> DistributedDataParallel:
    """The model in torch's ``DistributedDataParallel``, set up so that ranks exchange only what is trained.

    Left alone, that sends all buffers at the start and again in every step: patterns and frozen weights, as much as a
    dense network. Here the ranks compare digests of them once; what travels is, at the start, all parameters, and in
    each step the gradients of parameters (``values``, biases, normalisation, filter bases) and the buffers of other
    layers, such as batch-norm statistics. Steps equal those of one process with all ranks' batches at once, where the
    loss is a mean and all have equally many examples; batch norm sees one rank's examples only, as always.

    Masks change through this model: :func:`fbconv.dynamic.set_masks`, ``RegrowingMasks`` and ``GradualPruning`` take
    it as it is, and then all ranks have the masks of the first one. Whatever puts other parameters into ``.module``
    behind its back is an error in the next step.

    Args:
        model: the same on every rank, but for the values of its parameters; these are taken from the first rank.
        group: of ``torch.distributed``; by default all ranks.
        options: others of ``DistributedDataParallel``, but not its ``process_group`` or ``device_mesh``.

    Raises:
        ValueError: without an initialised process group; on every rank, if the patterns, frozen weights or other
            buffers of a compressed layer differ between ranks, naming the first such layer.

    Example:
        A script that ``torchrun --nproc-per-node 2 script.py`` runs; each rank draws batches of its own. ::

            dist.init_process_group("gloo")
            model = fbconv.models.build("lenet5", seed=0)
            masks = fbconv.prune_masks(model, "snip", 0.99, 1, batches=[next(batches)])
            model = data_parallel(fbconv.freeze(model, broadcast_masks(masks)))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
            for images, labels in batches:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
    """
    _check("data_parallel")
    _require_equal_layers(model, group)
    ignore_constants(model)
    parallel = DistributedDataParallel(model, process_group=group, **options)
    parallel.register_forward_pre_hook(_require_known_values)
    return parallel


def ignore_constants(model: nn.Module) -> None:
    """Has a ``DistributedDataParallel`` that will wrap the model leave patterns and frozen weights where they are: they
    must be equal on all ranks, and stay so."""
    ignored = {*getattr(model, "_ddp_params_and_buffers_to_ignore", ()), *_constants(model)}
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)


def follow_parameters(model: DistributedDataParallel) -> None:
    """Makes a data-parallel model exchange the gradients of the parameters that it has now, which must be equal on all
    ranks; does nothing if they are those that it had.

    What ``DistributedDataParallel`` does when it is unpickled; its communication hooks come along.
    """
    parameters = [p for name, p in model.module.named_parameters() if name not in model.parameters_to_ignore]
    known = model._module_parameters
    if len(known) == len(parameters) and all(map(operator.is_, known, parameters)):
        return
    model._module_parameters = parameters
    model._remove_autograd_hooks()
    reduced, sparse = model._build_params_for_reducer()
    model._ddp_init_helper(reduced, sparse, model._build_debug_param_to_name_mapping(reduced), model.static_graph)
    if model.static_graph:
        model.reducer._set_static_graph()
        model.logger._set_static_graph()
    model._has_rebuilt_buckets = False
    hooks, model._comm_hooks = model._comm_hooks, []
    for hook, state in hooks:
        model.register_comm_hook(state, hook)


@torch.compiler.disable
def _require_known_values(model: DistributedDataParallel, _: object) -> None:
    known = set(map(id, model._module_parameters))
    for name, layer in compressed_layers(model.module).items():
        if id(layer.values) not in known:
            raise RuntimeError(
                f"data_parallel: {key_of(name, 'values')} must be the parameter that was wrapped, got another: change "
                "masks of the data-parallel model itself (fbconv.dynamic.set_masks), or wrap its module again"
            )


def _constants(model: nn.Module) -> Iterator[str]:
    """Names of the buffers of compressed layers, which training leaves equal on all ranks."""
    for layer, module in compressed_layers(model).items():
        for buffer, _ in module.named_buffers(layer, recurse=False):
            yield buffer


def _require_equal_layers(model: nn.Module, group: dist.ProcessGroup | None) -> None:
    mine = [(name, type(layer).__name__, _digest(layer)) for name, layer in compressed_layers(model).items()]
    ranks: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(ranks, mine, group)
    # Every rank looks at all digests, so that all raise or none, and none waits for another.
    for rank, layers in enumerate(ranks):
        name = _first_difference(ranks[0], layers)
        if name is not None:
            raise ValueError(
                f"data_parallel: model must have the same compressed layers, patterns and frozen weights on all ranks, "
                f"got a layer {name!r} on rank {rank} unlike that on rank 0"
            )


def _first_difference(ours: Sequence[tuple[str, ...]], theirs: Sequence[tuple[str, ...]]) -> str | None:
    """Name of the first layer that the two do not both have alike."""
    for one, other in zip_longest(ours, theirs):
        if one != other:
            return (one or other)[0]
    return None


def _digest(layer: Compressed) -> str:
    """Of its own buffers: names, dtypes, shapes and bits."""
    digest = hashlib.sha256()
    for name, buffer in layer.named_buffers(recurse=False):
        digest.update(f"{name} {buffer.dtype} {tuple(buffer.shape)};".encode())
        digest.update(buffer.detach().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _check(name: str) -> None:
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(f"{name}: torch.distributed must be initialised (init_process_group), got no process group")
