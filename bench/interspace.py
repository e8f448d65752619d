"""The interspace on MNIST: LeNet-5-Caffe pruned by SNIP in both spaces, at equal memory.

    python bench/interspace.py --data-dir data --epochs 5 --seeds 3 --out bench/results

Both spaces train the same number of weights: the 625 entries of the shared 5x5 filter basis are paid from the budget.
Every seed has its own weights, data split, scoring batch and order, shared by both spaces; standard initialisation, so
that both start as the same function. Learning rate .03, at which both train dense. Runs go on in parallel in --work,
where a second call resumes. Prints a table and writes interspace.json and interspace.png.

Source: interspace pruning (Wimmer et al. 2022); thesis, chapter 5.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from grid import accuracies, cell, error_bars, grid_options, train_grid
from rich.console import Console
from rich.table import Table

from fbconv.experiment import SPACES, Config, environment, write_json
from fbconv.plots import figure_of, save_figure

SPARSITIES = (0.9, 0.95, 0.98, 0.99)
LOOKS = {"spatial": ("#D55E00", "--", "s"), "interspace": ("#0072B2", "-", "o")}

Row = dict[str, object]


def config(space: str, sparsity: float, seed: int, options: argparse.Namespace) -> Config:
    """At sparsity 0 the dense network."""
    mode = "prune" if sparsity else "dense"
    common = {"data": "mnist", "data_dir": options.data_dir, "epochs": options.epochs, "seed": seed, "device": "cpu"}
    return Config(**common, model="lenet5", space=space, mode=mode, sparsity=sparsity)


def label(space: str, sparsity: float, seed: int) -> str:
    return f"{space}-{sparsity:g}-seed{seed}"


def run(options: argparse.Namespace, console: Console) -> list[Row]:
    points = [(space, sparsity) for sparsity in (0.0, *SPARSITIES) for space in SPACES]
    configs = {label(*point, seed): config(*point, seed, options) for seed in range(options.seeds) for point in points}
    results = train_grid(configs, options.work, options.jobs, console)
    return [row(*point, [results[label(*point, seed)] for seed in range(options.seeds)]) for point in points]


def row(space: str, sparsity: float, runs: Sequence[dict[str, object]]) -> Row:
    return {
        "space": space, "sparsity": sparsity, "trained_weights": runs[0]["trained_weights"],
        "measured_sparsity": runs[0]["sparsity"], **accuracies(runs),
        "file_bytes": [run["file_bytes"] for run in runs], "seconds": [run["seconds"] for run in runs],
    }  # fmt: skip


def find(rows: Sequence[Row], space: str, sparsity: float) -> Row:
    return next(row for row in rows if (row["space"], row["sparsity"]) == (space, sparsity))


def table(rows: Sequence[Row]) -> Table:
    shown = Table(title="LeNet-5-Caffe on MNIST, SNIP: test accuracy in %, mean ± standard deviation of seeds")
    shown.add_column("space")
    for sparsity in (0.0, *SPARSITIES):
        shown.add_column(f"q = {sparsity:g}" if sparsity else "dense", justify="right")
    for space in SPACES:
        shown.add_row(space, *(cell(find(rows, space, sparsity)) for sparsity in (0.0, *SPARSITIES)))
    return shown


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    figure = figure_of(width=7.5, height=4.5)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots()
    for space, (colour, dash, marker) in LOOKS.items():
        cells = [find(rows, space, sparsity) for sparsity in SPARSITIES]
        error_bars(axes, range(len(cells)), cells, color=colour, linestyle=dash, marker=marker, capsize=4,
                      label=f"{space}, SNIP")  # fmt: skip
        dense = 100 - 100 * find(rows, space, 0.0)["mean"]
        axes.axhline(dense, color=colour, linestyle=dash, linewidth=1, alpha=0.6, label=f"{space}, dense")
    axes.set_xticks(range(len(SPARSITIES)), [f"{sparsity:g}" for sparsity in SPARSITIES])
    axes.set_xlabel("sparsity q, entries of the filter basis included")
    axes.set_ylabel("test error in %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def main() -> None:
    options = grid_options(__doc__, Path("runs/interspace"))
    about = environment()
    rows = run(options, Console(stderr=True))
    Console().print(table(rows))
    settings = {"epochs": options.epochs, "seeds": options.seeds, "score": "snip", "sharing": "coarse"}
    write_json(options.out / "interspace.json", {"environment": about, "settings": settings, "rows": rows})
    title = f"LeNet-5-Caffe on MNIST at equal memory, {options.epochs} epochs, {options.seeds} seeds"
    plot(rows, options.out / "interspace.png", title)


if __name__ == "__main__":
    main()
