"""CIFAR-10: five ways to prune a small VGG, in both spaces, at equal memory.

    python bench/cifar10.py --data-dir data --epochs 3 --seeds 3 --out bench/results

VGG-7 (six 3x3 convolutions of 16 to 256 channels with batch norm, 542,128 weights) is pruned at initialisation by SNIP,
regrown by SET and RigL (ERK densities, every 100 steps), pruned gradually (GMP), or trained, pruned by magnitude and
rewound to a tenth of its training (LTH, one round). Both spaces train the same number of weights: the 81 entries of
the shared filter basis are paid from the budget. Every seed has its own weights, data split, scoring batch and order,
shared by all. Learning rate .03, at which both spaces train. Runs go on in parallel in --work, where a second call
resumes. Prints a table and writes cifar10.json and cifar10.png.

Source: interspace pruning (Wimmer et al. 2022); thesis, chapter 5.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from grid import accuracies, cell, error_bars, grid_options, train_grid
from rich.console import Console
from rich.table import Table

from fbconv.experiment import SPACES, Config, environment, write_json
from fbconv.plots import figure_of, save_figure

SPARSITIES = (0.85, 0.95, 0.99)
LEARNING_RATE = 0.03
STEPS = 450  # of 100 images, in an epoch
METHODS: Mapping[str, Mapping[str, object]] = {
    "SNIP": {"score": "snip"},
    "SET": {"score": "random", "distribution": "erk", "dynamic": "set"},
    "RigL": {"score": "random", "distribution": "erk", "dynamic": "rigl"},
    "GMP": {"score": "magnitude", "dynamic": "gmp"},
    "LTH": {"score": "magnitude", "dynamic": "lth"},
}
LOOKS = {"spatial": ("#D55E00", "--", "s"), "interspace": ("#0072B2", "-", "o")}

Row = dict[str, object]
Point = tuple[str, str, float]  # method, space, sparsity


def points() -> list[Point]:
    """The dense networks first, then every method."""
    dense = [("dense", space, 0.0) for space in SPACES]
    return dense + [(method, space, q) for method in METHODS for q in SPARSITIES for space in SPACES]


def config(point: Point, seed: int, options: argparse.Namespace) -> Config:
    method, space, sparsity = point
    how = {"mode": "prune", "sparsity": sparsity, **METHODS[method]} if sparsity else {"mode": "dense"}
    if method == "LTH":
        how["rewind"] = STEPS * options.epochs // 10
    common = {"data": "cifar10", "data_dir": options.data_dir, "epochs": options.epochs, "seed": seed, "device": "cpu"}
    return Config(**common, model="vgg7", lr=LEARNING_RATE, space=space, **how)


def label(point: Point, seed: int) -> str:
    method, space, sparsity = point
    return f"{method}-{space}-{sparsity:g}-seed{seed}"


def run(options: argparse.Namespace, console: Console) -> list[Row]:
    configs = {label(point, seed): config(point, seed, options) for seed in range(options.seeds) for point in points()}
    results = train_grid(configs, options.work, options.jobs, console)
    return [row(point, [results[label(point, seed)] for seed in range(options.seeds)]) for point in points()]


def row(point: Point, runs: Sequence[dict[str, object]]) -> Row:
    return {
        **dict(zip(("method", "space", "sparsity"), point, strict=True)), "trained_weights": runs[0]["trained_weights"],
        "measured_sparsity": runs[0]["sparsity"], **accuracies(runs),
        "file_bytes": [run["file_bytes"] for run in runs], "seconds": [run["seconds"] for run in runs],
    }  # fmt: skip


def find(rows: Sequence[Row], point: Point) -> Row:
    return next(row for row in rows if (row["method"], row["space"], row["sparsity"]) == point)


def table(rows: Sequence[Row]) -> Table:
    shown = Table(title="VGG-7 on CIFAR-10: test accuracy in %, mean ± standard deviation of seeds")
    shown.add_column("method")
    shown.add_column("space")
    for sparsity in SPARSITIES:
        shown.add_column(f"q = {sparsity:g}", justify="right")
    for space in SPACES:
        shown.add_row("dense", space, cell(find(rows, ("dense", space, 0.0))))
    for method in METHODS:
        for space in SPACES:
            shown.add_row(method, space, *(cell(find(rows, (method, space, sparsity))) for sparsity in SPARSITIES))
    return shown


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    figure = figure_of(width=12, height=4)
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(1, len(METHODS), sharey=True)
    for axes, method in zip(panels, METHODS, strict=True):
        for space, (colour, dash, marker) in LOOKS.items():
            cells = [find(rows, (method, space, sparsity)) for sparsity in SPARSITIES]
            error_bars(axes, range(len(cells)), cells, color=colour, linestyle=dash, marker=marker, capsize=4,
                          label=space)  # fmt: skip
            dense = 100 - 100 * find(rows, ("dense", space, 0.0))["mean"]
            axes.axhline(dense, color=colour, linestyle=dash, linewidth=1, alpha=0.6, label=f"{space}, dense")
        axes.set_title(method, fontsize=10)
        axes.set_xticks(range(len(SPARSITIES)), [f"{sparsity:g}" for sparsity in SPARSITIES])
        axes.set_xlabel("sparsity q")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test error in %")
    panels[0].legend(fontsize=8)
    save_figure(figure, path)


def main() -> None:
    options = grid_options(__doc__, Path("runs/cifar10"), epochs=3)
    about = environment()
    rows = run(options, Console(stderr=True))
    Console().print(table(rows))
    settings = {"epochs": options.epochs, "seeds": options.seeds, "sharing": "coarse", "lr": LEARNING_RATE}
    write_json(options.out / "cifar10.json", {"environment": about, "settings": settings, "rows": rows})
    title = f"VGG-7 on CIFAR-10 at equal memory, {options.epochs} epochs, {options.seeds} seeds"
    plot(rows, options.out / "cifar10.png", title)


if __name__ == "__main__":
    main()
