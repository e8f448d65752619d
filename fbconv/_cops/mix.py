"""The naive combination of two scores, which COPS is compared with."""

from __future__ import annotations

import math

from torch import Tensor

from .vectors import Layout, Scores, clear_excluded, norms_of


def linear_mix(target: Scores, control: Scores, weight: float) -> dict[str, Tensor]:
    """The naive combination of two scores, for :func:`fbconv.select`: ``target + weight * control``, each scaled so
    that its absolute values add up to 1.

    COPS is this mix with the weight that its constraint asks for; ``alpha`` in [0, 1) is easier to choose well than a
    weight in [0, inf).

    Args:
        target, control: name -> importance, the same names, shapes and device; higher = keep, ``-inf`` = never.
        weight: not negative.

    Returns:
        name -> importance, float32 (float64 where a score needs it).

    Raises:
        ValueError: as for :func:`cops`; a weight that is negative or not finite.

    Source:
        COPS (Wimmer et al.), the comparison with optimising ``lambda`` directly.

    Example:
        >>> linear_mix({"w": torch.tensor([3.0, 1.0])}, {"w": torch.tensor([1.0, 1.0])}, weight=0.5)
        {'w': tensor([1.0000, 0.5000])}
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"linear_mix: weight must be in [0, inf), got {weight}")
    layout = Layout(target, "linear_mix")
    layout.check("control", control)
    named = {"target": target, "control": control}
    first, second = (layout.flatten(name, scores) for name, scores in named.items())
    excluded = clear_excluded(named, [first, second], "linear_mix")
    norms = norms_of(named, [first, second], "linear_mix")
    mixed = first / -norms[0] - second * (weight / norms[1])
    if excluded is not None:
        mixed[excluded] = -math.inf
    return layout.unflatten(mixed)
