"""Masks that are parametrizations of torch (``torch.nn.utils.parametrize``)."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def masked(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Module name, module, tensor name and bool mask of all tensors whose parametrizations multiply them by a mask.

    What a parametrization computes from ones is its mask if it holds only 0 and 1, if minus ones give minus the same,
    and if the tensor is its original times that. So masks of any class and any attribute are found, kept zeros too,
    and constraints that depend on the weight (a norm, a ReLU, a threshold) are not taken for masks.
    """
    for name, module in list(model.named_modules()):
        if parametrize.is_parametrized(module):
            for tensor_name in list(module.parametrizations):
                mask = _mask(module, tensor_name)
                if mask is not None:
                    yield name, module, tensor_name, mask


def remove(module: nn.Module, tensor_name: str) -> None:
    """A plain parameter in the place of a parametrized tensor."""
    # Copies of a module share its parametrized class, and torch deletes the tensor's property from that class.
    kind = type(module)
    content = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind)(kind.__name__, kind.__bases__, content)
    parametrize.remove_parametrizations(module, tensor_name)


@torch.no_grad()
def _mask(module: nn.Module, tensor_name: str) -> Tensor | None:
    chain = module.parametrizations[tensor_name]
    if not chain.is_tensor:  # made of several tensors
        return None
    original = chain.original.detach()
    probe = copy.deepcopy(chain)  # a call may change buffers
    mask = _computed(probe, torch.ones_like(original))
    if mask.shape != original.shape or not bool(((mask == 0) | (mask == 1)).all()) or bool(mask.all()):
        return None
    same = torch.equal(_computed(probe, -torch.ones_like(original)), -mask)
    return mask.bool() if same and torch.equal(_computed(probe, original), original * mask) else None


def _computed(chain: nn.ModuleList, tensor: Tensor) -> Tensor:
    for parametrization in chain:
        tensor = parametrization(tensor)
    return tensor
