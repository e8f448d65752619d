"""FreezeNet on MNIST: accuracy of every variant over sparsity, and gradient flow over training.

    python bench/freezenet.py --data-dir data --epochs 5 --seeds 3 --out bench/results

LeNet-5-Caffe and LeNet-300-100, dense, pruned (SNIP, GraSP) and frozen: FreezeNet, FreezeNet-WD, a random mask, other
weights after the mask, the paper's other initialisations, and all weights frozen (q = 1). Every seed has its own
weights, data split, scoring batch and order, shared by all methods. FreezeNet-WD's decay of frozen weights is as strong
over the whole training as in the paper's 250 epochs. Runs go on in parallel in --work, where a second call resumes.
Prints tables and writes freezenet.json, freezenet.png (test accuracy) and freezenet-gradients.png (root mean square of
the gradient at trained weights, in units of the dense network's).

Source: Wimmer et al. 2020, tables 1 and 2, figures 3 and 5; thesis, figures 3.1, 3.5 and 3.6.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from grid import accuracies, cell, error_bars, grid_options, train_grid
from rich.console import Console
from rich.table import Table

from fbconv.experiment import Config, environment, write_json
from fbconv.plots import figure_of, save_figure
from fbconv.train import learning_rate

MODELS = {"lenet5": "LeNet-5-Caffe", "lenet300": "LeNet-300-100"}
SPARSITIES = (0.9, 0.99, 0.995, 0.999)
METHODS: Mapping[str, Mapping[str, object]] = {
    "SNIP": {"mode": "prune"},
    "GraSP": {"mode": "prune", "score": "grasp"},
    "FreezeNet": {"mode": "freeze"},
    "FreezeNet-WD": {"mode": "freeze", "decays": True},
    "random mask": {"mode": "freeze", "score": "random"},
    "reinit": {"mode": "freeze", "reinit": True},
    "Kaiming uniform": {"mode": "freeze", "init": "kaiming_uniform"},
    "plus-minus sigma": {"mode": "freeze", "init": "pm_sigma"},
}
FLOW = ("dense", "SNIP", "GraSP", "FreezeNet", "FreezeNet-WD")
LOOKS = {
    "dense": ("#000000", "-", None),
    "SNIP": ("#D55E00", "--", "s"),
    "GraSP": ("#E69F00", "--", "v"),
    "FreezeNet": ("#0072B2", "-", "o"),
    "FreezeNet-WD": ("#56B4E9", "-", "P"),
    "random mask": ("#999999", ":", "x"),
    "reinit": ("#009E73", "-.", "^"),
    "Kaiming uniform": ("#CC79A7", ":", ">"),
    "plus-minus sigma": ("#CC79A7", "--", "D"),
}
IMAGES, BATCH = 54_000, 100  # of the training split, of a step
# The paper's learning rate over its steps, .1 and a tenth of it every 25,000 of 135,000, times its weight decay.
PAPER_DECAY = 5e-4 * 25_000 * (0.1 + 0.01 + 0.001 + 1e-4 + 1e-5 + 1e-6)

Row = dict[str, object]


def grid() -> list[tuple[str, float]]:
    """(method, sparsity) of every point of a network."""
    points = [(method, sparsity) for sparsity in SPARSITIES for method in METHODS]
    return [("dense", 0.0), *points, ("FreezeNet", 1.0)]


def config(model: str, method: str, sparsity: float, seed: int, epochs: int, data_dir: str) -> Config:
    options = dict(METHODS.get(method, {"mode": "dense"}))
    common = {"data": "mnist", "data_dir": data_dir, "model": model, "sparsity": sparsity, "epochs": epochs}
    decays = options.pop("decays", False)
    made = Config(**common, **options, batch_size=BATCH, seed=seed, device="cpu")
    if not decays:
        return made
    rates = sum(learning_rate(made, epoch) for epoch in range(epochs)) * (IMAGES // BATCH)
    return Config(**vars(made) | {"frozen_decay": PAPER_DECAY / rates})


def label(model: str, method: str, sparsity: float, seed: int) -> str:
    return f"{model}-{method.replace(' ', '-').lower()}-{sparsity:g}-seed{seed}"


def run(options: argparse.Namespace, console: Console) -> list[Row]:
    points = [(model, *point) for model in MODELS for point in grid()]
    configs = {label(*point, seed): config(*point, seed, options.epochs, options.data_dir)
               for seed in range(options.seeds) for point in points}  # fmt: skip
    results = train_grid(configs, options.work, options.jobs, console)
    return [row(*point, [results[label(*point, seed)] for seed in range(options.seeds)]) for point in points]


def row(model: str, method: str, sparsity: float, runs: Sequence[Mapping[str, object]]) -> Row:
    norms = [[entry["gradient_norm"] for entry in run["history"]] for run in runs]
    return {
        "model": model, "method": method, "sparsity": sparsity, "real_sparsity": runs[0]["real_sparsity"],
        "trained_weights": runs[0]["trained_weights"], "lr": runs[0]["config"]["lr"],
        "frozen_decay": runs[0]["config"]["frozen_decay"], **accuracies(runs),
        "frozen_size": [run["frozen_size"] for run in runs],
        "gradient_norm": [statistics.mean(epoch) for epoch in zip(*norms, strict=True)],
        "seconds": [run["seconds"] for run in runs],
    }  # fmt: skip


def tables(rows: Sequence[Row], console: Console) -> None:
    for model, name in MODELS.items():
        table = Table(title=f"{name} on MNIST: test accuracy in %, mean ± standard deviation of seeds")
        table.add_column("method")
        for sparsity in SPARSITIES:
            table.add_column(f"q = {sparsity:g}", justify="right")
        for method in METHODS:
            table.add_row(method, *(cell(find(rows, model, method, sparsity)) for sparsity in SPARSITIES))
        table.caption = (
            f"dense {cell(find(rows, model, 'dense', 0.0))}, all frozen {cell(find(rows, model, 'FreezeNet', 1.0))}"
        )
        console.print(table)


def find(rows: Sequence[Row], model: str, method: str, sparsity: float) -> Row:
    key = (model, method, sparsity)
    return next(row for row in rows if (row["model"], row["method"], row["sparsity"]) == key)


def plot_accuracy(rows: Sequence[Row], path: Path, title: str) -> None:
    """Error rates: differences at 99 % and at 20 % accuracy both show on a logarithmic axis."""
    figure = figure_of(width=12, height=5)
    figure.suptitle(title)
    for axes, (model, name) in zip(figure.subplots(1, 2), MODELS.items(), strict=True):
        places = range(len(SPARSITIES))
        dense = find(rows, model, "dense", 0.0)
        axes.axhline(100 - 100 * dense["mean"], color="black", linewidth=1, label="dense")
        for i, method in enumerate(METHODS):
            cells = [find(rows, model, method, sparsity) for sparsity in SPARSITIES]
            colour, dash, marker = LOOKS[method]
            shifted = [place + 0.03 * (i - len(METHODS) / 2) for place in places]
            error_bars(axes, shifted, cells, color=colour, linestyle=dash, marker=marker, markersize=5,
                          linewidth=1.3, label=method)  # fmt: skip
        axes.set_yscale("log")
        axes.set_yticks([1, 2, 5, 10, 20, 50, 90], ["1", "2", "5", "10", "20", "50", "90"])
        axes.minorticks_off()
        axes.set_xticks(list(places), [f"{sparsity:g}" for sparsity in SPARSITIES])
        axes.set_xlabel("sparsity q (share of weights not trained)")
        axes.set_ylabel("test error in %")
        axes.set_title(name)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=9)
    save_figure(figure, path)


def flow(rows: Sequence[Row], model: str, method: str, sparsity: float) -> list[float]:
    """Root mean square of the trained weights' gradient in each epoch, in units of the dense network's."""
    dense = rms(find(rows, model, "dense", 0.0))
    return [own / other for own, other in zip(rms(find(rows, model, method, sparsity)), dense, strict=True)]


def rms(row: Row) -> list[float]:
    return [norm / row["trained_weights"] ** 0.5 for norm in row["gradient_norm"]]


def plot_gradients(rows: Sequence[Row], path: Path, title: str) -> None:
    figure = figure_of(width=14, height=6.5)
    figure.suptitle(title)
    for line, (model, name) in zip(figure.subplots(2, len(SPARSITIES), sharey="row"), MODELS.items(), strict=True):
        for axes, sparsity in zip(line, SPARSITIES, strict=True):
            for method in FLOW:
                values = flow(rows, model, method, 0.0 if method == "dense" else sparsity)
                colour, dash, marker = LOOKS[method]
                axes.plot(range(1, len(values) + 1), values, color=colour, linestyle=dash, marker=marker, markersize=4,
                          label=method)  # fmt: skip
            axes.set_yscale("log")
            axes.set_title(f"{name}, q = {sparsity:g}", fontsize=10)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
        line[0].set_ylabel("gradient (RMS, dense = 1)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(FLOW), fontsize=9)
    save_figure(figure, path)


def main() -> None:
    options = grid_options(__doc__, Path("runs/freezenet"))
    about = environment()
    rows = run(options, Console(stderr=True))
    tables(rows, Console())
    settings = {"epochs": options.epochs, "seeds": options.seeds, "batch_size": BATCH}
    write_json(options.out / "freezenet.json", {"environment": about, "settings": settings, "rows": rows})
    under = f"MNIST, {options.epochs} epochs, {options.seeds} seeds"
    plot_accuracy(rows, options.out / "freezenet.png", f"Test error, {under}")
    note = "lines that end or are missing are at zero"
    plot_gradients(rows, options.out / "freezenet-gradients.png", f"Gradient of trained weights, {under}; {note}")


if __name__ == "__main__":
    main()
