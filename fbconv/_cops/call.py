"""The public call: checks the scores, has the mask found, and says how good it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..masks import kept_count, warn_of_collapse
from .one_control import with_one
from .several_controls import with_several
from .vectors import Layout, Scores, clear_excluded, norms_of


@dataclass(frozen=True)
class CopsResult:
    """A COPS mask and how good it is.

    Values are in the paper's convention: scores are the negative importances, scaled so that their absolute values
    add up to 1, and a mask's value is the sum over its weights; lower = better. With several controls
    ``multiplier``, ``control_value`` and ``kappa`` are tuples in their order.

    Attributes:
        masks: name -> bool tensor of the score's shape, on its device; True = keep.
        kept: how many weights that is: the number asked for, or fewer, if more would not improve the mixed score.
        multiplier: of the control in the mixed score ``s0 + multiplier * s1`` that the mask minimises; 0 if the
            target's own mask meets the constraint.
        target_value: ``S0`` of the mask.
        control_value: ``S1`` of the mask, at most ``kappa``.
        kappa: what the control was held to; infinite at ``alpha = 0``.
        lp_value: ``S0`` of the best fractional mask; no 0/1 mask that meets the constraints has less.
        objective_gap: ``target_value - lp_value``: the mask is within this of the best one.
        bound: a bound on the gap known from the masks alone. With one control ``S0(m+) - S0(m-)``: the mask is ``m+``,
            and ``m-``, which differs from it in one weight or in one pair, is better but misses the constraint.
            With several controls the gap itself.
        steps: selections it took, each over the weights that were undecided.
    """

    masks: dict[str, Tensor]
    kept: int
    multiplier: float | tuple[float, ...]
    target_value: float
    control_value: float | tuple[float, ...]
    kappa: float | tuple[float, ...]
    lp_value: float
    objective_gap: float
    bound: float
    steps: int


def cops(
    target: Scores,
    control: Scores | Sequence[Scores],
    sparsity: float = 0.99,
    alpha: float | Sequence[float] = 0.5,
) -> CopsResult:
    """The mask that is best by ``target`` among those that ``control`` finds good enough.

    With ``s0``, ``s1`` the negative scores, each scaled to ``|s|_1 = 1``: minimises ``<s0, m>`` over masks ``m`` of at
    most ``floor((1 - sparsity) * D)`` weights with ``<s1, m> <= kappa``. There ``kappa = alpha * kappa_min``, and
    ``kappa_min`` is the least ``<s1, m>`` of any such mask: ``alpha`` leads from the target's mask to the control's.
    The target's mask keeps positive importances only, as any COPS mask keeps negative mixed scores only.

    Among equal scores the one that comes first (order of ``target``, then row-major) is kept. Entries of importance
    ``-inf`` are never kept. Needs one copy of each score, float32 unless one of its tensors is float64, a mask, and a
    little more. Deterministic, whatever the number of threads.

    Args:
        target: name -> importance (:func:`fbconv.score`), any shape and real dtype; higher = keep.
        control: scores of the same names, shapes and device; or a sequence of such scores, each of them a constraint
            (needs scipy).
        sparsity: share of weights to remove, in [0, 1].
        alpha: balance factor in [0, 1), one for all controls or one for each; 0 turns a control off.

    Raises:
        ValueError: names, shapes or devices that differ; NaN or infinite scores, with the tensor's name; ``sparsity``
            or ``alpha`` out of range; several controls that no mask (or no mask that was found) meets together.
        ImportError: several controls without scipy.

    Warns:
        LayerCollapseWarning: if a layer loses all of its weights.

    Source:
        "COPS: Controlled Pruning Before Training Starts" (Wimmer, Mehnert, Condurache 2021), algorithm 1 and
        theorem 1. Several controls: the same dual with a multiplier for each.

    Example:
        >>> target, control = {"w": torch.tensor([3.0, 2.0, 1.0])}, {"w": torch.tensor([0.0, 1.0, 3.0])}
        >>> result = cops(target, control, sparsity=1 / 3, alpha=0.5)
        >>> result.masks["w"], result.control_value
        (tensor([ True, False,  True]), -0.75)
    """
    several = not isinstance(control, Mapping)
    controls = {f"control[{k}]": c for k, c in enumerate(control)} if several else {"control": control}
    alphas = _alphas(alpha, len(controls))
    layout = Layout(target)
    for name, scores in controls.items():
        layout.check(name, scores)
    named = {"target": target} | controls
    vectors = [layout.flatten(name, scores) for name, scores in named.items()]
    keep = kept_count(layout.size, sparsity)
    mask, values = _solve(named, vectors, keep, alphas)
    if not several:
        values |= {name: values[name][0] for name in ("multiplier", "control_value", "kappa")}
    masks = layout.unflatten(mask)
    warn_of_collapse(masks)
    return CopsResult(masks, **values)


def _alphas(alpha: float | Sequence[float], controls: int) -> tuple[float, ...]:
    alphas = (float(alpha),) * controls if isinstance(alpha, Real) else tuple(map(float, alpha))
    if controls == 0 or len(alphas) != controls:
        raise ValueError(
            f"cops: control must be one score or several, with an alpha for each, got {controls} controls "
            f"and {len(alphas)} alphas"
        )
    for value in alphas:
        if not 0 <= value < 1:
            raise ValueError(f"cops: alpha must be in [0, 1), got {value}")
    return alphas


def _solve(
    named: Mapping[str, Scores], vectors: Sequence[Tensor], keep: int, alphas: Sequence[float]
) -> tuple[Tensor, dict[str, Any]]:
    """The mask and the fields of its CopsResult, those of the controls as tuples."""
    if len(alphas) == 1:
        return with_one(named, vectors, keep, alphas[0])
    clear_excluded(named, vectors)
    norms = norms_of(named, vectors)
    active = [k for k, alpha in enumerate(alphas, 1) if alpha] or [1]  # numbers of the controls that are on
    chosen = [vectors[k] for k in (0, *active)]
    if len(active) == 1:
        names = [name for k, name in enumerate(named) if k in (0, *active)]
        mask, values = with_one({name: named[name] for name in names}, chosen, keep, alphas[active[0] - 1])
    else:
        mask, values = with_several(chosen, [norms[k] for k in (0, *active)], keep, [alphas[k - 1] for k in active])
    found = {name: dict(zip(active, values[name], strict=True)) for name in ("multiplier", "control_value", "kappa")}
    for k in range(1, len(vectors)):
        if k not in active:
            found["multiplier"][k], found["kappa"][k] = 0.0, math.inf
            found["control_value"][k] = float(vectors[k][mask].sum(dtype=torch.float64)) / norms[k]
    return mask, values | {name: tuple(of[k] for k in sorted(of)) for name, of in found.items()}
