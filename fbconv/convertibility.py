"""Which weights of a model can be compressed, and why the others stay dense."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from .nn.compressed import Compressed, key_of
from .nn.filter_basis import FilterBasis

__all__ = ["Convertible", "convertible"]

_PLAIN = (nn.Conv2d, nn.Linear)
_OTHER_KINDS = {
    nn.modules.conv._ConvTransposeNd: "transposed convolutions have no compressed form",
    nn.Conv1d: "1-d convolutions have no compressed form; a Conv2d with kernel size (1, K) has",
    nn.Conv3d: "3-d convolutions have no compressed form",
    nn.Embedding: "embeddings have no compressed form",
    nn.EmbeddingBag: "embeddings have no compressed form",
    nn.RNNBase: "recurrent layers have no compressed form",
    nn.MultiheadAttention: "nn.MultiheadAttention reads its projections itself, without calling a layer",
}


@dataclass(frozen=True)
class Convertible:
    """What :func:`convertible` finds; printed, a line for each weight.

    Attributes:
        weights: name -> dense shape of what :func:`fbconv.sparsify` and :func:`fbconv.freeze` take masks for, as
            :func:`fbconv.prunable` returns it.
        tied: other name of one of these weights -> the name it is listed under; one mask is for both.
        dense: name -> why it stays dense, of every other parameter with two or more dimensions.
    """

    weights: dict[str, torch.Size]
    tied: dict[str, str]
    dense: dict[str, str]

    def why_not(self, name: str) -> str:
        """Why there can be no mask of this name."""
        if name in self.tied:
            return f"it is {self.tied[name]!r}, one parameter: give the mask under that name"
        return self.dense.get(name, f"the model has {', '.join(self.weights) or 'nothing prunable'}")

    def __str__(self) -> str:
        lines = [f"{name} {tuple(shape)}: can be compressed" for name, shape in self.weights.items()]
        lines += [f"{name}: is {first}" for name, first in self.tied.items()]
        return "\n".join(lines + [f"{name}: stays dense, {reason}" for name, reason in self.dense.items()])


def convertible(model: nn.Module) -> Convertible:
    """Which weights of a model can be compressed, and why the others stay dense.

    Conversions are silent about what they leave alone; this says it.

    Example:
        >>> print(convertible(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 3, 2))))
        0.weight (8, 3, 3, 3): can be compressed
        1.weight: stays dense, transposed convolutions have no compressed form
    """
    layers = convertible_layers(model)
    first: dict[int, str] = {}
    for key, module in layers.items():
        first.setdefault(id(weight_of(module)), key)
    weights = {key: dense_shape(layers[key]) for key in first.values()}
    tied = {key: first[id(weight_of(module))] for key, module in layers.items() if key not in weights}
    return Convertible(weights, tied, dict(_dense(model, layers)))


def convertible_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name of the weight (``values``, of a compressed layer) -> layer, of all that conversions change, in module order;
    layers whose weights are one parameter are all there."""
    elsewhere = _held_by_others(model)
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Compressed):
            found[key_of(name, "values")] = module
        elif stays_dense(module) is None and id(module.weight) not in elsewhere:
            found[key_of(name, "weight")] = module
    return found


def layer_groups(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Name of the weight -> the layers that have it: several, where they are tied."""
    groups: dict[int, list[nn.Module]] = {}
    names: dict[int, str] = {}
    for key, module in convertible_layers(model).items():
        names.setdefault(id(weight_of(module)), key)
        groups.setdefault(id(weight_of(module)), []).append(module)
    return {names[weight]: modules for weight, modules in groups.items()}


def weight_of(module: nn.Module) -> nn.Parameter:
    """What a convertible layer trains as its weight."""
    return module.values if isinstance(module, Compressed) else module.weight


def dense_shape(module: nn.Module) -> torch.Size:
    """The shape of a convertible layer's masks."""
    return torch.Size(module.pattern.shape) if isinstance(module, Compressed) else module.weight.shape


def stays_dense(module: nn.Module) -> str | None:
    """Why a module that is not compressed has no compressed form; None for a plain convolution or linear layer."""
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return "it is lazy: give the model an input first"
    if parametrize.is_parametrized(module):
        return ("it is parametrized: torch.nn.utils.parametrize.remove_parametrizations makes it a parameter again, "
                "if it need not stay one")  # fmt: skip
    if type(module) not in _PLAIN:
        return _kind_reason(module)
    if "weight" not in module._parameters:
        return ("it is computed from others, as by weight_norm or torch.nn.utils.prune; make it a parameter again, by "
                "torch.nn.utils.prune.remove for instance")  # fmt: skip
    own = (module._parameters.keys() - {"weight", "bias"}) | module._buffers.keys() | module._modules.keys()
    if own:
        return f"the layer also holds {', '.join(sorted(own))}, which a compressed one would lack"
    if module.weight.numel() == 0:
        return "it has no entries"
    if "forward" in vars(module):
        return "the layer's forward was replaced by another"
    return None


def computed_weights(model: nn.Module) -> list[str]:
    """Weights of plain layers that hooks compute, by name."""
    return [
        key_of(name, "weight")
        for name, module in model.named_modules()
        if type(module) in _PLAIN and "weight" not in module._parameters
    ]


def _kind_reason(module: nn.Module) -> str:
    name = type(module).__name__
    for kind in _PLAIN:
        if isinstance(module, kind):
            return f"{name} is a kind of {kind.__name__} that may compute or be read otherwise"
    known = (reason for kind, reason in _OTHER_KINDS.items() if isinstance(module, kind))
    return next(known, f"{name} is neither Conv2d nor Linear")


def _held_by_others(model: nn.Module) -> dict[int, str]:
    """Id -> name of all parameters that a module without a compressed form has, shared ones too."""
    return {
        id(parameter): key_of(name, own)
        for name, module in model.named_modules()
        if not isinstance(module, Compressed)
        for own, parameter in module._parameters.items()
        if parameter is not None and (own != "weight" or stays_dense(module) is not None)
    }


def _dense(model: nn.Module, layers: dict[str, nn.Module]) -> Iterator[tuple[str, str]]:
    computed = set(computed_weights(model))
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            yield from ((key_of(name, tensor), str(stays_dense(module))) for tensor in module.parametrizations)
        if key_of(name, "weight") in computed:
            yield key_of(name, "weight"), str(stays_dense(module))
        if isinstance(module, Compressed | FilterBasis | parametrize.ParametrizationList):
            continue
        for own, parameter in module._parameters.items():
            key = key_of(name, own)
            if parameter is not None and key not in layers and _is_matrix(parameter):
                yield key, _reason(model, key, module, parameter)


def _is_matrix(parameter: nn.Parameter) -> bool:
    return nn.parameter.is_lazy(parameter) or parameter.dim() > 1


def _reason(model: nn.Module, key: str, module: nn.Module, parameter: nn.Parameter) -> str:
    own = stays_dense(module)
    if own is not None:
        return own
    return f"it is {_held_by_others(model)[id(parameter)]!r} too, one parameter"
