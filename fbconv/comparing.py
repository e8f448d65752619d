"""Groups of runs against a baseline: means, deviations and t-tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from .results import Record, sparsity_of

LEVEL = 0.05
TEST = "Student's two-sample t-test, two-sided, equal variances"


@dataclass(frozen=True)
class Group:
    """The runs that differ in nothing but their seed.

    Attributes:
        name, sparsity: of all of them.
        accuracies: on the test set, from 0 to 1, by seed.
        p: chance of so large a difference of means from the baseline's at the same sparsity, were there none; None
            without a baseline, for itself, and with fewer than two runs on a side.
    """

    name: str
    sparsity: float
    accuracies: tuple[float, ...]
    p: float | None = None

    @property
    def mean(self) -> float:
        return mean(self.accuracies)

    @property
    def std(self) -> float | None:
        """Of the seeds; None for one run."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def significant(self) -> bool:
        """At the level of .05."""
        return self.p is not None and self.p < LEVEL


def compare(records: Sequence[Record], baseline: str | None = None, holm: bool = False) -> list[Group]:
    """The groups among finished runs, each tested against the baseline at its sparsity.

    Args:
        records: of :class:`fbconv.results.Results`; those without a result are left out.
        baseline: name of a group, or None for no tests.
        holm: whether p is corrected for the number of tests by Holm's method.

    Returns:
        in the order of names, then by sparsity.

    Raises:
        ValueError: a baseline that has no finished run. ModuleNotFoundError: without scipy.

    Source:
        two-sample t-tests at .05, as in "Hitting the Jackpot"; Holm 1979, "A simple sequentially rejective multiple
        test procedure".

    Example:
        >>> from fbconv.experiment import Config
        >>> compare([Record("id", "snip", Config(sparsity=0.99), {"test_accuracy": 0.9})])[0].mean
        0.9
    """
    found: dict[tuple[str, float], list[tuple[int, float]]] = {}
    for record in records:
        if record.result is not None:
            run = record.config.seed, record.result["test_accuracy"]
            found.setdefault((record.name, sparsity_of(record.config)), []).append(run)
    order = list(dict.fromkeys(name for name, _ in found))
    accuracies = {
        key: tuple(accuracy for _, accuracy in sorted(found[key]))
        for key in sorted(found, key=lambda key: (order.index(key[0]), key[1]))
    }
    if baseline is not None and baseline not in order:
        raise ValueError(f"report: baseline must be one of {', '.join(order) or 'no'} finished runs, got {baseline!r}")
    chances = _chances(accuracies, baseline)
    if holm:
        chances = corrected(chances)
    return [Group(*key, values, chances.get(key)) for key, values in accuracies.items()]


def _chances(
    accuracies: Mapping[tuple[str, float], Sequence[float]], baseline: str | None
) -> dict[tuple[str, float], float]:
    chances = {}
    for (name, sparsity), values in accuracies.items():
        reference = accuracies.get((baseline, sparsity), ()) if baseline else ()
        if name != baseline and min(len(values), len(reference)) > 1:
            p = _t_test(values, reference)
            if math.isfinite(p):  # not where no seed makes a difference
                chances[name, sparsity] = p
    return chances


def _t_test(a: Sequence[float], b: Sequence[float]) -> float:
    try:
        from scipy import stats
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('t-tests need scipy: pip install "fbconv[report]"') from error
    if len({*a}) == len({*b}) == 1:
        return math.nan
    return float(stats.ttest_ind(a, b).pvalue)


def corrected(chances: Mapping[tuple[str, float], float]) -> dict[tuple[str, float], float]:
    """p-values after Holm's method: the k-th smallest of m times m - k + 1, and none below a smaller one's.

    Example:
        >>> corrected({("a", 0.9): 0.01, ("b", 0.9): 0.04})
        {('a', 0.9): 0.02, ('b', 0.9): 0.04}
    """
    adjusted, highest = {}, 0.0
    for rank, key in enumerate(sorted(chances, key=chances.__getitem__)):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[key]))
        adjusted[key] = highest
    return {key: adjusted[key] for key in chances}
