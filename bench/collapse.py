"""Layer collapse on VGG-16: the largest compression that each score reaches without emptying a layer.

    python bench/collapse.py --data cifar10 --data-dir data --out bench/results

Single-shot scores are ranked once, which gives their critical compression exactly. SynFlow in rounds is tried at the
largest compression there is (one weight a layer) and, if that empties a layer, at ever smaller ones. Prints a table
and writes collapse.json and collapse.png.

Source: Tanaka et al. 2020, figure 1 (critical and maximal compression).
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from fbconv import prunable, score, select
from fbconv.data import DataSet, load
from fbconv.experiment import environment, replacing, stream, write_json
from fbconv.masks import LayerCollapseWarning
from fbconv.models import build
from fbconv.schedules import prune_masks

SINGLE_SHOT = ("random", "magnitude", "snip", "usnip", "grasp", "synflow")
STEP = 0.25  # of log10 compression, where the largest is out of reach


def networks(data: DataSet) -> dict[str, nn.Sequential]:
    """VGG-16, and VGG-16-LTH: without its two hidden linear layers."""
    _, channels, size, _ = data.train.images.shape
    vgg = partial(build, "vgg16", in_channels=channels, image_size=size, num_classes=data.num_classes)
    hidden = [f"fc{kind}{i}" for kind in ("", "_norm", "_relu") for i in (1, 2)]
    lth = vgg(seed=0)
    for name in hidden:
        delattr(lth, name)
    return {"VGG-16": vgg(seed=0), "VGG-16-LTH": lth}


def fewest_without_collapse(scores: Mapping[str, Tensor]) -> int:
    """The rank of the best weight of the layer that a global ranking reaches last; checked by selecting."""
    total = sum(value.numel() for value in scores.values())
    threshold = min(float(value.max()) for value in scores.values())
    above = sum(int((value > threshold).sum()) for value in scores.values())
    ties = [int((value == threshold).sum()) for value in scores.values()]
    last = max(i for i, value in enumerate(scores.values()) if float(value.max()) == threshold)
    fewest = above + sum(ties[:last]) + 1
    for keep, collapses in ((fewest, False), (fewest - 1, True)):
        if empty_layers(partial(select, scores, 1 - keep / total)) != collapses:
            raise AssertionError(f"{keep} of {total} weights: collapse must be {collapses}")
    return fewest


def empty_layers(masks_of) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masks_of()
    return any(issubclass(warning.category, LayerCollapseWarning) for warning in caught)


def synflow_in_rounds(net: nn.Module, rounds: int, shape: tuple[int, ...]) -> int:
    """Fewest weights found that leave no layer empty."""
    total, layers = sum(s.numel() for s in prunable(net).values()), len(prunable(net))
    keep = layers
    while empty_layers(partial(prune_masks, net, "synflow", 1 - keep / total, rounds, input_shape=shape)):
        keep = math.ceil(keep * 10**STEP)
    return keep


def measure(data: DataSet, batch_size: int, rounds: int, console: Console) -> list[dict[str, object]]:
    batch = next(data.training_batches(batch_size, stream(0, "score")))
    rows = []
    for network, net in networks(data).items():
        total = sum(shape.numel() for shape in prunable(net).values())
        ways = {(name, 1): partial(lambda n, s: fewest_without_collapse(score(n, s, [batch])), net, name)
                for name in SINGLE_SHOT}  # fmt: skip
        ways["synflow", rounds] = partial(synflow_in_rounds, net, rounds, tuple(batch[0].shape[1:]))
        for (name, count), fewest in ways.items():
            started = time.perf_counter()
            kept = fewest()
            rows.append({"network": network, "weights": total, "layers": len(prunable(net)), "score": name,
                         "rounds": count, "fewest_weights": kept, "log10_compression": math.log10(total / kept),
                         "seconds": time.perf_counter() - started})  # fmt: skip
            console.print(f"{network} {name} x{count}: {rows[-1]['log10_compression']:.2f}", style="dim")
    return rows


def print_table(rows: list[dict[str, object]], console: Console) -> None:
    table = Table(title="Largest log10 compression without an empty layer (and weights left)")
    table.add_column("score")
    table.add_column("rounds", justify="right")
    for network in {row["network"]: None for row in rows}:
        table.add_column(network, justify="right")
    for key, cells in by_score(rows).items():
        table.add_row(key[0], str(key[1]), *(f"{c['log10_compression']:.2f} ({c['fewest_weights']:,})" for c in cells))
    limits = {row["network"]: math.log10(row["weights"] / row["layers"]) for row in rows}
    table.add_section()
    table.add_row("one weight a layer", "", *(f"{limit:.2f}" for limit in limits.values()))
    console.print(table)


def by_score(rows: list[dict[str, object]]) -> dict[tuple[str, int], list[dict[str, object]]]:
    grouped: dict[tuple[str, int], list[dict[str, object]]] = {}
    for row in rows:
        grouped.setdefault((row["score"], row["rounds"]), []).append(row)
    return grouped


def plot(rows: list[dict[str, object]], path: Path) -> None:
    grouped = by_score(rows)
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    styles = (("#0072B2", ""), ("#E69F00", "//"))
    for i, (colour, hatch) in enumerate(styles):
        cells = [cells[i] for cells in grouped.values()]
        limit = math.log10(cells[0]["weights"] / cells[0]["layers"])
        heights = [(place + 0.4 * i - 0.2) for place in range(len(cells))]
        values = [cell["log10_compression"] for cell in cells]
        axes.barh(heights, values, 0.38, color=colour, hatch=hatch, edgecolor="white", label=cells[0]["network"])
        axes.axvline(limit, color=colour, linewidth=1, linestyle=("-", "--")[i])
        for height, value in zip(heights, values, strict=True):
            axes.annotate(f"{value:.2f}", (value, height), (4, 0), textcoords="offset points", va="center", fontsize=8)
    names = [f"{name}, {count} round{'s' if count > 1 else ''}" for name, count in grouped]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 7)
    axes.set_xlabel("largest log10 compression without an empty layer (lines: one weight a layer)")
    axes.legend(loc="upper right")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    rows = measure(load(options.data, options.data_dir), options.batch_size, options.rounds, console)
    print_table(rows, console)
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "data_dir")}
    write_json(options.out / "collapse.json", {"settings": settings, "environment": environment(), "rows": rows})
    plot(rows, options.out / "collapse.png")


if __name__ == "__main__":
    main()
