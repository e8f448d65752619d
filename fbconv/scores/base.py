"""The call that scores a model, and the registry of scores by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..convert import prunable
from ..convertibility import computed_weights, convertible
from .context import gone, restricted, untouched
from .outputs import cross_entropy

Batches = Iterable[object]
LossFunction = Callable[[Tensor, Tensor], Tensor]
# (model, name -> parameter, batches, loss_fn, generator, **options) -> name -> score of the parameter's shape
ScoreFunction = Callable[..., Mapping[str, Tensor]]
# By name, by function, or a stack of these
Score = str | ScoreFunction | Sequence[str | ScoreFunction]

SCORES: dict[str, ScoreFunction] = {}
STACKED = "/"  # between the names of a stack


def register(name: str) -> Callable[[ScoreFunction], ScoreFunction]:
    """Decorator: make a score function available by name.

    The function gets ``(model, weights, batches, loss_fn, generator)`` and the caller's options as keywords,
    ``weights`` being name -> parameter, and returns name -> score of the parameter's shape. It finds every module in
    training mode and every listed parameter differentiable, may run and change the model as it likes (all is put back
    afterwards), and may give any score to masked weights.

    Example:
        >>> @register("first")
        ... def first(model, weights, batches, loss_fn, generator):
        ...     return {name: -torch.arange(w.numel(), dtype=w.dtype).view_as(w) for name, w in weights.items()}
    """

    def add(function: ScoreFunction) -> ScoreFunction:
        SCORES[name] = function
        return function

    return add


def score(
    model: nn.Module,
    name: Score,
    batches: Batches | None = None,
    loss_fn: LossFunction | None = None,
    generator: torch.Generator | None = None,
    masks: Mapping[str, Tensor] | None = None,
    **options: object,
) -> dict[str, Tensor]:
    """Importance of every prunable weight of ``model``; the input of :func:`fbconv.select`.

    The model is left bit-identical: parameters, gradients, buffers (batch-norm statistics included), training flags
    and the global random states of torch, NumPy and Python, which follow ``generator`` meanwhile. It is scored in
    training mode, as it is going to be trained (SynFlow: in evaluation mode, by its definition).

    Args:
        model: plain modules and compressed ones alike, on any device.
        name: ``"random"``, ``"magnitude"``, ``"snip"``, ``"usnip"``, ``"grasp"``, ``"synflow"``, a name added with
            :func:`register`, or such a function. ``"snip/magnitude"`` is a stack: SNIP's scores stand in the place of
            the weights, signs and all, while the second score looks at the model, and so on to the last name. A list
            of names and functions is a stack too.
        batches: for data-driven scores, an iterable of ``(inputs, targets)``; moved to the model's device. Gradients
            are summed over all of them. ``usnip`` ignores targets and takes inputs alone too; ``synflow`` reads
            nothing but the shape of the inputs.
        loss_fn: ``(outputs, targets) -> scalar``; by default cross entropy, of the outputs or their ``logits``.
        generator: source of all randomness; by default a fresh one seeded with 0.
        masks: name -> bool mask of the score's shape; True = still there. Weights outside are zero (in frozen layers:
            constant) while the model is scored, and score ``-inf``. Layers without a mask are whole.
        options: of the score, and of the last one of a stack: ``temperature`` of ``grasp``, ``input_shape`` of
            ``synflow``, whatever a function of your own takes.

    Returns:
        parameter name -> detached score: ``X.weight`` in the weight's shape, and for a compressed module ``X.values``
        in its pattern's shape, ``-inf`` outside the pattern.

    Raises:
        ValueError: unknown name, nothing prunable, a weight that is no parameter (``weight_norm``,
            ``torch.nn.utils.prune``), masks that do not fit, data missing or not in ``(inputs, targets)`` pairs, a loss
            that is no scalar of the graph, a score function that does not return a tensor for each weight, or a score
            in a stack that does not fit into the weights' dtype.

    Source:
        generalised synaptic scores, negated; each score names its paper. Stacks: "Hitting the Jackpot", algorithm 1.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.tensor([[-3.0, 2.0]]))
        >>> score(nn.Sequential(layer), "magnitude")
        {'0.weight': tensor([[3., 2.]])}
    """
    *first, last = _resolve(name)
    shapes = prunable(model)
    if not shapes and not computed_weights(model):
        reasons = "".join(f"; {name}: {reason}" for name, reason in convertible(model).dense.items())
        message = "score: model must have a Conv2d, a Linear or a compressed layer with weights, got none"
        raise ValueError(message + reasons)
    masks = {} if masks is None else masks
    _check_masks(masks, shapes)
    weights = parameters_of(model, [*shapes, *computed_weights(model)])
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    args = (model, weights, batches, loss_fn or cross_entropy, generator)
    with untouched(model, weights, generator) if first else contextlib.nullcontext():
        for function in first:
            _stand_in(model, weights, scored(function, masks, args, {}), masks)
        scores = scored(last, masks, args, options)
    return {key: _dense(model, key, value, masks.get(key)) for key, value in scores.items()}


def scored(
    function: ScoreFunction, masks: Mapping[str, Tensor], args: tuple, options: Mapping[str, object]
) -> dict[str, Tensor]:
    """What a score function, called with ``args``, says of each weight, in the parameter's shape."""
    model, weights, _, _, generator = args
    with untouched(model, weights, generator), restricted(model, weights, masks):
        scores = function(*args, **options)
        if not isinstance(scores, Mapping):
            raise ValueError(f"score: the score function must return name -> score, got {type(scores).__name__}")
        return {key: _checked(key, scores, weight) for key, weight in weights.items()}


def _stand_in(
    model: nn.Module, weights: Mapping[str, nn.Parameter], scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> None:
    """Scores in the place of weights, but of masked ones."""
    for key, weight in weights.items():
        value = scores[key].to(weight)
        if not value.isfinite().all():
            raise ValueError(f"score: the scores of {key!r} in a stack must be finite in {weight.dtype}, some are not")
        weight.data = value if key not in masks else torch.where(gone(model, key, masks[key]), weight.data, value)


def parameters_of(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of these of :func:`fbconv.prunable`'s names.

    Raises:
        ValueError: for a weight that is computed from other parameters.
    """
    for key in names:
        module, _, own = key.rpartition(".")
        if own not in model.get_submodule(module)._parameters:
            raise ValueError(
                f"score: {key!r} must be a parameter, but is computed from others (as by weight_norm or "
                "torch.nn.utils.prune); make it one again, by torch.nn.utils.prune.remove for instance"
            )
    return {key: model.get_parameter(key) for key in names}


def is_score(name: str, others: Sequence[str] = ()) -> bool:
    """Whether this is a registered name or one of the others, or a stack of them."""
    return all(part in SCORES or part in others for part in name.split(STACKED))


def _resolve(name: Score) -> list[ScoreFunction]:
    """The functions of a stack, the first one first."""
    if callable(name):
        return [name]
    if isinstance(name, Sequence) and not isinstance(name, str) and name:
        return [function for part in name for function in _resolve(part)]
    if not isinstance(name, str) or not is_score(name):
        known = f"{', '.join(SCORES)}, a stack like snip/magnitude"
        raise ValueError(f"score: name must be one of {known}, or a callable, got {name!r}")
    return [SCORES[part] for part in name.split(STACKED)]


def _check_masks(masks: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    for key, mask in masks.items():
        if key not in shapes:
            raise ValueError(f"score: masks must be of {', '.join(shapes)}, got {key!r}")
        if mask.dtype != torch.bool or mask.shape != shapes[key]:
            got = f"{mask.dtype} of shape {tuple(mask.shape)}"
            raise ValueError(f"score: the mask of {key!r} must be bool of shape {tuple(shapes[key])}, got {got}")


def _checked(key: str, scores: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    if key not in scores:
        raise ValueError(f"score: {key!r} must be scored, got scores of {', '.join(map(str, scores)) or 'nothing'}")
    if not isinstance(scores[key], Tensor):
        raise ValueError(f"score: {key!r} must be scored by a tensor, got {type(scores[key]).__name__}")
    if scores[key].shape != weight.shape:
        got = tuple(scores[key].shape)
        raise ValueError(f"score: {key!r} must be scored in shape {tuple(weight.shape)}, got {got}")
    # A score may be the very weight: its value must not change when the model is put back.
    return scores[key].detach().clone()


def _dense(model: nn.Module, key: str, value: Tensor, mask: Tensor | None) -> Tensor:
    pattern = getattr(model.get_submodule(key.rpartition(".")[0]), "pattern", None)
    if pattern is not None:
        value = value.new_full(pattern.shape, -torch.inf).masked_scatter_(pattern.mask(), value)
    return value if mask is None else value.masked_fill(~mask.to(value.device), -torch.inf)
