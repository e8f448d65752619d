"""Interleaved timing: all candidates see the same machine, so their ratios mean something."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

ROUNDS = 15
_WARM_UPS = 2
_BUDGET = 2.0
_LEAST_ROUNDS = 3

_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True)
class Candidate:
    """Something to time.

    Attributes:
        call: what is timed.
        before: runs before each call, untimed.
        may_skip: whether a slow one may sit out rounds, so that the run ends.
    """

    call: Callable[[], object]
    before: Callable[[], None] = lambda: None
    may_skip: bool = False


@dataclass(frozen=True)
class Timing:
    """Median seconds of so many rounds."""

    seconds: float
    rounds: int


def interleaved_medians(candidates: Mapping[_Name, Candidate], rounds: int = ROUNDS) -> dict[_Name, Timing]:
    """Median time of each candidate: a warm-up, then each in turn, in changing order.

    In its turn a candidate is called twice and the second call is timed: else it would pay for what the one before it
    left in the caches, and the more candidates there are, the more so.

    A candidate that may skip takes part in as many rounds as fit into two seconds, at least three, evenly spread.

    Args:
        candidates: by name.
        rounds: turns after the warm-up, at least 1.

    Returns:
        Timings by name, each with the rounds that it took part in.

    Example:
        >>> interleaved_medians({"sum": Candidate(lambda: sum(range(10)))}, rounds=3)["sum"].rounds
        3
    """
    turns = {name: _turns(candidate, rounds) for name, candidate in candidates.items()}
    seconds: dict[_Name, list[float]] = {name: [] for name in candidates}
    order, shuffle = list(candidates), random.Random(0).shuffle
    for turn in range(rounds):
        shuffle(order)  # else what interrupts at regular times might hit the same candidate each turn
        for name in order:
            if turn * turns[name] // rounds != (turn + 1) * turns[name] // rounds:
                _timed(candidates[name])
                seconds[name].append(_timed(candidates[name]))
    return {name: Timing(statistics.median(times), len(times)) for name, times in seconds.items()}


def _turns(candidate: Candidate, rounds: int) -> int:
    """Warms up; how many rounds the candidate takes part in."""
    spent = [_timed(candidate)]
    while len(spent) < _WARM_UPS and not (candidate.may_skip and spent[0] > _BUDGET / _LEAST_ROUNDS):
        spent.append(_timed(candidate))
    if not candidate.may_skip:
        return rounds
    return min(rounds, max(_LEAST_ROUNDS, int(_BUDGET / spent[-1])))


def _timed(candidate: Candidate) -> float:
    candidate.before()
    start = time.perf_counter()
    candidate.call()
    return time.perf_counter() - start
