"""GraSP: keep what the gradient flow lives on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .base import Batches, LossFunction
from .gradients import add, at_least_one, device_of, gradients, pairs, sum_gradients
from .outputs import logits_of, with_logits


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
        temperature: divides the outputs before the loss, which keeps softmax away from its flat ends; 1 leaves them
            as they are, whatever they are.

    Raises:
        ValueError: a temperature that is not positive, outputs that it cannot divide, or unfit batches.

    Source: Wang et al. 2020, "Picking winning tickets before training by preserving gradient flow", eq. 8; there the
    score is negated and its highest are removed.
    """
    if not temperature > 0:
        raise ValueError(f"grasp: temperature must be positive, got {temperature}")
    batches = list(at_least_one(batches))

    def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
        if temperature == 1:
            return loss_fn(outputs, targets)
        logits = logits_of("grasp", outputs, "a tensor, unless temperature is 1")
        return loss_fn(with_logits(outputs, logits / temperature), targets)

    device = device_of(weights)
    with _second_derivatives():
        # Both passes draw the same dropout masks, else H g would mix two networks.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            total = sum_gradients(model, weights, batches, smoothed)
        products = _hessian_times(total, model, weights, batches, smoothed)
    return {key: weight * products[key] for key, weight in weights.items()}


@contextmanager
def _second_derivatives() -> Iterator[None]:
    """Has modules run in what torch can differentiate twice: not fused attention, and no compiled graphs."""
    # Without its compiler, which takes seconds to import, nothing of torch is compiled.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with sdpa_kernel(SDPBackend.MATH), eager:
        yield


def _hessian_times(
    vector: Mapping[str, Tensor],
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Batches,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    sums = None
    for inputs, targets in pairs(batches, device_of(weights)):
        slopes = gradients(loss_fn(model(inputs), targets), weights, create_graph=True)
        product = sum((slope * vector[key]).sum() for key, slope in zip(weights, slopes, strict=True))
        # Where the loss is linear in the weights, the gradient is no function of them, and H is zero.
        sums = add(sums, gradients(product, weights) if product.requires_grad else map(torch.zeros_like, slopes))
    return dict(zip(weights, sums, strict=True))
