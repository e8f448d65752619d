"""When to prune how much: masks found in one or many rounds, before training or between trainings with rewinding."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ._cops import cops, linear_mix
from .convert import prunable, sparsify
from .masks import LayerCollapseWarning, choose, kept_count, warn_of_collapse, without_excluded
from .scores import score as score_model
from .scores.base import Score, parameters_of

SCHEDULES = ("exponential", "linear")
COMBINATIONS = ("cops", "linear")

_Masks = dict[str, Tensor]
_Scores = Mapping[str, Tensor]


def prune_masks(
    model: nn.Module,
    score: Score,
    sparsity: float,
    rounds: int = 100,
    schedule: str = "exponential",
    *,
    batches: Iterable[object] | None = None,
    loss_fn: Callable[..., Tensor] | None = None,
    generator: torch.Generator | None = None,
    control: Score | None = None,
    alpha: float = 0.5,
    combine: str = "cops",
    scope: str = "global",
    distribution: str | None = None,
    exclude: Sequence[str] = (),
    **options: object,
) -> dict[str, Tensor]:
    """Masks by scoring and pruning in rounds, without training: ``rounds=1`` is single-shot, more is multi-shot.

    Each round scores the network as the rounds before have left it (their pruned weights are zero, in frozen layers
    constant, and are no variables of any derivative) and keeps the best of what is left. What is pruned never comes
    back. The model is left bit-identical.

    Args:
        model: plain or compressed modules; of compressed ones, weights outside the pattern are gone, but counted.
        score: what :func:`fbconv.score` takes.
        sparsity: share of the weights that are not excluded to remove; exactly ``floor((1 - sparsity) * D)`` are kept.
        rounds, schedule: how often to score and prune; the density after round k of n is, for ``"exponential"``,
            ``start * (end / start)^(k / n)``, for ``"linear"`` ``start + (end - start) * k / n``.
        batches: as for :func:`fbconv.score`, gone through anew in every round; an iterator is kept in memory for that.
        loss_fn, generator, options: as for :func:`fbconv.score`. Options are for ``score``, not for ``control``.
        control, alpha: a second score that the masks are to be good for too, and the balance of the two, in [0, 1).
        combine: ``"cops"`` solves the problem of :func:`fbconv.cops` in each round, and may keep fewer than asked,
            in early rounds too: what no mixed score speaks for goes at once;
            ``"linear"`` ranks by ``(1 - alpha) * score + alpha * control`` at equal scale (:func:`fbconv.linear_mix`).
        scope, distribution, exclude: as for :func:`fbconv.select`; COPS knows the global scope only.

    Returns: name -> bool mask, without excluded layers.

    Raises: ValueError, for an unknown schedule or combination, no round, COPS by layers, a compressed model with fewer
        weights than have to be kept, what score or select refuse.

    Warns: LayerCollapseWarning, if a layer has no weight in the end.

    Source: Tanaka et al. 2020, algorithm 1 (exponential); COPS (Wimmer et al. 2021), algorithm 1.

    Example:
        >>> int(prune_masks(nn.Linear(8, 5), "synflow", 0.9, rounds=10, input_shape=(8,))["weight"].sum())
        4
    """
    _check(sparsity, rounds, schedule)
    choosing = _choosing(control is not None, combine, alpha, scope, distribution)
    batches = list(batches) if isinstance(batches, Iterator) else batches
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    scored = partial(score_model, model, batches=batches, loss_fn=loss_fn, generator=generator)
    masks: _Masks | None = None
    for passing in _sparsities(schedule, _density(model, exclude, sparsity), sparsity, rounds):
        target = without_excluded(scored(score, masks=masks, **options), exclude)
        masks = choosing(target, None if control is None else scored(control, masks=masks), passing)
    warn_of_collapse(masks)
    return masks


def iterative_masks(
    model: nn.Module,
    train: Callable[[nn.Module], object],
    sparsity: float,
    rounds: int,
    score: Score = "magnitude",
    schedule: str = "exponential",
    shots: int = 1,
    **selection: object,
) -> Iterator[dict[str, Tensor]]:
    """Masks by training, pruning and rewinding in turns; yields those of every round.

    Each round copies ``model``, prunes the copy by the masks so far, has it trained, and scores what came out. As
    ``model`` itself is never changed, every round starts from its very weights, biases and batch-norm statistics: give
    the network at initialisation (lottery tickets), or after its first steps (rewinding to step t0). The winning
    ticket is ``sparsify(model, masks)``, to be trained once more.

    Args:
        model: the network to rewind to.
        train: trains the network that it gets, in place. Whatever else it uses (optimizer, learning-rate schedule,
            order of the data) has to start at the same point in every call.
        sparsity: share of weights removed after the last round. With ``1 - 0.8**rounds`` and the exponential schedule
            each round removes 20 % of what is left.
        rounds: trainings, and prunings after them.
        score, schedule: as for :func:`prune_masks`; ``score="magnitude"`` is iterative magnitude pruning (IMP).
        shots: rounds of scoring at each pruning step; more than one is iterative multi-shot.
        selection: ``batches``, ``exclude``, ``distribution`` and whatever else :func:`prune_masks` takes. Excluded
            layers stay whole.

    Yields:
        after each round, name -> bool mask for ``model``'s names.

    Raises:
        ValueError: as :func:`prune_masks`.

    Source: Frankle & Carbin 2019, strategy 2; Frankle et al. 2020, algorithm 2 (rewinding).

    Example:
        >>> model = nn.Sequential(nn.Linear(10, 10))
        >>> def train(network):
        ...     with torch.no_grad():
        ...         network[0].bias.add_(1)
        >>> [int(masks["0.weight"].sum()) for masks in iterative_masks(model, train, sparsity=0.75, rounds=2)]
        [50, 25]
    """
    _check(sparsity, rounds, schedule)
    names = {key.rpartition(".")[0]: key for key in prunable(model)}
    masks: dict[str, Tensor] = {}
    exclude = selection.get("exclude", ())
    for passing in _sparsities(schedule, _density(model, exclude, sparsity), sparsity, rounds):
        network = sparsify(model, masks)
        train(network)
        # Under control, the rounds before may have kept fewer weights than this one may.
        passing = max(passing, 1 - _density(network, exclude))
        found = prune_masks(network, score, passing, shots, schedule, **selection)
        masks = {names[key.rpartition(".")[0]]: mask for key, mask in found.items()}
        yield masks


def _check(sparsity: float, rounds: int, schedule: str) -> None:
    kept_count(0, sparsity)  # rather than after all rounds but the last
    if rounds < 1:
        raise ValueError(f"prune_masks: rounds must be at least 1, got {rounds}")
    if schedule not in SCHEDULES:
        raise ValueError(f"prune_masks: schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")


def _density(model: nn.Module, exclude: Sequence[str], sparsity: float = 1.0) -> float:
    """Share of the weights that are there, which must be at least what is to be kept."""
    shapes = without_excluded(prunable(model), exclude)
    there = sum(weight.numel() for weight in parameters_of(model, shapes).values())
    total = sum(shape.numel() for shape in shapes.values())
    keep = kept_count(total, sparsity)
    if keep > there:
        raise ValueError(f"prune_masks: {keep} weights have to be kept, but only {there} of {total} are there")
    return there / max(1, total)


def _sparsities(schedule: str, start: float, sparsity: float, rounds: int) -> Iterator[float]:
    """The sparsity after each round; after the last one ``sparsity`` itself, to the last bit."""
    end = 1 - sparsity
    for k in range(1, rounds):
        exponential = start * (end / start) ** (k / rounds) if start > 0 and end > 0 else 0.0
        yield 1 - (exponential if schedule == "exponential" else start + (end - start) * k / rounds)
    yield sparsity


def _choosing(
    controlled: bool, combine: str, alpha: float, scope: str, distribution: str | None
) -> Callable[[_Scores, _Scores | None, float], _Masks]:
    """What makes masks of a target's scores and a control's (or None) at a sparsity."""
    if not controlled:
        return lambda target, _, sparsity: choose(target, sparsity, scope, distribution)
    if combine not in COMBINATIONS:
        raise ValueError(f"prune_masks: combine must be one of {', '.join(COMBINATIONS)}, got {combine!r}")
    if not 0 <= alpha < 1:
        raise ValueError(f"prune_masks: alpha must be in [0, 1), got {alpha}")
    if combine == "cops" and (scope != "global" or distribution is not None):
        raise ValueError(
            f"prune_masks: cops chooses over all layers, got scope {scope!r} and distribution {distribution!r}"
        )

    def combined(target: _Scores, scores: _Scores, sparsity: float) -> _Masks:
        control = {name: scores[name] for name in target}
        if combine == "cops":
            return _cops(target, control, sparsity, alpha)
        return choose(linear_mix(target, control, alpha / (1 - alpha)), sparsity, scope, distribution)

    return combined


def _cops(target: Mapping[str, Tensor], control: Mapping[str, Tensor], sparsity: float, alpha: float) -> _Masks:
    with warnings.catch_warnings():  # the caller warns of what is empty in the end
        warnings.simplefilter("ignore", LayerCollapseWarning)
        return cops(target, control, sparsity, alpha).masks
