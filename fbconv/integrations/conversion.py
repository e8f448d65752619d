"""A trainer's model made ready for masks, and a trainer's saved state back in a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..convert import freeze, prunable, sparsify
from ..convertibility import layer_groups
from ..distributed import ignore_constants
from ..masks import without_excluded
from ..nn.compressed import compressed_layers, key_of
from .plan import Plan


def convert(model: nn.Module, plan: Plan) -> None:
    """Compressed layers in the place of all prunable ones, in place, with masks that keep everything for the time
    being: before a trainer makes its optimizer, wraps the model or loads a checkpoint into it.

    Raises:
        ValueError: a model that is itself a prunable layer, or has none.
    """
    shapes = without_excluded(prunable(model), plan.exclude)
    if not shapes or "weight" in shapes:
        raise ValueError("SparseTraining: the model must have Conv2d or Linear layers within it, got "
                         f"{type(model).__name__}")  # fmt: skip
    layers = compressed_layers(model)
    masks: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        layer = layers.get(name.rpartition(".")[0])
        if layer is None:
            masks[name] = torch.ones(shape, dtype=torch.bool)
        elif plan.mode == "freeze" and layer.frozen is None:
            masks[name] = layer.pattern.mask()
    if plan.mode == "freeze":
        freeze(model, masks, plan.seed, plan.init, inplace=True)
    else:
        sparsify(model, masks, inplace=True)
    ignore_constants(model)


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """The saved state of a compressed model, in a model that need not be compressed yet.

    Args:
        model: of the architecture that was trained, in the same space (:func:`fbconv.interspace`); edited in place,
            unless it is itself a layer that is to be compressed.
        state: its ``state_dict``, as trainers save it: ``torch.load("last.ckpt")["state_dict"]`` of Lightning's, the
            contents of ``model.safetensors`` of Transformers'.

    Returns: the model, its layers compressed as those in the state.

    Raises:
        KeyError: a compressed layer that the model has no layer for. RuntimeError: other names or shapes that differ.

    Example:
        >>> layers = lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> pruned = fbconv.sparsify(layers(), {"0.weight": torch.rand(3, 4) < 0.5})
        >>> load_state(layers(), pruned.state_dict())[0]
        SparseLinear(...)
    """
    shapes = prunable(model)
    keys = {module: key for key, modules in layer_groups(model).items() for module in modules}
    names = {name: keys[m] for name, m in model.named_modules(remove_duplicate=False) if m in keys}
    frozen: dict[str, Tensor] = {}
    pruned: dict[str, Tensor] = {}
    for key in state:
        layer, _, part = key.rpartition(".")
        if part != "indices" or key_of(layer, "values") not in state:
            continue
        if layer not in names:
            raise KeyError(f"load_state: the state has a compressed layer {layer!r}, the model has {list(names)}")
        mask = torch.ones(shapes[names[layer]], dtype=torch.bool)
        (frozen if key_of(layer, "frozen") in state else pruned)[names[layer]] = mask
    model = sparsify(freeze(model, frozen, inplace=True), pruned, inplace=True)
    model.load_state_dict(state)
    return model
