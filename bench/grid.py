"""Many training runs behind one progress bar."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from fbconv.experiment import Config
from fbconv.parallel import Report, train_all


def grid_options(description: str, work: Path, epochs: int = 5) -> argparse.Namespace:
    """The command line of a script that trains a grid: data_dir, epochs, seeds, jobs, work, out."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=work)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    return parser.parse_args()


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
