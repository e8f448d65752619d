"""Accuracy against real time: the networks that bench/cifar10.py has trained, and how fast each infers one image.

    python bench/accuracy_speed.py --work runs/cifar10 --threads 1 --out bench/results

Reads the results and the compressed models that bench/cifar10.py leaves in --work. A network's speed is that of the
first seed's on one image, in evaluation mode, everything included, with ``backend="auto"``; dense is the unpruned
spatial network in the better memory format, all interleaved. Accuracies are means over the seeds that are there. Prints
a table and writes accuracy_speed.json and accuracy_speed.png.

Source: thesis, figure 5.8, which plots accuracy over the time of scipy's matrices.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from cifar10 import LOOKS, METHODS, Point, label, points
from grid import accuracies, cell
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fbconv
from fbconv.benchmark.allocator import keep_freed_memory
from fbconv.benchmark.candidates import FORMATS
from fbconv.benchmark.timing import ROUNDS, Candidate, interleaved_medians
from fbconv.experiment import environment, stream, write_json
from fbconv.models import build
from fbconv.plots import figure_of, save_figure
from fbconv.train import MODEL, RESULT

MARKERS = dict(zip(METHODS, "osD^v", strict=True))

Row = dict[str, object]


def trained(work: Path, point: Point) -> list[dict[str, object]]:
    """Results of all seeds from 0 on that are there."""
    found = []
    while (path := work / label(point, len(found)) / RESULT).exists():
        found.append(json.loads(path.read_text()))
    return found


def network(work: Path, point: Point) -> nn.Module:
    """The first seed's, as it was tested."""
    plain = build("vgg7", in_channels=3, image_size=32)
    return fbconv.load(work / label(point, 0) / MODEL, plain).eval()


def run(work: Path, rounds: int) -> list[Row]:
    results = {point: trained(work, point) for point in points()}
    results = {point: runs for point, runs in results.items() if runs}
    image = torch.randn(1, 3, 32, 32, generator=stream(0, "image"))
    candidates = {point: call(network(work, point), image) for point in results}
    dense = fbconv.densify(network(work, ("dense", "spatial", 0.0)))
    for name, layout in FORMATS.items():
        laid_out = copy.deepcopy(dense).to(memory_format=layout)
        candidates[name] = call(laid_out, image.contiguous(memory_format=layout))
    timings = interleaved_medians(candidates, rounds)
    reference = min(timings[name].seconds for name in FORMATS)
    return [row(point, runs, timings[point].seconds, reference) for point, runs in results.items()]


def call(model: nn.Module, image: Tensor) -> Candidate:
    return Candidate(torch.no_grad()(partial(model, image)))


def row(point: Point, runs: Sequence[dict[str, object]], seconds: float, reference: float) -> Row:
    return {
        **dict(zip(("method", "space", "sparsity"), point, strict=True)), "seeds": len(runs), **accuracies(runs),
        "ms": 1e3 * seconds, "speed_up": reference / seconds,
    }  # fmt: skip


def table(rows: Sequence[Row]) -> Table:
    shown = Table("method", "space", "sparsity", title="VGG-7 on CIFAR-10, one image, against dense torch")
    for column in ("test accuracy in %", "ms", "speed-up"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(row["method"], row["space"], f"{row['sparsity']:g}", cell(row), f"{row['ms']:.3f}",
                      f"{row['speed_up']:.2f}x")  # fmt: skip
    return shown


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    figure = figure_of(width=8.5, height=5)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots()
    for method, marker in MARKERS.items():
        for space, (colour, dash, _) in LOOKS.items():
            own = [row for row in rows if (row["method"], row["space"]) == (method, space)]
            places = [row["speed_up"] for row in own], [100 * row["mean"] for row in own]
            axes.plot(*places, color=colour, linestyle=dash, marker=marker, label=f"{method}, {space}")
    for space, (colour, dash, _) in LOOKS.items():
        dense = next(row for row in rows if (row["method"], row["space"]) == ("dense", space))
        axes.axhline(100 * dense["mean"], color=colour, linestyle=dash, linewidth=1, alpha=0.6, label=f"dense, {space}")
    axes.set_xlabel("speed-up over dense torch, one image, one thread")
    axes.set_ylabel("test accuracy in %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    about = environment()
    rows = run(options.work, options.rounds)
    Console().print(table(rows))
    write_json(options.out / "accuracy_speed.json", {"environment": about, "rows": rows})
    title = f"VGG-7 on CIFAR-10, {min(row['seeds'] for row in rows)} seeds, {about['processor']}"
    plot(rows, options.out / "accuracy_speed.png", title)


if __name__ == "__main__":
    main()
