"""What a callback is to do in a training, whoever's loop that runs in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

MODES = ("prune", "freeze")
DYNAMICS = ("none", "set", "rigl", "gmp")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of both callbacks.

    Attributes:
        sparsity: share of the weights to prune or freeze before the first step (``dynamic="gmp"``: until its end). None
            leaves the masks of compressed layers as they are, for those who have chosen them before.
        score, rounds, schedule, scope, distribution, control, alpha, combine: as for :func:`fbconv.prune_masks`.
        exclude: as for :func:`fbconv.select`; these layers stay as they are.
        batches: how many batches of the training data the score sees, or these batches themselves.
        mode: "prune", or "freeze" for weights that stay where they are; layers that are compressed already keep their
            kind, but that "freeze" freezes coefficients of filter bases.
        seed, init: of frozen weights, as for :func:`fbconv.freeze`; None freezes the weights as they are.
        dynamic: "none"; "set" and "rigl" (:class:`fbconv.dynamic.RegrowingMasks`) or "gmp"
            (:class:`fbconv.dynamic.GradualPruning`, from dense), for masks that change during training.
        interval: optimizer steps between two changes.
        until: share of the optimizer's steps after which masks stay.
        drop_fraction: share of a layer's values that "set" and "rigl" drop at first.

    Raises:
        ValueError: an unknown mode or dynamic, a seed without "freeze", "gmp" without a sparsity, or a share, an
            interval or a number of batches out of range.

    Example:
        >>> Plan(score="magnitude", dynamic="rigl").mode
        'prune'
    """

    sparsity: float | None = 0.9
    score: str | Callable[..., Mapping[str, Tensor]] = "snip"
    rounds: int = 1
    schedule: str = "exponential"
    scope: str = "global"
    distribution: str | None = None
    control: str | Callable[..., Mapping[str, Tensor]] | None = None
    alpha: float = 0.5
    combine: str = "cops"
    exclude: Sequence[str] = ()
    batches: int | Iterable[object] = 1
    mode: str = "prune"
    seed: int | None = None
    init: str = "xavier_normal"
    dynamic: str = "none"
    interval: int = 100
    until: float = 0.75
    drop_fraction: float = 0.3

    def __post_init__(self) -> None:
        _require(self.mode in MODES, "mode", f"one of {', '.join(MODES)}", self.mode)
        _require(self.dynamic in DYNAMICS, "dynamic", f"one of {', '.join(DYNAMICS)}", self.dynamic)
        _require(self.sparsity is None or 0 <= self.sparsity <= 1, "sparsity", "in [0, 1]", self.sparsity)
        _require(self.sparsity is not None or self.dynamic != "gmp", "sparsity", "a number with gmp", self.sparsity)
        _require(self.seed is None or self.mode == "freeze", "seed", "None unless mode is freeze", self.seed)
        _require(not isinstance(self.batches, int) or self.batches >= 1, "batches", "at least 1", self.batches)
        _require(self.interval >= 1, "interval", "at least 1", self.interval)
        _require(0 < self.until <= 1, "until", "in (0, 1]", self.until)
        _require(0 < self.drop_fraction <= 1, "drop_fraction", "in (0, 1]", self.drop_fraction)

    @property
    def prunes_first(self) -> bool:
        """Whether masks are chosen by the score before the first step."""
        return self.sparsity is not None and self.dynamic != "gmp"

    def selection(self) -> dict[str, object]:
        """The options of :func:`fbconv.prune_masks` that are given on as they are."""
        names = ("score", "sparsity", "rounds", "schedule", "scope", "distribution", "control", "alpha", "combine")
        return {name: getattr(self, name) for name in names}


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ValueError(f"SparseTraining: {name} must be {expected}, got {got!r}")
