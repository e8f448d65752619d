"""What the runs of a sweep say, as one dictionary and as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .comparing import LEVEL, TEST, Group, compare
from .results import Results
from .sweep import RESULTS
from .tickets import Tickets, tickets


@dataclass(frozen=True)
class Report:
    """The contents of a report.

    Attributes:
        groups: means, deviations and tests.
        tickets: overlaps of masks and sizes of kept weights.
        baseline: name of the group that the others are tested against, or None.
        holm: whether p-values are corrected.
        unfinished: name -> number of runs without a result.
        environments: of the runs, those that differ, without commands.
        options: option -> its value, where it is the same in all runs.
    """

    groups: Sequence[Group]
    tickets: Sequence[Tickets]
    baseline: str | None
    holm: bool
    unfinished: dict[str, int]
    environments: list[dict[str, object]]
    options: dict[str, object]

    @property
    def test(self) -> str:
        """The test by name, with its level and correction."""
        correction = f", Holm's correction for {self.tests} tests" if self.holm else ", not corrected"
        return f"{TEST}, at the level of {LEVEL}{correction}"

    @property
    def tests(self) -> int:
        return sum(group.p is not None for group in self.groups)

    def as_json(self) -> dict[str, object]:
        """Without the weights themselves."""
        return {
            "baseline": self.baseline, "test": self.test if self.baseline else None, "unfinished": self.unfinished,
            "options": self.options, "environments": self.environments,
            "groups": [{
                "name": group.name, "sparsity": group.sparsity, "runs": len(group.accuracies), "mean": group.mean,
                "std": group.std, "p": group.p, "significant": group.significant, "accuracies": group.accuracies,
            } for group in self.groups],
            "masks": [{
                "sparsity": found.sparsity, "names": found.names, "jaccard": found.jaccard,
                "similarity": found.similarity,
            } for found in self.tickets],
        }  # fmt: skip


def report(folder: Path, baseline: str | None = None, holm: bool = False) -> Report:
    """Reads a sweep's folder.

    Args:
        folder: of :func:`fbconv.sweep.sweep`.
        baseline, holm: as for :func:`fbconv.comparing.compare`.

    Raises:
        FileNotFoundError: no results there. ValueError: damaged ones, or an unknown baseline.

    Example:
        >>> report(Path("runs/sweep"), baseline="snip").groups[0].mean  # doctest: +SKIP
        0.97
    """
    if not (folder / RESULTS).exists():
        raise FileNotFoundError(f"report: {folder / RESULTS} does not exist: fbconv sweep makes it")
    records = Results(folder / RESULTS).records()
    groups = compare(records, baseline, holm)
    missing = [record.name for record in records if record.result is None]
    unfinished = {name: missing.count(name) for name in dict.fromkeys(missing)}
    done = [record.result for record in records if record.result is not None]
    shared = _shared([result["config"] for result in done])
    environments = _different([result["environment"] for result in done])
    return Report(groups, tickets(records, folder), baseline, holm, unfinished, environments, shared)


def _shared(configs: Sequence[Mapping[str, object]]) -> dict[str, object]:
    first = configs[0] if configs else {}
    return {name: value for name, value in first.items() if all(config[name] == value for config in configs)}


def _different(environments: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for environment in environments:
        machine = {name: value for name, value in environment.items() if name != "command"}
        if machine not in found:
            found.append(machine)
    return found
