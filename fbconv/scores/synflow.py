"""SynFlow: how much of the flow of absolute weights goes through a weight, without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..nn import Compressed
from .base import Batches, LossFunction
from .gradients import device_of
from .outputs import logits_of


def synflow(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batches: Batches | None,
    loss_fn: LossFunction,
    generator: torch.Generator,
    input_shape: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """``|Theta * dR/dTheta|``, R the sum of the outputs, for an input of ones, of the network whose parameters are
    replaced by their absolute values.

    Computed in float64, where products over many layers do not underflow into ties, and returned in it. Batch norm is
    in evaluation mode and keeps its statistics as they are: they are no parameters. In filter-basis layers both the
    coefficients and the bases are replaced by their absolute values, in frozen layers the frozen weights too. Meant to
    be applied in rounds (:func:`fbconv.prune_masks`): in a single one it empties layers like the others.

    Args:
        model, weights, loss_fn, generator: as every score; the last two are not used.
        batches: read for the shape of the first inputs, if ``input_shape`` is None.
        input_shape: of one input, without the batch dimension.

    Returns:
        name -> float64 score.

    Raises:
        ValueError: without a shape from either, or if the model does not return one tensor.

    Source: Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow",
    eq. 3 and algorithm 1.
    """
    _make_absolute(model.eval())
    shape = _shape(batches, input_shape)
    outputs = model(torch.ones(1, *shape, dtype=torch.float64, device=device_of(weights)))
    gradients = torch.autograd.grad(logits_of("synflow", outputs).sum(), list(weights.values()), materialize_grads=True)
    return {key: (weight * grad).abs() for (key, weight), grad in zip(weights.items(), gradients, strict=True)}


def _make_absolute(model: nn.Module) -> None:
    """Parameters and frozen weights to their absolute values, other buffers as they are, all floating ones to float64.

    The model may be changed: :func:`fbconv.score` puts it back.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.double().abs()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                weight = name == "frozen" and isinstance(module, Compressed)
                module._buffers[name] = buffer.double().abs() if weight else buffer.double()


def _shape(batches: Batches | None, input_shape: Sequence[int] | None) -> Sequence[int]:
    if input_shape is not None:
        return input_shape
    first = None if batches is None else next(iter(batches), None)
    inputs = first[0] if isinstance(first, tuple | list) else first
    if not isinstance(inputs, Tensor):
        raise ValueError("synflow: input_shape, or batches whose inputs are tensors, must be given, got neither")
    return inputs.shape[1:]
