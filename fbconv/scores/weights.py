"""Scores as initial weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..convert import prunable
from ..replacing import copied
from .base import parameters_of


@torch.no_grad()
def weights_from_scores(model: nn.Module, scores: Mapping[str, Tensor], inplace: bool = False) -> nn.Module:
    """A model that starts from ``sign(Theta) * S``: scores in the place of its weights ("SaW").

    All scores are divided by the largest absolute one, so that the new weights lie in [-1, 1]. Weights that are exactly
    zero stay so, and so does what has no score: biases, normalisation, filter bases, frozen weights.

    Args:
        model: plain modules and compressed ones alike.
        scores: of :func:`fbconv.score` for this model: parameter name -> score; ``-inf`` outside patterns and masks
            leaves the weight as it is.
        inplace: edit the model instead of a copy.

    Raises:
        KeyError: a score for something that is not prunable. ValueError: of another shape, NaN or infinite, or all
            zero.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[-3.0, 2.0]]))
        >>> weights_from_scores(nn.Sequential(layer), {"0.weight": torch.tensor([[1.0, 4.0]])})[0].weight.data
        tensor([[-0.2500,  1.0000]])

    Source: "Hitting the Jackpot", section 5.4.
    """
    shapes = prunable(model)
    for key, value in scores.items():
        if key not in shapes:
            raise KeyError(f"weights_from_scores: {key!r} is not prunable; the model has {', '.join(shapes)}")
        if value.shape != shapes[key]:
            got = tuple(value.shape)
            raise ValueError(f"weights_from_scores: {key!r} must have shape {tuple(shapes[key])}, got {got}")
    largest = max((_largest(key, value) for key, value in scores.items()), default=0.0)
    if largest == 0:
        raise ValueError("weights_from_scores: scores must not all be zero")
    model = model if inplace else copied(model)
    for key, weight in parameters_of(model, scores).items():
        pattern = getattr(model.get_submodule(key.rpartition(".")[0]), "pattern", None)
        value = scores[key].to(weight.device)
        value = value if pattern is None else value[pattern.mask().to(weight.device)]
        weight.copy_(torch.where(value == -torch.inf, weight, weight.sign() * (value / largest).to(weight.dtype)))
    return model


def _largest(key: str, scores: Tensor) -> float:
    there = scores[scores != -torch.inf]
    if not there.isfinite().all():
        raise ValueError(f"weights_from_scores: {key!r} must have finite scores (or -inf), got NaN or infinity")
    return float(there.abs().max()) if there.numel() else 0.0
