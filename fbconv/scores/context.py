"""What a model is while it is scored, and how it comes back unchanged."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn


@contextlib.contextmanager
def untouched(model: nn.Module, weights: Mapping[str, nn.Parameter], generator: torch.Generator) -> Iterator[None]:
    """Training mode and differentiable weights within, even under ``torch.inference_mode``; everything as before
    afterwards.

    The model works on copies of its parameters' and buffers' data meanwhile: what it had is never written to, so a
    graph that the caller has yet to go back through stays valid.
    """
    with torch.inference_mode(False), _working_copy(model), random_states(model, generator), torch.enable_grad():
        model.train()
        for weight in weights.values():
            weight.requires_grad_(True)
        yield


@contextlib.contextmanager
def _working_copy(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    # Whole dicts: a module may register a buffer, or fill an empty one, when it is first run.
    buffers = [(m, m._buffers.copy(), m._non_persistent_buffers_set.copy()) for m in model.modules()]
    copies = {id(b): b.clone() for _, own, _ in buffers for b in own.values() if b is not None}
    parameters = [(p, p.data, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        for module, own, _ in buffers:
            module._buffers.update({name: copies[id(b)] for name, b in own.items() if b is not None})
        for parameter, data, _, _ in parameters:
            parameter.data, parameter.grad = data.clone(), None
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for module, own, non_persistent in buffers:
            module._buffers.clear()
            module._buffers.update(own)
            module._non_persistent_buffers_set.clear()
            module._non_persistent_buffers_set.update(non_persistent)
        for parameter, data, requires_grad, grad in parameters:
            parameter.data = data
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


@contextlib.contextmanager
def random_states(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Global random numbers (of dropout, of augmentations in the batches) that follow the generator."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            _seed_global_state(seed, devices)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _seed_global_state(seed: int, devices: set[torch.device]) -> None:
    # Not torch.manual_seed, which would seed devices too that are not forked here.
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    for device in devices:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def restricted(model: nn.Module, weights: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, masked weights are no variables: zero (constant, in frozen layers), with gradients of 0 of any order.

    Zeroing alone would not do: dL/dTheta of a pruned weight is not 0, and would enter Hessian-vector products.
    """
    handles = []
    try:
        for key, mask in masks.items():
            masked = gone(model, key, mask)
            if getattr(model.get_submodule(key.rpartition(".")[0]), "frozen", None) is None:
                weights[key].data.masked_fill_(masked, 0)
            handles.append(weights[key].register_hook(lambda grad, masked=masked: grad.masked_fill(masked, 0)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def gone(model: nn.Module, key: str, mask: Tensor) -> Tensor:
    """Which entries of a parameter, in its shape, a mask takes away."""
    pattern = getattr(model.get_submodule(key.rpartition(".")[0]), "pattern", None)
    outside = ~mask.to(model.get_parameter(key).device)
    return outside if pattern is None else outside[pattern.mask()]
