"""What a model is while it is scored, and how it comes back unchanged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def untouched(model: nn.Module, weights: Mapping[str, nn.Parameter], generator: torch.Generator) -> Iterator[None]:
    """Training mode and differentiable weights within; everything as before afterwards.

    The model works on copies of its parameters' and buffers' data meanwhile: what it had is never written to, so a
    graph that the caller has yet to go back through stays valid.
    """
    training = {module: module.training for module in model.modules()}
    buffers = [(m, name, b) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    copies = {id(buffer): buffer.clone() for _, _, buffer in buffers}
    parameters = [(p, p.data, p.requires_grad, p.grad) for p in model.parameters()]
    devices = {p.device for p, *_ in parameters if p.device.type == "cuda"}
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    try:
        with torch.random.fork_rng(devices), torch.enable_grad():
            _seed_global_state(seed, devices)
            model.train()
            for module, name, buffer in buffers:
                module._buffers[name] = copies[id(buffer)]
            for parameter, data, _, _ in parameters:
                parameter.data, parameter.grad = data.clone(), None
            for weight in weights.values():
                weight.requires_grad_(True)
            yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for module, name, buffer in buffers:
            module._buffers[name] = buffer
        for parameter, data, requires_grad, grad in parameters:
            parameter.data = data
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


def _seed_global_state(seed: int, devices: set[torch.device]) -> None:
    # Dropout and the like read the global state: tie it to the generator. Not torch.manual_seed, which would seed
    # devices too that are not forked here.
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
            module = model.get_submodule(key.rpartition(".")[0])
            pattern = getattr(module, "pattern", None)
            gone = ~mask.to(weights[key].device)
            gone = gone if pattern is None else gone[pattern.mask()]
            if getattr(module, "frozen", None) is None:
                weights[key].data.masked_fill_(gone, 0)
            handles.append(weights[key].register_hook(lambda grad, gone=gone: grad.masked_fill(gone, 0)))
        yield
    finally:
        for handle in handles:
            handle.remove()
