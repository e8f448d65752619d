"""Whole networks: VGG-16 on images of CIFAR's size, pruned, in the interspace and frozen, against torch's dense one.

    python bench/bench_networks.py --threads 1 --out bench/results

Masks come from SynFlow in rounds; filter bases count as weights, so that all networks of a sparsity train equally many.
Inference is one image in evaluation mode, a training step is 32 of them forward and backward and the optimizer's step.
Layers run by ``backend="auto"``. Dense is the unpruned network in both memory formats; the faster one counts. Beside
inference stands the interspace pruning paper's way: scipy's CSR matrices times columns, on one thread. Before anything
is timed, each network must be as close to its densified one in float64 as that is in float32. Prints a table and writes
networks.json and networks.png. ``--quick`` takes one sparsity, few rounds of scoring and timing: under a minute.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fbconv
from fbconv._plans import recorded_decisions
from fbconv.benchmark.allocator import keep_freed_memory
from fbconv.benchmark.candidates import FORMATS
from fbconv.benchmark.peer_network import scipy_network
from fbconv.benchmark.plot import place, speed_up_axes
from fbconv.benchmark.table import print_whole
from fbconv.benchmark.timing import ROUNDS, Candidate, interleaved_medians
from fbconv.data import DataSet, Split
from fbconv.experiment import Config, environment, stream, write_json
from fbconv.nn import FilterBasis
from fbconv.nn.compressed import compressed_layers
from fbconv.plots import figure_of, save_figure
from fbconv.train import Prepared, make_optimizer, prepare

MODEL = "vgg16"
SPARSITIES = (0.9, 0.95, 0.986, 0.99)
QUICK = {"sparsity": (0.986,), "rounds": 3, "score_rounds": 4}
SCORE_ROUNDS = 100
BATCHES = {"inference": 1, "step": 32}
TITLES = {"inference": "inference", "step": "training step"}
LEARNING_RATE = 0.01
PAPER = (0.986, 5.2)  # Wimmer et al. 2022: VGG-16, interspace, scipy, one core, batch 1
ROUNDING = 10  # times as far from the exact output as torch's dense float32 network may be
STYLES = {
    ("spatial", "fbconv"): ("#0072B2", "-", "o"),
    ("interspace", "fbconv"): ("#D55E00", "--", "s"),
    ("frozen", "fbconv"): ("#009E73", "-.", "^"),
    ("spatial", "scipy"): ("#56B4E9", ":", "v"),
    ("interspace", "scipy"): ("#E69F00", ":", "D"),
}

Batch = tuple[Tensor, Tensor]
Row = dict[str, object]
Measure = Callable[[Mapping[str, Prepared], Batch, str, int], list[Row]]  # networks, batch, pass, rounds


def noise() -> DataSet:
    """Random images of CIFAR-10's shape: neither SynFlow nor a clock looks at the picture."""
    generator = stream(0, "images")
    images = torch.randint(256, (max(BATCHES.values()), 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.randint(10, (len(images),), generator=generator))
    mean, std = (torch.full((3, 1, 1), value) for value in (127.5, 74.0))
    return DataSet("noise", 10, False, split, split, split, mean, std)


def networks(model: str, sparsity: float, score_rounds: int, data: DataSet) -> dict[str, Prepared]:
    """By name, with batch-norm statistics of the data."""
    config = Config(data="cifar10", model=model, score="synflow", rounds=score_rounds, sparsity=sparsity)
    dense = prepare(replace(config, mode="dense"), data)
    spatial = prepare(config, data)
    interspace = prepare(replace(config, space="interspace"), data)
    masks = {f"{name}.weight": layer.pattern.mask() for name, layer in compressed_layers(spatial.model).items()}
    frozen = replace(dense, model=fbconv.freeze(dense.model, masks))
    for module in interspace.model.modules():
        if isinstance(module, FilterBasis):  # a trained basis has no zeros, the standard one little else
            nn.init.orthogonal_(module.elements, generator=stream(0, "bases"))
    made = {"dense": dense, "spatial": spatial, "interspace": interspace, "frozen": frozen}
    images, _ = next(data.training_batches(len(data.train), stream(0, "order")))
    for prepared in made.values():
        calibrate(prepared.model, images)
    return made


@torch.no_grad()
def calibrate(network: nn.Module, images: Tensor) -> None:
    """Batch-norm statistics of these images: with those of a new network, pruned activations fade layer by layer."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None  # plain averages
    network.train()(images)


def contenders(made: Mapping[str, Prepared], images: Tensor, training: bool) -> dict[tuple[str, str], nn.Module]:
    """(network, what runs it) -> module, in the mode of the pass and checked."""
    dense = made["dense"].model.train(training)
    found = {("dense", name): copy.deepcopy(dense).to(memory_format=layout) for name, layout in FORMATS.items()}
    for name in ("spatial", "interspace", "frozen") if training else ("spatial", "interspace"):
        network = found[name, "fbconv"] = made[name].model.train(training)
        check(f"{name} by fbconv", network, network, images)
        if not training:
            found[name, "scipy"] = scipy_network(network).eval()
            check(f"{name} by scipy", found[name, "scipy"], network, images)
    return found


def check(name: str, network: nn.Module, compressed: nn.Module, images: Tensor) -> None:
    """Raises unless a network computes, up to rounding, what a compressed one means."""
    dense = fbconv.densify(compressed)
    exact = copy.deepcopy(dense).double()(images.double())
    with torch.set_grad_enabled(network.training):  # "auto" may take another backend without gradients
        outputs = network(images), dense(images)
    error, rounding = (float((output - exact).detach().abs().max()) for output in outputs)
    if not error <= ROUNDING * rounding:
        raise AssertionError(f"{name}: output is {error:.2g} from the exact one, torch's dense only {rounding:.2g}")


def inference(network: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    return torch.no_grad()(partial(network, batch[0]))


def training_step(network: nn.Module, batch: Batch) -> Callable[[], None]:
    optimizer = make_optimizer(network, LEARNING_RATE)
    images, labels = batch

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def measure(made: Mapping[str, Prepared], batch: Batch, direction: str, rounds: int) -> list[Row]:
    """Rows of one sparsity and pass, all contenders interleaved."""
    images, labels = batch
    modules = contenders(made, images, direction != "inference")
    prepare_call = inference if direction == "inference" else training_step
    laid_out = {layout: images.contiguous(memory_format=layout) for layout in FORMATS.values()}
    candidates = {
        (name, by): Candidate(prepare_call(module, (laid_out[FORMATS.get(by, torch.contiguous_format)], labels)))
        for (name, by), module in modules.items()
    }
    chosen = {key: backends(module, images) for key, module in modules.items() if key[1] == "fbconv"}
    timings = interleaved_medians(candidates, rounds)
    dense = min(timings["dense", layout].seconds for layout in FORMATS)
    return [{
        "pass": direction, "batch": len(images), "network": name, "by": by,
        "trained_weights": made[name].trained_weights, "ms": 1e3 * timing.seconds, "rounds": timing.rounds,
        "speed_up": dense / timing.seconds, "backends": chosen.get((name, by)),
    } for (name, by), timing in timings.items()]  # fmt: skip


def backends(network: nn.Module, images: Tensor) -> dict[str, str]:
    """What "auto" takes for each layer, with gradients if the network is in training mode."""
    with torch.set_grad_enabled(network.training), recorded_decisions() as decisions:
        network(images)
    return {name: decision.backend for name, decision in zip(compressed_layers(network), decisions, strict=True)}


def run(
    sparsities: Sequence[float], score_rounds: int, rounds: int, console: Console, measure: Measure, model: str
) -> list[Row]:
    """Rows of all sparsities and passes."""
    data = noise()
    images, labels = next(data.training_batches(len(data.train), stream(0, "order")))
    rows = []
    for sparsity in sparsities:
        console.print(f"sparsity {sparsity:g}: {score_rounds} rounds of SynFlow in both spaces", style="dim")
        made = networks(model, sparsity, score_rounds, data)
        for direction, size in BATCHES.items():
            found = measure(made, (images[:size], labels[:size]), direction, rounds)
            rows += [{"sparsity": sparsity} | row for row in found]
    return rows


def table(rows: Sequence[Row]) -> Table:
    shown = Table("sparsity", "pass", "network", "by", title=f"{MODEL}: speed-up over dense torch")
    for column in ("trained weights", "ms", "speed-up"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(f"{row['sparsity']:g}", row["pass"], row["network"], row["by"], f"{row['trained_weights']:,}",
                      f"{row['ms']:.3g}", f"{row['speed_up']:.2f}x")  # fmt: skip
    return shown


def plot(rows: Sequence[Row], about: Mapping[str, object], path: Path, panel: Callable[..., None], model: str) -> None:
    """A panel for each pass."""
    figure = figure_of(width=11, height=4.8)
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    figure.suptitle(f"{model}, 3 x 32 x 32, {threads} of {about['processor']}")
    for axes, (direction, batch) in zip(figure.subplots(1, 2), BATCHES.items(), strict=True):
        panel(axes, [row for row in rows if row["pass"] == direction])
        axes.set_title(f"{TITLES[direction]}, batch {batch}")
    save_figure(figure, path)


def panel(axes, rows: Sequence[Row]) -> None:
    rows = [row for row in rows if (row["network"], row["by"]) in STYLES]
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        lines.setdefault((row["network"], row["by"]), []).append((place(row["sparsity"]), row["speed_up"]))
    for key, points in lines.items():
        colour, dash, marker = STYLES[key]
        label = ", ".join(key)
        axes.plot(*zip(*sorted(points), strict=True), color=colour, linestyle=dash, marker=marker, label=label)
    sparsities, ratios = ([row[name] for row in rows] for name in ("sparsity", "speed_up"))
    if ("interspace", "scipy") in lines:
        sparsity, ratio = PAPER
        axes.plot(place(sparsity), ratio, "*", markersize=14, color="black")
        axes.annotate(f"the paper: {ratio:g}x\n(interspace, scipy)", (place(sparsity), ratio), (-9, 0),
                      textcoords="offset points", ha="right", va="center", fontsize=9,
                      bbox={"color": "white", "alpha": 0.8, "pad": 1})  # fmt: skip
        sparsities, ratios = [*sparsities, sparsity], [*ratios, ratio]
    speed_up_axes(axes, sparsities, ratios)
    axes.legend(fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=lambda text: tuple(map(float, text.split(","))), default=SPARSITIES)
    parser.add_argument("--score-rounds", type=int, default=SCORE_ROUNDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    if args.quick:
        vars(args).update(QUICK)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    about, console = environment(), Console()
    rows = run(args.sparsity, args.score_rounds, args.rounds, console, measure, MODEL)
    print_whole(table(rows))
    settings = {"model": MODEL, "sparsities": args.sparsity, "score": "synflow", "score_rounds": args.score_rounds}
    content = {"environment": about, "settings": settings, "paper": {"sparsity": PAPER[0], "speed_up": PAPER[1]}}
    write_json(args.out / "networks.json", content | {"rows": rows})
    plot(rows, about, args.out / "networks.png", panel, MODEL)


if __name__ == "__main__":
    main()
