"""What freezing saves in training: time of the backward pass and of a step, and memory, for whole networks.

    python bench/bench_freezing.py --threads 1 --out bench/results

LeNet-5, VGG-16 and ResNet-18 on random images, with the weights that SNIP keeps of one batch trained and all others
frozen as initialised: by ``fbconv.freeze`` with ``backend="auto"`` and "sparse", and the naive way, where a dense
network's gradients are multiplied by bool masks after each backward pass, which counts as part of it. Beside them stand
dense training and, for context, the network pruned by the same masks (at high sparsities SNIP leaves layers without any
weight; then the pruned network is no longer one that learns). Each way to run has the memory format in which its steps
are faster, masked networks that of dense ones; neither of these depends on the sparsity. The optimizer is SGD with
momentum, without weight decay, which would move frozen weights the naive way.

Times: all of a network's candidates interleaved, medians. Before, each network of ours must be as close to its
densified one in float64 as that is in float32. Memory: parameters, gradients, momentum and buffers (frozen weights,
patterns, masks) as their tensors say, and by how much resident memory rises at most during the first two steps of a
fresh process; in the first there is no momentum yet. Prints a table and writes freezing.json and freezing.png.
``--quick`` takes LeNet-5, one sparsity and few rounds: under a minute.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from bench_networks import LEARNING_RATE, Batch, backends, check
from memory import scratch_bytes
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import fbconv
from fbconv.benchmark.allocator import keep_freed_memory
from fbconv.benchmark.candidates import FORMATS
from fbconv.benchmark.plot import place, speed_up_axes
from fbconv.benchmark.table import print_whole
from fbconv.benchmark.timing import ROUNDS, Candidate, interleaved_medians
from fbconv.experiment import environment, stream, write_json
from fbconv.models import build
from fbconv.nn.compressed import compressed_layers
from fbconv.plots import figure_of, save_figure
from fbconv.train import MOMENTUM

SPARSITIES = (0.9, 0.99, 0.999)
QUICK = {"networks": ("lenet5",), "sparsity": (0.99,), "rounds": 3}
LAYOUT_ROUNDS = 3
MASKED = "gradient masking"
OURS = {  # how a network is made of a dense one and masks, and its backend
    "frozen, sparse": (fbconv.freeze, "sparse"),
    "frozen, auto": (fbconv.freeze, "auto"),
    "pruned, auto": (fbconv.sparsify, "auto"),
}
COLOURS = {"dense": "0.35", MASKED: "#E69F00", "frozen, auto": "#009E73", "frozen, sparse": "#0072B2",
           "pruned, auto": "#CC79A7"}  # fmt: skip
SPEED_UPS = {"backward": ("-", "o"), "step": (":", "s")}
MEMORY = {"stored": ("-", "o"), "peak": (":", "s")}

Row = dict[str, object]


class Images(NamedTuple):
    """What a network is trained on."""

    channels: int
    size: int
    batch: int


NETWORKS = {"lenet5": Images(1, 28, 100), "vgg16": Images(3, 32, 32), "resnet18": Images(3, 32, 32)}


class Case(NamedTuple):
    """What is measured; dense and masked networks have the sparsity of the mask or None."""

    network: str
    runs: str
    sparsity: float | None


class Step:
    """A training step that notes how long its backward pass, gradient masking included, takes.

    Args:
        network: in training mode.
        batch: images and labels.
        masks: of the weights whose gradients are masked, by name.
    """

    def __init__(self, network: nn.Module, batch: Batch, masks: Mapping[str, Tensor]) -> None:
        self.network = network
        self.batch = batch
        self.masked = [(weight, laid_out_like(weight, masks[name]))
                       for name, weight in network.named_parameters() if name in masks]  # fmt: skip
        self.optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM)
        self.backward_seconds: list[float] = []

    def __call__(self) -> Tensor:
        images, labels = self.batch
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.network(images), labels)
        start = time.perf_counter()
        loss.backward()
        for weight, mask in self.masked:
            weight.grad.mul_(mask)
        self.backward_seconds.append(time.perf_counter() - start)
        self.optimizer.step()
        return loss.detach()

    def stored_bytes(self) -> dict[str, int]:
        """What stays from step to step, by kind, once a step has been made."""
        parameters = list(self.network.parameters())
        kinds = {
            "parameters": parameters,
            "gradients": [parameter.grad for parameter in parameters],
            "momentum": [state["momentum_buffer"] for state in self.optimizer.state.values()],
            "buffers": [*self.network.buffers(), *(mask for _, mask in self.masked)],
        }
        return {kind: sum(tensor.nbytes for tensor in tensors) for kind, tensors in kinds.items()}


def laid_out_like(weight: Tensor, mask: Tensor) -> Tensor:
    return torch.empty_like(weight, dtype=torch.bool).copy_(mask)


def dense_network(name: str) -> nn.Module:
    images = NETWORKS[name]
    return build(name, in_channels=images.channels, image_size=images.size)


def random_batch(name: str) -> Batch:
    channels, size, batch = NETWORKS[name]
    generator = stream(0, "images")
    return torch.randn(batch, channels, size, size, generator=generator), torch.randint(
        10, (batch,), generator=generator
    )


@cache
def snip_masks(name: str, sparsity: float) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fbconv.LayerCollapseWarning)  # rows say how many layers are empty
        return fbconv.prune_masks(dense_network(name), "snip", sparsity, 1, batches=[random_batch(name)])


def make_step(case: Case, layout: str) -> Step:
    """The same in every process."""
    network, (images, labels) = dense_network(case.network), random_batch(case.network)
    masks = {} if case.sparsity is None else snip_masks(case.network, case.sparsity)
    if case.runs in OURS:
        network, masks = converted(network, masks, case.runs), {}
    laid_out = images.contiguous(memory_format=FORMATS[layout]), labels
    return Step(network.to(memory_format=FORMATS[layout]), laid_out, masks)


def converted(network: nn.Module, masks: Mapping[str, Tensor], runs: str) -> nn.Module:
    convert, backend = OURS[runs]
    network = convert(network, masks)
    for layer in compressed_layers(network).values():
        layer.backend = backend
    return network


def cases(name: str, sparsities: Sequence[float]) -> list[Case]:
    ours = [Case(name, runs, sparsity) for sparsity in sparsities for runs in OURS]
    return [Case(name, "dense", None), Case(name, MASKED, sparsities[0]), *ours]


def faster_layout(case: Case) -> str:
    steps = {layout: Candidate(make_step(case, layout)) for layout in FORMATS}
    timings = interleaved_medians(steps, LAYOUT_ROUNDS)
    return min(timings, key=lambda layout: timings[layout].seconds)


def faster_layouts(name: str, sparsity: float) -> dict[str, str]:
    """By way to run, found at one sparsity."""
    layouts = {runs: faster_layout(Case(name, runs, sparsity)) for runs in OURS}
    dense = faster_layout(Case(name, "dense", None))
    return layouts | {"dense": dense, MASKED: dense}


def measure_times(name: str, sparsities: Sequence[float], layouts: Mapping[str, str], rounds: int) -> Iterator[Row]:
    steps = {case: make_step(case, layouts[case.runs]) for case in cases(name, sparsities)}
    ours = {case: step.network for case, step in steps.items() if case.runs in OURS}
    for case, network in ours.items():
        check(f"{name}, {case.runs}, {case.sparsity:g}", network, network, random_batch(name)[0])
    timings = interleaved_medians({case: Candidate(step) for case, step in steps.items()}, rounds)
    # Of two calls in a turn the second is timed: of backward passes, as of steps.
    seconds = {case: {"backward": statistics.median(step.backward_seconds[1::2][-rounds:]),
                      "step": timings[case].seconds} for case, step in steps.items()}  # fmt: skip
    dense = seconds[Case(name, "dense", None)]
    for case, step in steps.items():
        images = step.batch[0]
        decided = OURS.get(case.runs, (None, None))[1] == "auto"
        row: Row = {
            "network": name,
            "batch": len(images),
            "runs": case.runs,
            "sparsity": case.sparsity if case in ours else None,
            "layout": layouts[case.runs],
        }
        for part, taken in seconds[case].items():
            row |= {f"{part}_ms": 1e3 * taken, f"{part}_speed_up": dense[part] / taken}
        kept = [int(mask.sum()) for mask in snip_masks(name, case.sparsity).values()] if case in ours else None
        yield row | {"rounds": rounds, "trained_weights": kept and sum(kept), "empty_layers": kept and kept.count(0),
                     "backends": backends(step.network, images) if decided else None,
                     "stored_bytes": step.stored_bytes()}  # fmt: skip


def two_steps(step: Step) -> Tensor:
    step()
    return step()


def prepare_steps(case: Case, layout: str, threads: int) -> Candidate:
    """Two steps in a process that has trained the dense network: what torch keeps for layers of these shapes is there
    for all, what is kept for patterns is not."""
    torch.set_num_threads(threads)
    two_steps(make_step(Case(case.network, "dense", None), layout))
    return Candidate(partial(two_steps, make_step(case, layout)))


def measure(name: str, sparsities: Sequence[float], rounds: int, threads: int, console: Console) -> list[Row]:
    console.print(f"{name}: times", style="dim")
    layouts = faster_layouts(name, sparsities[len(sparsities) // 2])
    rows = list(measure_times(name, sparsities, layouts, rounds))
    for row, case in track(list(zip(rows, cases(name, sparsities), strict=True)), f"{name}: memory", console=console):
        row["rise_bytes"] = scratch_bytes(partial(prepare_steps, case, row["layout"], threads))
    return rows


def sizes(row: Row) -> dict[str, float]:
    """MB kept from step to step, and MB at the peak of a step: what is there before the first, and the rise."""
    stored = row["stored_bytes"]
    peak = stored["parameters"] + stored["buffers"] + row["rise_bytes"]
    return {"stored": sum(stored.values()) / 1e6, "peak": peak / 1e6}


def table(rows: Sequence[Row]) -> Table:
    shown = Table("network", "runs", "sparsity", title="Training of frozen networks against dense torch")
    for column in ("trained weights", "backward ms", "speed-up", "step ms", "speed-up", "stored MB", "peak MB"):
        shown.add_column(column, justify="right")
    for row in rows:
        ours = row["sparsity"] is not None
        times = (cell for part in SPEED_UPS for cell in (f"{row[f'{part}_ms']:.3g}", f"{row[f'{part}_speed_up']:.2f}x"))
        shown.add_row(row["network"], row["runs"], f"{row['sparsity']:g}" if ours else "",
                      f"{row['trained_weights']:,}" if ours else "", *times,
                      *(f"{size:.3g}" for size in sizes(row).values()))  # fmt: skip
    return shown


def plot(rows: Sequence[Row], about: Mapping[str, object], path: Path) -> None:
    names = list(dict.fromkeys(row["network"] for row in rows))
    figure = figure_of(width=2.5 + 4.5 * len(names), height=8.5)
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    figure.suptitle(f"Training of frozen networks, {threads} of {about['processor']}")
    for name, (above, below) in zip(names, figure.subplots(2, len(names), squeeze=False).T, strict=True):
        mine = [row for row in rows if row["network"] == name]
        images = NETWORKS[name]
        above.set_title(f"{name}, {images.channels} x {images.size} x {images.size}, batch {mine[0]['batch']}")
        speed_up_panel(above, mine)
        memory_panel(below, mine)
    for axes in (above, below):
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)


def speed_up_panel(axes, rows: Sequence[Row]) -> None:
    others = [row for row in rows if row["runs"] != "dense"]
    draw(axes, others, SPEED_UPS, lambda row, part: row[f"{part}_speed_up"])
    speed_up_axes(axes, sparsities_of(rows), [row[f"{part}_speed_up"] for row in others for part in SPEED_UPS])


def memory_panel(axes, rows: Sequence[Row]) -> None:
    draw(axes, rows, MEMORY, lambda row, kind: sizes(row)[kind])
    ticks = sparsities_of(rows)
    axes.set_xticks([place(q) for q in ticks], [f"{q:g}" for q in ticks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("sparsity")
    axes.set_ylabel("MB")
    axes.grid(alpha=0.3)


def draw(axes, rows: Sequence[Row], styles: Mapping[str, tuple], value: Callable[[Row, str], float]) -> None:
    """A line over sparsity for each way to run and each quantity; level where the sparsity does not matter."""
    for runs in dict.fromkeys(row["runs"] for row in rows):
        points = [row for row in rows if row["runs"] == runs]
        for quantity, (dash, marker) in styles.items():
            look = {"color": COLOURS[runs], "linestyle": dash, "label": f"{runs}: {quantity}"}
            heights = [value(row, quantity) for row in points]
            if runs in OURS:
                # Where "auto" takes "sparse" everywhere, its points lie within these.
                size = 9 if runs == "frozen, sparse" else 4
                axes.plot([place(row["sparsity"]) for row in points], heights, marker=marker, markersize=size, **look)
            else:
                axes.axhline(heights[0], **look)


def sparsities_of(rows: Sequence[Row]) -> list[float]:
    return sorted({row["sparsity"] for row in rows} - {None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=lambda text: tuple(map(float, text.split(","))), default=SPARSITIES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.set_defaults(networks=tuple(NETWORKS))
    args = parser.parse_args()
    if args.quick:
        vars(args).update(QUICK)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    about, console = environment(), Console(stderr=True)
    rows = [row for name in args.networks for row in measure(name, args.sparsity, args.rounds, args.threads, console)]
    print_whole(table(rows))
    settings = {"score": "snip", "score_batches": 1, "momentum": MOMENTUM, "sparsities": args.sparsity}
    write_json(args.out / "freezing.json", {"environment": about, "settings": settings, "rows": rows})
    plot(rows, about, args.out / "freezing.png")


if __name__ == "__main__":
    main()
