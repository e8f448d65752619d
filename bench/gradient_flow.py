"""Gradient flow after SNIP on VGG-16, spatial and in the interspace at equal memory: which masks leave a gradient?

    python bench/gradient_flow.py --data cifar10 --data-dir data --batches 15 --out bench/results

SNIP scores a few batches, keeps the best weights or coefficients so that with the entries of the filter bases (one
basis a layer) there are as many numbers in both spaces, and the pruned network's gradient is taken on the first batch:
L2 norms of that of weights or coefficients, and of that of the bases. Prints a table and writes gradient_flow.json and
gradient_flow.png. With few batches scores are noisy and networks are cut at lower sparsities.

A network is cut where a layer's output is zero. Batch norm keeps it zero, where ReLU's derivative is zero in torch: no
weight, coefficient or basis then has a gradient, now or later, whatever the basis. Only without these two behind the
cut can an adaptive basis heal it (tests/test_gradient_flow.py).

Source: thesis, section 5.5.2.1 and figure 5.6, which has SNIP without gradient at q = .995, and interspace SNIP
starting at the same point and getting one in training.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import fbconv
from fbconv._training.model import bases_of
from fbconv.benchmark.table import print_whole
from fbconv.data import DataSet, load
from fbconv.experiment import environment, stream, write_json
from fbconv.models import build
from fbconv.plots import figure_of, save_figure
from fbconv.train import basis_gradient_norm, gradient_norm

SPARSITIES = (0.9, 0.95, 0.98, 0.99, 0.992, 0.994, 0.995)
BASES: Mapping[str, Mapping[str, object] | None] = {  # options of interspace
    "spatial": None,
    "standard basis": {},
    "orthonormal basis": {"init": "orthonormal"},
    "5 random elements": {"init": "random", "n_elements": 5},
}
LOOKS = {
    "spatial": ("#000000", "-", "s"),
    "standard basis": ("#0072B2", "--", "o"),
    "orthonormal basis": ("#009E73", "-.", "^"),
    "5 random elements": ("#D55E00", ":", "D"),
}
BATCH = 128
FLOOR = 1e-3  # where the picture draws a gradient that is zero

Row = dict[str, object]
Batches = Sequence[tuple[Tensor, Tensor]]


def scoring_batches(data: DataSet, count: int, seed: int) -> Batches:
    return list(itertools.islice(data.training_batches(BATCH, stream(seed, "score")), count))


def measure(dense: nn.Module, batches: Batches, sparsities: Sequence[float], seed: int, console: Console) -> list[Row]:
    rows = []
    for space, options in track(BASES.items(), "spaces", console=console):
        net = dense if options is None else fbconv.interspace(dense, "fine", **options, generator=stream(seed, "bases"))
        scores = fbconv.score(net, "snip", batches)
        take = partial(point, net, scores, weights(dense), batches[0])
        rows += [{"space": space, "sparsity": sparsity} | take(sparsity) for sparsity in sparsities]
    return rows


def weights(net: nn.Module) -> int:
    return sum(shape.numel() for shape in fbconv.prunable(net).values())


def point(
    net: nn.Module, scores: Mapping[str, Tensor], dense_weights: int, batch: tuple[Tensor, Tensor], sparsity: float
) -> Row:
    """Prune to the memory that the sparsity leaves of so many dense weights, and take the gradient."""
    bases = sum(elements.numel() for elements in bases_of(net))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fbconv.masks.LayerCollapseWarning)  # counted below
        masks = fbconv.select(scores, 1 - ((1 - sparsity) * dense_weights - bases) / weights(net))
    pruned = fbconv.sparsify(net, masks).train()
    images, labels = batch
    F.cross_entropy(pruned(images), labels).backward()
    return {
        "kept": sum(int(mask.sum()) for mask in masks.values()),
        "basis_entries": bases,
        "empty_layers": sum(not mask.any() for mask in masks.values()),
        "fewest_kept_in_a_layer": min(int(mask.sum()) for mask in masks.values()),
        "gradient_norm": float(gradient_norm(pruned)),
        "basis_gradient_norm": float(basis_gradient_norm(pruned)) if bases else None,
    }


def print_table(rows: Sequence[Row]) -> None:
    table = Table(title="Gradient after SNIP: weights or coefficients / bases (fewest kept in a layer)")
    table.add_column("space")
    for sparsity in SPARSITIES:
        table.add_column(f"q = {sparsity:g}", justify="right")
    for space in BASES:
        table.add_row(space, *(cell(row) for row in rows if row["space"] == space))
    print_whole(table)


def cell(row: Row) -> str:
    bases = "" if row["basis_gradient_norm"] is None else f" / {row['basis_gradient_norm']:.3g}"
    return f"{row['gradient_norm']:.3g}{bases} ({row['fewest_kept_in_a_layer']})"


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    figure = figure_of(width=12, height=4.6)
    figure.suptitle(title)
    titles = {"gradient_norm": "weights or coefficients", "basis_gradient_norm": "filter bases"}
    for axes, (name, heading) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        for space, (colour, dash, marker) in LOOKS.items():
            norms = [row[name] for row in rows if row["space"] == space]
            if None not in norms:
                places = range(len(norms))
                heights = [max(norm, FLOOR) for norm in norms]
                axes.plot(places, heights, color=colour, linestyle=dash, marker=marker, label=space)
        axes.axhline(FLOOR, color="0.6", linewidth=1)
        axes.annotate("zero", (0, FLOOR), (0, 4), textcoords="offset points", color="0.4")
        axes.set_yscale("log")
        axes.set_title(heading, fontsize=10)
        axes.set_xticks(range(len(SPARSITIES)), [f"{sparsity:g}" for sparsity in SPARSITIES])
        axes.set_xlabel("sparsity q, bases counted")
        axes.set_ylabel("L2 norm of the gradient")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9, loc="center left")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--batches", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about, data = environment(), load(options.data, options.data_dir, options.seed)
    _, channels, size, _ = data.train.images.shape
    net = build(options.model, in_channels=channels, image_size=size, num_classes=data.num_classes, seed=options.seed)
    batches = scoring_batches(data, options.batches, options.seed)
    rows = measure(net, batches, SPARSITIES, options.seed, Console(stderr=True))
    print_table(rows)
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "data_dir")}
    write_json(options.out / "gradient_flow.json", {"environment": about, "settings": settings, "rows": rows})
    title = f"{options.model}, {options.data}: gradient after SNIP on {options.batches} batches of {BATCH}"
    plot(rows, options.out / "gradient_flow.png", title)


if __name__ == "__main__":
    main()
