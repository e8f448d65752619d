"""``fbconv meta``: a score that is learned from others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .data import DATA_SETS
from .experiment import Config
from .meta.learning import PICTURE, SUFFIX, SUMMARY, learn
from .models import MODELS
from .train_command import DataDir, Device, Json, config_of

EPILOG = (
    "Example: fbconv meta --data mnist --data-dir data, then fbconv train --data mnist --data-dir data "
    "--model lenet300 --score meta --meta runs/meta/mlp.safetensors --sparsity .995"
)


def meta(
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATA_SETS)}.")] = Config.data,
    data_dir: DataDir = Config.data_dir,
    model: Annotated[str, typer.Option(help=f"Network: {', '.join(MODELS)}.")] = "lenet300",
    networks: Annotated[int, typer.Option(min=2, help="Seeds 0, 1, ...; the last network is for testing.")] = 3,
    sparsity: Annotated[float, typer.Option(help="Share of weights that the tickets do without.")] = 0.995,
    rounds: Annotated[int, typer.Option(help="Trainings of each network, with pruning and rewinding.")] = 5,
    shots: Annotated[int, typer.Option(help="Rounds of SynFlow after each training.")] = 20,
    epochs: Annotated[int, typer.Option(help="Of a training.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 64,
    lr: Annotated[float | None, typer.Option(help="First learning rate; by default the model's own.")] = None,
    extended: Annotated[
        bool, typer.Option("--extended", help="Six more features: weight, norm of its layer, activations at its ends.")
    ] = False,
    device: Device = Config.device,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/meta"),
    as_json: Json = False,
) -> None:
    """Learn a score: from four upfront scores of a weight, what iterative multi-shot SynFlow would say of it.

    Trains five regressors on the weights of some networks, each one an example, and tests them on another's. Writes
    linear, sgd, tree, forest and mlp.safetensors for --meta of fbconv train, meta.json and meta.png. The same command
    takes up what was killed.
    """
    options = {"data": data, "data_dir": data_dir, "model": model, "sparsity": sparsity, "rounds": rounds,
               "shots": shots, "epochs": epochs, "batch_size": batch_size, "lr": lr, "device": device}  # fmt: skip
    summary = _learn([config_of(**options, seed=seed) for seed in range(networks)], out, extended, as_json)
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    Console().print(table(summary))
    print(f"scores: {out}/NAME{SUFFIX}\nsummary: {out / SUMMARY}\npicture: {out / PICTURE}")


def _learn(configs: Sequence[Config], out: Path, extended: bool, quiet: bool) -> dict[str, object]:
    columns = (TextColumn("{task.description:>15}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with nullcontext() if quiet else Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, object] = {}

        def advance(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=1)
            bar.update(tasks[what], completed=share)

        return learn(configs, out, extended, None if quiet else advance)


def table(summary: Mapping[str, object]) -> Table:
    """How well each regressor of :func:`fbconv.meta.learning.learn` predicts."""
    shown = Table("regressor", title="what iterative multi-shot SynFlow would say, predicted")
    for column in ("R2 train", "R2 test", "MSE train", "MSE test", "overlap with the ticket", "seconds"):
        shown.add_column(column, justify="right")
    for name, found in summary["regressors"].items():
        train, test = found["train"], found["test"]
        shown.add_row(
            name, f"{train['r2']:.4f}", f"{test['r2']:.4f}", f"{train['mse']:.3g}", f"{test['mse']:.3g}",
            f"{100 * test['overlap']:.1f} %", f"{found['seconds']:.1f}",
        )  # fmt: skip
    return shown
