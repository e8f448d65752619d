"""``fbconv sweep``: a grid of runs from one file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .experiment import Config
from .results import Record, Results, run_id, sparsity_of
from .sweep import read_sweep
from .sweep import sweep as run_sweep
from .train_command import Json

EPILOG = "Example: fbconv sweep sweep.toml --out runs/sweep (again to resume; fbconv.sweep.read_sweep has the format)"


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="What to run: [options] and [[runs]] with lists.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the results; by default runs/NAME of the file.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at a time; by default one for each core.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Train on a Ray cluster: auto, ray://HOST:10001, or local for one of this machine."
        ),
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder of the data files, before that of the file.")] = None,
    as_json: Json = False,
) -> None:
    """Train every run of a file once, several at a time.

    Each result is in OUT/results.sqlite as soon as its run ends, its model in OUT/ID/model.fbc. The same command takes
    up what was killed, tries again what failed and trains nothing twice.
    """
    try:
        runs = read_sweep(file, {} if data_dir is None else {"data_dir": data_dir})
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    if ray is not None and jobs is not None:
        raise typer.BadParameter("jobs are for the cores of this machine; with --ray, the cluster has its own")
    out = Path("runs") / file.stem if out is None else out
    results = _run(runs, out, jobs, ray, as_json)
    wanted = {run_id(config) for configs in runs.values() for config in configs}
    records = [record for record in results.records() if record.id in wanted]
    if as_json:
        print(json.dumps([dataclasses.asdict(record) for record in records], indent=2))
    else:
        Console().print(_table(records))
        print(f"results: {results.path}")
    failures = [record for record in records if record.failure]
    if failures:
        first = failures[0]
        raise RuntimeError(f"{len(failures)} of {len(records)} runs failed, the first, {first.name}: {first.failure}")


def _run(runs: Mapping[str, Sequence[Config]], out: Path, jobs: int | None, ray: str | None, quiet: bool) -> Results:
    if quiet:
        return run_sweep(runs, out, jobs, ray=ray)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f} of {task.total} runs"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=sum(map(len, runs.values())))
        return run_sweep(runs, out, jobs, lambda done, total: bar.update(task, completed=done, total=total), ray)


def _table(records: Sequence[Record]) -> Table:
    """One line for each name and sparsity: mean and standard deviation over seeds."""
    table = Table("run", "sparsity", "runs", title="test accuracy in %")
    table.add_column("mean", justify="right")
    table.add_column("std", justify="right")
    groups: dict[tuple[str, float], list[float]] = {}
    for record in records:
        accuracies = groups.setdefault((record.name, sparsity_of(record.config)), [])
        accuracies += [] if record.result is None else [100 * record.result["test_accuracy"]]
    for (name, sparsity), accuracies in groups.items():
        spread = f"{stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        middle = f"{mean(accuracies):.2f}" if accuracies else ""
        table.add_row(name, f"{sparsity:g}", str(len(accuracies)), middle, spread)
    return table
