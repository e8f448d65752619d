"""``fbconv cops``: the balance factor of COPS by validation accuracy, and what the masks have in common."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from . import parallel
from .data import DATA_SETS
from .experiment import BACKENDS, Config, environment, load_checkpoint, write_json
from .mask_plots import plot_alphas, plot_similarity, short
from .models import MODELS
from .overlap import jaccard, mask_similarity
from .pattern import SparsePattern
from .plots import require_matplotlib
from .scores import SCORES
from .train import CHECKPOINT

EPILOG = (
    "Example: fbconv cops --alpha-grid --data mnist --data-dir data --model lenet5 --score snip --control grasp "
    "--sparsity .99 --epochs 5 --out runs/gcops"
)
GRID = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999, 0.9999, 0.99999)
SUMMARY = "cops.json"
ACCURACY = "alphas.png"
SIMILARITY = "similarity.png"


def cops(
    alpha_grid: Annotated[
        bool, typer.Option("--alpha-grid", help=f"Train the paper's {len(GRID)} alphas, {GRID[0]:g} to {GRID[-1]:g}.")
    ] = False,
    alpha: Annotated[
        list[float] | None, typer.Option(help="An alpha to train, in [0, 1), instead of the grid; may be repeated.")
    ] = None,
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATA_SETS)}.")] = Config.data,
    data_dir: Annotated[str, typer.Option(help="Folder of the data files (digits need none).")] = Config.data_dir,
    model: Annotated[str, typer.Option(help=f"Network: {', '.join(MODELS)}.")] = Config.model,
    space: Annotated[str, typer.Option(help="spatial or interspace.")] = Config.space,
    sharing: Annotated[str, typer.Option(help="Who shares a filter basis, in the interspace.")] = Config.sharing,
    mode: Annotated[str, typer.Option(help="prune or freeze: what happens to the other weights.")] = "prune",
    score: Annotated[str, typer.Option(help=f"The target: {', '.join(SCORES)}.")] = "snip",
    control: Annotated[str, typer.Option(help="The control: another of these.")] = "grasp",
    rounds: Annotated[int, typer.Option(help="Rounds of scoring and pruning before training.")] = Config.rounds,
    sparsity: Annotated[float, typer.Option(help="Share of weights not to train, in [0, 1].")] = 0.99,
    epochs: Annotated[int, typer.Option(help="Passes over the training split, of each run.")] = Config.epochs,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = Config.batch_size,
    lr: Annotated[float | None, typer.Option(help="First learning rate; by default the model's own.")] = Config.lr,
    seed: Annotated[int, typer.Option(help="Of weights, split, scoring batch and order of the data.")] = Config.seed,
    device: Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda, ...")] = Config.device,
    backend: Annotated[str, typer.Option(help=f"Of compressed modules: {', '.join(BACKENDS)}.")] = Config.backend,
    baselines: Annotated[
        bool, typer.Option(help="Train with target and control alone and with their linear mix, too.")
    ] = True,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at a time; by default one for each core.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results, with a folder for each run.")] = Path("runs/cops"),
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")] = False,
) -> None:
    """Train with COPS masks for several alphas at once and pick the best by validation accuracy.

    Prints accuracies, and how alike the masks are, beside the target's and the control's own masks and their naive
    linear mix. Writes cops.json, alphas.png and similarity.png. The same command takes up what was killed.
    """
    if alpha_grid == bool(alpha):
        raise typer.BadParameter("one of --alpha-grid and --alpha must be given")
    common = {
        "data": data, "data_dir": data_dir, "model": model, "space": space, "sharing": sharing, "mode": mode,
        "score": score, "control": control, "rounds": rounds, "sparsity": sparsity, "epochs": epochs,
        "batch_size": batch_size, "lr": lr, "seed": seed, "device": device, "backend": backend,
    }  # fmt: skip
    alphas = GRID if alpha_grid else sorted(set(alpha))
    configs = _configs(common, alphas, baselines)
    require_matplotlib()
    outcome = _train(configs, out, jobs, as_json)
    by_alpha = {a: outcome.results[_label(a)] for a in alphas if _label(a) in outcome.results}
    if not by_alpha:
        raise RuntimeError("cops: every run with a control failed")
    best = max(by_alpha, key=lambda a: _quality(by_alpha[a]))
    summary = _summary(configs, outcome, out) | {"best_alpha": best, "environment": environment()}
    write_json(out / SUMMARY, summary)
    _draw(summary, by_alpha, common, out)
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        _print(summary, _label(best), out)
    if outcome.failures:
        raise typer.Exit(1)


def _label(alpha: float) -> str:
    # To the last digit: near 1, six of them would give two runs one folder.
    return f"alpha-{alpha!r}".removesuffix(".0")


def _configs(common: dict[str, object], alphas: tuple[float, ...], baselines: bool) -> dict[str, Config]:
    """Label -> configuration; labels are names of folders."""
    try:
        if common["mode"] == "dense":
            raise ValueError("config: mode must be prune or freeze, got 'dense'")
        configs = {_label(alpha): Config(**common, alpha=alpha) for alpha in alphas}
        if baselines:
            target, control = common["score"], common["control"]
            configs |= {
                f"{target}-alone": Config(**common | {"control": None}),
                f"{control}-alone": Config(**common | {"control": None, "score": control}),
                "linear-mix": Config(**common, combine="linear"),
            }
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return configs


def _train(configs: Mapping[str, Config], out: Path, jobs: int | None, quiet: bool) -> parallel.Outcome:
    with _bars(configs, quiet) as progress:
        outcome = parallel.train_all(configs, out, jobs, progress)
    for label, message in outcome.failures.items():
        print(f"fbconv: {label}: {message}", file=sys.stderr)
    return outcome


def _quality(result: Mapping[str, object]) -> tuple[float, float]:
    """Validation accuracy and, among equals, the lower loss of that epoch."""
    entry = result["history"][result["best_epoch"] - 1]
    return entry["validation_accuracy"], -entry["validation_loss"]


def _summary(configs: Mapping[str, Config], outcome: parallel.Outcome, out: Path) -> dict[str, object]:
    masks = {label: _masks(out / label / CHECKPOINT, configs[label]) for label in outcome.results}
    return {
        "labels": list(masks),
        "similarity": [[mask_similarity(a, b) for b in masks.values()] for a in masks.values()],
        "jaccard": [[jaccard(a, b) for b in masks.values()] for a in masks.values()],
        "runs": outcome.results,
        "failures": outcome.failures,
    }


def _masks(checkpoint: Path, config: Config) -> dict[str, Tensor]:
    """The masks of a finished run, out of the packed patterns in its checkpoint."""
    state = load_checkpoint(checkpoint, config)["model"]
    masks = {}
    for name, packed in state.items():
        if name.endswith(".indices"):
            shape = packed[1:4].tolist()  # rows, channels, taps
            masks[name.removesuffix(".indices")] = SparsePattern.from_packed(packed, shape).mask()
    return masks


def _draw(
    summary: Mapping[str, object],
    by_alpha: Mapping[float, Mapping[str, float]],
    common: Mapping[str, object],
    out: Path,
) -> None:
    kind = f"{common['score']} under {common['control']}, {common['mode']}, sparsity {common['sparsity']:g}"
    title = f"{common['model']} on {common['data']}, {common['space']}: {kind}"
    baselines = {label: run for label, run in summary["runs"].items() if not label.startswith("alpha-")}
    plot_alphas(by_alpha, baselines, summary["best_alpha"], out / ACCURACY, title)
    maps = {"mask similarity": summary["similarity"], "Jaccard overlap": summary["jaccard"]}
    plot_similarity([*map(_short_name, summary["labels"])], maps, out / SIMILARITY, title)


def _print(summary: Mapping[str, object], best: str, out: Path) -> None:
    table = Table(title="Runs (validation picks the alpha)")
    table.add_column("run", no_wrap=True)
    for column in ("validation", "test", "trained weights", "seconds"):
        table.add_column(column, justify="right")
    for label, run in summary["runs"].items():
        cells = (f"{100 * run['validation_accuracy']:.2f} %", f"{100 * run['test_accuracy']:.2f} %",
                 f"{run['trained_weights']:,}", f"{run['seconds']:.1f}")  # fmt: skip
        table.add_row(label + (" *" if label == best else ""), *cells, style="bold" if label == best else None)
    Console().print(table)
    for title in ("similarity", "jaccard"):
        _print_matrix(title, summary["labels"], summary[title])
    print(f"results: {out / SUMMARY}\npictures: {out / ACCURACY}, {out / SIMILARITY}")


def _print_matrix(title: str, labels: list[str], matrix: list[list[float]]) -> None:
    """Seventeen runs fit 80 characters: columns are numbered as the rows are, cells and names are short."""
    table = Table(title=f"{title} of masks", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("run", no_wrap=True)
    for i in range(len(labels)):
        table.add_column(str(i + 1), justify="right", no_wrap=True, min_width=3)
    for i, (label, row) in enumerate(zip(labels, matrix, strict=True), start=1):
        table.add_row(f"{i:2} {_short_name(label)}", *map(short, row))
    Console().print(table)


def _short_name(label: str) -> str:
    return label.removeprefix("alpha-").removeprefix("linear-").removesuffix("-alone")


@contextmanager
def _bars(configs: Mapping[str, Config], quiet: bool) -> Iterator[object]:
    if quiet:
        yield None
        return
    columns = (TextColumn("{task.description:>15}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[figures]}"), console=Console(stderr=True)) as bars:
        tasks = {label: bars.add_task(label, total=None, figures="", start=False) for label in configs}

        def advance(report: parallel.Report) -> None:
            label, done, steps, entry = report
            figures = f"validation {100 * entry['validation_accuracy']:.2f} %" if entry else ""
            bars.start_task(tasks[label])
            bars.update(tasks[label], completed=done, total=steps, figures=figures)

        yield advance
