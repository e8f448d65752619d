"""What a regressor sees of a weight: four scores, and on request six more features, each in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ..base import SCORES, Batches, LossFunction, scored
from ..gradients import at_least_one
from .activations import activations

SCORED = ("magnitude", "snip", "grasp", "synflow")
EXTENDED = ("weight", "layer_norm", "max_input", "max_output", "mean_input", "mean_output")


def features_of(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Batches | None,
    loss_fn: LossFunction,
    generator: torch.Generator,
    extended: bool = False,
) -> dict[str, Tensor]:
    """Name -> ``(number of weights, number of features)`` float32: the four scores and, if ``extended``, the weight
    itself, the Frobenius norm of its layer, and how active the neurons at its two ends are.

    Each feature is scaled to [0, 1] over the whole network, by its least and its largest value.

    Raises:
        ValueError: no data, or a feature that is not finite.

    Source: "Hitting the Jackpot", section 5.2.1 and appendix B.
    """
    batches = list(at_least_one(batches))
    args = (model, weights, batches, loss_fn, generator)
    columns = {name: scored(SCORES[name], {}, args, {}) for name in SCORED}
    if extended:
        columns |= _further(model, weights, batches)
    scaled = [_scaled(name, columns[name]) for name in names_of(extended)]
    return {key: torch.stack([column[key].flatten() for column in scaled], 1) for key in weights}


def names_of(extended: bool) -> tuple[str, ...]:
    """The features, in their order."""
    return SCORED + (EXTENDED if extended else ())


def _further(
    model: nn.Module, weights: Mapping[str, nn.Parameter], batches: list[object]
) -> dict[str, dict[str, Tensor]]:
    inputs = [batch[0] if isinstance(batch, tuple | list) else batch for batch in batches]
    ends = activations(model, weights, inputs)
    own = {key: weight.detach() for key, weight in weights.items()}
    columns = {name: dict(_kept(model, {key: ends[key][name] for key in weights})) for name in EXTENDED[2:]}
    norms = {key: torch.linalg.vector_norm(weight).expand_as(weight) for key, weight in own.items()}
    return {"weight": own, "layer_norm": norms, **columns}


def _kept(model: nn.Module, dense: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Of tensors in dense shape, what compressed layers have a value for."""
    for key, value in dense.items():
        pattern = getattr(model.get_submodule(key.rpartition(".")[0]), "pattern", None)
        yield key, value if pattern is None else value[pattern.mask()]


def _scaled(name: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    there = {key: value.double() for key, value in values.items()}
    together = torch.cat([value.flatten() for value in there.values()])
    if not together.isfinite().all():
        raise ValueError(f"meta: {name} must be finite for every weight, got NaN or infinity")
    low, high = together.aminmax() if together.numel() else (torch.zeros(()), torch.ones(()))
    width = torch.where(high > low, high - low, 1.0)
    return {key: ((value - low) / width).float() for key, value in there.items()}
