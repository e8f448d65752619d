"""Many training runs behind one progress bar, and their accuracies in numbers, cells and bars."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
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


def accuracies(runs: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Test accuracies of all seeds, with their mean and standard deviation."""
    values = [run["test_accuracy"] for run in runs]
    return {
        "accuracies": values,
        "mean": statistics.mean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
    }


def cell(row: Mapping[str, object]) -> str:
    """Mean ± standard deviation of :func:`accuracies`, in percent."""
    return f"{100 * row['mean']:.2f}" + ("" if row["std"] is None else f" ± {100 * row['std']:.2f}")


def error_bars(axes, places: Sequence[float], rows: Sequence[Mapping[str, object]], **look: object) -> None:
    """Mean test errors in percent, with the standard deviations of seeds."""
    errors, spread = [100 - 100 * row["mean"] for row in rows], [100 * (row["std"] or 0) for row in rows]
    axes.errorbar(places, errors, spread, **look)
