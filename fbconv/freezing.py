"""FreezeNet-WD: frozen weights that decay while the others train, and vanish at the end."""

from __future__ import annotations

import torch
from torch import nn

from .convert import sparsify
from .nn.compressed import Compressed, compressed_layers, key_of

_DECAYS_IN_PROPORTION = (torch.optim.SGD, torch.optim.AdamW)


def decay_frozen(model: nn.Module, optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Let an optimizer's weight decay shrink a model's frozen weights too.

    Weight decay without a gradient multiplies all frozen weights of a layer by the same number, momentum included. So
    that number, ``frozen_scale``, is what the optimizer holds, in a parameter group of its own: decay costs one entry
    of optimizer state a layer, follows the learning rate, and files need the seed and that number, nothing more.

    Args:
        model: with frozen layers, on its device and of its dtype already; edited in place. Weights that have decayed
            before, as those of a loaded model, go on from there.
        optimizer: SGD or AdamW, whose weight decay is proportional to the weight. Gets the group before any
            learning-rate scheduler is made for it, and its ``state_dict`` holds the decay's momentum.
        weight_decay: of the frozen weights.

    Raises:
        TypeError: an optimizer of another kind. ValueError: a model without frozen layers, or a weight decay that is
            not positive. RuntimeError: in ``optimizer.step()``, if the model was moved or cast in between.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> model = fbconv.freeze(model, {"0.weight": torch.rand(4, 8) < 0.1})
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> decay_frozen(model, optimizer, weight_decay=0.5)
        >>> model(torch.rand(2, 8)).sum().backward()
        >>> optimizer.step()
        >>> model[0].frozen_scale
        tensor(0.9500)

    Source: FreezeNet-WD (Wimmer et al. 2020, section 3).
    """
    layers = frozen_layers(model)
    if not layers:
        raise ValueError("decay_frozen: model must have frozen layers, got none")
    if not isinstance(optimizer, _DECAYS_IN_PROPORTION):
        raise TypeError(f"decay_frozen: optimizer must be SGD or AdamW, got {type(optimizer).__name__}")
    if not weight_decay > 0:
        raise ValueError(f"decay_frozen: weight_decay must be positive, got {weight_decay}")
    for layer in layers.values():
        if layer.frozen_scale is None:
            layer.frozen_scale = torch.ones((), device=layer.frozen.device)
    scales = {name: layer.frozen_scale for name, layer in layers.items()}
    optimizer.add_param_group({"params": list(scales.values()), "weight_decay": weight_decay})

    def without_gradient(*_: object) -> None:
        for name, scale in scales.items():
            now = layers[name].frozen_scale
            if now is not None and now is not scale:
                raise RuntimeError(
                    f"decay_frozen: the optimizer must hold the frozen_scale of {name}, got a model that was moved or "
                    "cast since; call decay_frozen after that"
                )
            scale.grad = torch.zeros_like(scale)  # None would leave it out of the step

    optimizer.register_step_pre_hook(without_gradient)


def finish(model: nn.Module, tolerance: float = 1e-3) -> nn.Module:
    """The pruned model that is left when frozen weights have vanished.

    Args:
        model: trained with :func:`decay_frozen`; stays as it is.
        tolerance: size that counts as vanished, as a share of the initial one.

    Returns:
        a copy whose frozen layers are sparse ones with the same trained weights.

    Raises:
        ValueError: a model without frozen layers, or one with frozen weights above the tolerance (naming the layer and
            how large they still are).

    Example:
        >>> model = fbconv.freeze(torch.nn.Sequential(torch.nn.Linear(8, 4)), {"0.weight": torch.rand(4, 8) < 0.1})
        >>> finish(model, tolerance=1.0)[0]
        SparseLinear(...)

    Source: FreezeNet-WD (Wimmer et al. 2020, section 3).
    """
    layers = frozen_layers(model)
    if not layers:
        raise ValueError("finish: model must have frozen layers, got none")
    for name, layer in layers.items():
        size = remaining(layer)
        if not size <= tolerance:  # NaN has not vanished
            raise ValueError(
                f"finish: frozen weights must have vanished to {tolerance:g} of their initial size, those of {name} "
                f"are at {size:.3g}; train longer, with more weight decay, or raise the tolerance"
            )
    return sparsify(model, {key_of(name, "values"): layer.pattern.mask() for name, layer in layers.items()})


def frozen_layers(model: nn.Module) -> dict[str, Compressed]:
    """name -> layer, of all layers that have frozen weights."""
    return {name: layer for name, layer in compressed_layers(model).items() if layer.frozen is not None}


def remaining(layer: Compressed) -> float:
    """How large a layer's frozen weights are, as a share of their initial size."""
    return 1.0 if layer.frozen_scale is None else abs(float(layer.frozen_scale))
