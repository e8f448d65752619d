"""GraSP: keep what the gradient flow lives on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .base import Batches, LossFunction
from .gradients import add, device_of, pairs, sum_gradients


def grasp(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Batches | None,
    loss_fn: LossFunction,
    generator: torch.Generator,
    temperature: float = 200.0,
) -> dict[str, Tensor]:
    """``Theta * (H g)``, with both signs; g and H are gradient and Hessian by the prunable weights of the loss, summed
    over the batches.

    Removing weight i changes ``|g|^2`` by ``-2 Theta_i (H g)_i`` in first order, so the weights that score highest are
    those whose removal would lower the gradient norm most. H g takes a second pass over the batches, which are kept
    where they are between the passes; H itself is never made.

    Args:
        model, weights, batches, loss_fn, generator: as every score.
        temperature: divides the outputs before the loss, which keeps softmax away from its flat ends.

    Raises:
        ValueError: a temperature that is not positive, outputs that it cannot divide, or unfit batches.

    Source: Wang et al. 2020, "Picking winning tickets before training by preserving gradient flow", eq. 8; there the
    score is negated and its highest are removed.
    """
    if not temperature > 0:
        raise ValueError(f"grasp: temperature must be positive, got {temperature}")
    batches = batches if batches is None else list(batches)

    def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
        if not isinstance(outputs, Tensor):
            raise ValueError(f"grasp: the model must return a tensor, got {type(outputs).__name__}")
        return loss_fn(outputs / temperature, targets)

    device = device_of(weights)
    # Of the kinds of attention, this one alone has second derivatives.
    with sdpa_kernel(SDPBackend.MATH):
        # Both passes draw the same dropout masks, else H g would mix two networks.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            gradients = sum_gradients(model, weights, batches, smoothed)
        products = _hessian_times(gradients, model, weights, batches, smoothed)
    return {key: weight * products[key] for key, weight in weights.items()}


def _hessian_times(
    vector: Mapping[str, Tensor],
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Batches | None,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    parameters = list(weights.values())
    sums = None
    for inputs, targets in pairs(batches, device_of(weights)):
        loss = loss_fn(model(inputs), targets)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
        product = sum((grad * vector[key]).sum() for key, grad in zip(weights, gradients, strict=True))
        sums = add(sums, torch.autograd.grad(product, parameters, materialize_grads=True))
    return dict(zip(weights, sums, strict=True))
