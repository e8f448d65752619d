"""How well "auto" chooses: random layers, forward and training step, against torch's dense layer and fixed backends.

    python bench/bench_planner.py --layers 200 --out bench/results

The layers are 1x1, 3x3 and 5x5, strided, grouped and depthwise, with odd channel counts, at sparsities from 0 to .999.
For each, torch's dense layer (contiguous, as the input is), "auto" and both fixed backends are timed interleaved, after
a first call that makes all plans. Prints the worst layers and writes planner.json and planner.png.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import fbconv
import fbconv.functional as F
from fbconv.benchmark.allocator import keep_freed_memory
from fbconv.benchmark.shapes import Layer
from fbconv.benchmark.timing import ROUNDS, Candidate, interleaved_medians
from fbconv.experiment import environment, replacing, write_json

BACKENDS = ("auto", "sparse", "dense")
SPARSITIES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
CHANNELS = (3, 16, 24, 48, 64, 67, 96, 128, 131, 256, 384, 512)
SIZES = (4, 7, 8, 14, 16, 28, 32, 56)
LARGEST = 1.5e9  # dense multiply-adds of a layer: about 20 ms


def draw(generator: random.Random) -> tuple[Layer, int, float]:
    """A layer, a batch and a sparsity that a benchmark can afford."""
    while True:
        inputs, outputs = generator.choice(CHANNELS), generator.choice(CHANNELS)
        groups = 1
        if generator.random() < 0.2:
            inputs = outputs = generator.choice([c for c in CHANNELS if c % 4 == 0])
            groups = generator.choice([2, 4, inputs])
        kernel, stride = generator.choice((1, 3, 3, 5)), generator.choice((1, 1, 2))
        layer = Layer("", inputs, outputs, generator.choice(SIZES), kernel, stride, groups)
        batch = generator.choice((1, 2, 8, 16, 32, 64))
        multiplies = batch * outputs * inputs // groups * kernel**2 * layer.out_size**2
        if multiplies <= LARGEST:
            return layer, batch, generator.choice(SPARSITIES)


def measure(layer: Layer, batch: int, sparsity: float, step: bool, rounds: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(layer.input_shape(batch), generator=generator).requires_grad_(step)
    mask = torch.rand(layer.weight_shape, generator=generator) >= sparsity
    weight = torch.randn(layer.weight_shape, generator=generator) * mask
    pattern = fbconv.SparsePattern.from_mask(mask)
    values = pattern.gather(weight).requires_grad_(step)
    weight.requires_grad_(step)
    geometry = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}

    def ours(backend: str) -> Tensor:
        return F.sparse_conv2d(input, values, pattern, backend=backend, **geometry)

    calls = {backend: lambda backend=backend: ours(backend) for backend in BACKENDS}
    calls["torch"] = lambda: torch.conv2d(input, weight, **geometry)
    if step:
        upstream = torch.randn(layer.output_shape(batch), generator=generator)
        calls = {name: lambda call=call: call().backward(upstream) for name, call in calls.items()}
    candidates = {name: Candidate(call) for name, call in calls.items()}
    with torch.set_grad_enabled(step):
        return {name: timing.seconds for name, timing in interleaved_medians(candidates, rounds).items()}


def run(layers: int, rounds: int) -> list[dict[str, object]]:
    generator = random.Random(0)
    rows = []
    for _ in track(range(layers), "layers", console=Console(stderr=True)):
        layer, batch, sparsity = draw(generator)
        for direction in ("forward", "step"):
            seconds = measure(layer, batch, sparsity, direction == "step", rounds)
            shape = f"{layer.in_channels}-{layer.out_channels} {layer.kernel}x{layer.kernel}"
            rows.append({
                "layer": f"{shape} on {layer.size}, stride {layer.stride}, groups {layer.groups}, batch {batch}",
                "sparsity": sparsity, "direction": direction, "seconds": seconds,
                "against_dense": seconds["torch"] / seconds["auto"],
                "against_best": min(seconds["sparse"], seconds["dense"]) / seconds["auto"],
            })  # fmt: skip
    return rows


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    found = {}
    for direction in ("forward", "step"):
        chosen = [row for row in rows if row["direction"] == direction]
        for key, least in (("against_dense", 0.95), ("against_best", 0.9)):
            ratios = np.array([row[key] for row in chosen])
            found[f"{direction} {key}"] = {
                "geometric_mean": float(np.exp(np.log(ratios).mean())), "least": float(ratios.min()),
                "fifth_percentile": float(np.percentile(ratios, 5)),
                "share_below": {str(least): float((ratios < least).mean())},
            }  # fmt: skip
    return found


def plot(rows: list[dict[str, object]], path: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, key, title in zip(
        figure.subplots(1, 2), ("against_dense", "against_best"), ("torch's dense / auto", "best backend / auto"),
        strict=True,
    ):  # fmt: skip
        for direction in ("forward", "step"):
            ratios = np.sort([row[key] for row in rows if row["direction"] == direction])
            axes.plot(np.linspace(0, 1, len(ratios)), ratios, label=direction)
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set(title=title, xlabel="share of layers", ylabel="time ratio (higher = auto faster)", yscale="log")
        axes.legend()
    figure.savefig(path, dpi=120, format="png")


def table(rows: list[dict[str, object]]) -> Table:
    shown = Table("layer", "sparsity", "pass", "dense / auto", "best / auto", title="slowest against dense")
    for row in sorted(rows, key=lambda row: row["against_dense"])[:10]:
        ratios = (f"{row[key]:.2f}" for key in ("against_dense", "against_best"))
        shown.add_row(row["layer"], str(row["sparsity"]), row["direction"], *ratios)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    about = environment()
    rows = run(args.layers, args.rounds)
    found = summary(rows)
    console = Console()
    console.print(table(rows))
    for name, figures in found.items():
        console.print(name, figures)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "planner.json", {"environment": about, "summary": found, "rows": rows})
    with replacing(args.out / "planner.png") as temporary:
        plot(rows, temporary)


if __name__ == "__main__":
    main()
