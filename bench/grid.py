"""Many training runs behind one progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from fbconv.experiment import Config
from fbconv.parallel import Report, train_all


def train_grid(configs: Mapping[str, Config], work: Path, jobs: int, console: Console) -> dict[str, dict[str, object]]:
    """label -> result of every configuration; a second call resumes.

    Raises:
        RuntimeError: naming the runs that failed.
    """
    done = dict.fromkeys(configs, 0.0)
    with Progress(console=console) as bar:
        task = bar.add_task("training", total=len(configs))

        def advance(report: Report) -> None:
            name, steps, total, _ = report
            done[name] = steps / total
            bar.update(task, completed=sum(done.values()))

        outcome = train_all(configs, work, jobs, advance)
    if outcome.failures:
        raise RuntimeError(f"runs failed: {outcome.failures}")
    return outcome.results
