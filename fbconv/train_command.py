"""``fbconv train``: one network, dense, pruned or frozen, in either space."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from . import train as training
from .data import DATA_SETS
from .densities import DISTRIBUTIONS
from .experiment import BACKENDS, DYNAMICS, META, MODES, SPACES, Config
from .initialisation import INITS
from .models import MODELS
from .scores import SCORES

EPILOG = (
    "Example: fbconv train --data mnist --data-dir data --space interspace --mode prune --score snip "
    "--sparsity .99 --epochs 5 --out runs/interspace"
)

# The parameters of the command, apart from it for the sake of its length.
DataDir = Annotated[str, typer.Option(help="Folder of the data files (digits need none).")]
Seed = Annotated[int, typer.Option(help="Of weights, split, scoring batch and order of the data.")]
Device = Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda, cuda:1, ...")]
Backend = Annotated[str, typer.Option(help=f"Of compressed modules: {', '.join(BACKENDS)}.")]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]
_Data = Annotated[str, typer.Option(help=f"Data set: {', '.join(DATA_SETS)}.")]
_Model = Annotated[str, typer.Option(help=f"Network: {', '.join(MODELS)}.")]
_Space = Annotated[
    str, typer.Option(help=f"{' or '.join(SPACES)}: plain filters, or coefficients of trained filter bases.")
]
_Sharing = Annotated[
    str, typer.Option(help="Who shares a filter basis: coarse (all), medium, fine (nobody), in:N or out:N.")
]
_Mode = Annotated[str, typer.Option(help=f"{', '.join(MODES)}: what happens to the weights that are not kept.")]
_Score = Annotated[
    str, typer.Option(help=f"Which weights to keep: {', '.join(SCORES)}, or a stack of them like snip/magnitude.")
]
_Meta = Annotated[str | None, typer.Option(help="File of a learned score (fbconv meta), called meta then.")]
_Control = Annotated[str | None, typer.Option(help="A second score that the mask must be good for too (COPS).")]
_Alpha = Annotated[float, typer.Option(help="Balance in [0, 1): 0 turns the control off, near 1 it alone decides.")]
_Combine = Annotated[str, typer.Option(help="How score and control make one mask: cops, or their naive linear mix.")]
_Rounds = Annotated[
    int, typer.Option(help="Rounds of scoring and pruning before training (100 for synflow); of training, with lth.")
]
_Shots = Annotated[int, typer.Option(help="Rounds of scoring at each pruning step of lth.")]
_Sparsity = Annotated[float, typer.Option(help="Share of weights not to train, in [0, 1].")]
_Distribution = Annotated[
    str | None,
    typer.Option(help=f"Density of the layers: {', '.join(DISTRIBUTIONS)}; by default all are ranked together."),
]
_Dynamic = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(DYNAMICS)}: masks of the score for good, regrown at random or by gradient, pruned "
        "gradually, of a lottery ticket with rewinding, or of the trained network. Magnitude is the usual score of "
        "lth and ft, random that of set and rigl; gmp needs none."
    ),
]
_Interval = Annotated[int, typer.Option(help="Steps between two masks of set, rigl and gmp.")]
_DropFraction = Annotated[
    float, typer.Option(help="Share of the values that set and rigl replace at first; it falls to 0.")
]
_Rewind = Annotated[int, typer.Option(help="Step that every round of lth starts from.")]
_Init = Annotated[
    str | None, typer.Option(help=f"Distribution of the weights, by default the model's own: {', '.join(INITS)}.")
]
_WeightsFrom = Annotated[
    str | None, typer.Option(help="Start from the weights' signs times this score, scaled to [-1, 1].")
]
_Reinit = Annotated[bool, typer.Option("--reinit", help="Draw new weights once the mask is found.")]
_FrozenDecay = Annotated[
    float, typer.Option(help="Weight decay of frozen weights (FreezeNet-WD); vanished ones are pruned at the end.")
]
_Epochs = Annotated[int, typer.Option(help="Passes over the training split.")]
_Patience = Annotated[
    int, typer.Option(help="End a training after so many epochs without a better validation accuracy; 0: never.")
]
_BatchSize = Annotated[int, typer.Option(help="Images per step.")]
_Rate = Annotated[
    float | None,
    typer.Option(
        help="First learning rate, a tenth of it after half of the epochs, a hundredth after three quarters. "
        f"By default the model's own: {', '.join(f'{name} {known.lr:g}' for name, known in MODELS.items())}."
    ),
]
_Out = Annotated[
    Path | None, typer.Option(help="Folder of the results; by default one named after the options in runs/.")
]


def train(
    context: typer.Context,
    data: _Data = Config.data,
    data_dir: DataDir = Config.data_dir,
    model: _Model = Config.model,
    space: _Space = Config.space,
    sharing: _Sharing = Config.sharing,
    mode: _Mode = Config.mode,
    score: _Score = Config.score,
    meta: _Meta = Config.meta,
    control: _Control = Config.control,
    alpha: _Alpha = Config.alpha,
    combine: _Combine = Config.combine,
    rounds: _Rounds = Config.rounds,
    shots: _Shots = Config.shots,
    sparsity: _Sparsity = Config.sparsity,
    distribution: _Distribution = Config.distribution,
    dynamic: _Dynamic = Config.dynamic,
    interval: _Interval = Config.interval,
    drop_fraction: _DropFraction = Config.drop_fraction,
    rewind: _Rewind = Config.rewind,
    init: _Init = Config.init,
    weights_from: _WeightsFrom = Config.weights_from,
    reinit: _Reinit = Config.reinit,
    frozen_decay: _FrozenDecay = Config.frozen_decay,
    epochs: _Epochs = Config.epochs,
    patience: _Patience = Config.patience,
    batch_size: _BatchSize = Config.batch_size,
    lr: _Rate = Config.lr,
    seed: Seed = Config.seed,
    device: Device = Config.device,
    backend: Backend = Config.backend,
    out: _Out = None,
    as_json: Json = False,
) -> None:
    """Train a network dense, pruned or frozen, and report its best validation epoch on the test set.

    Writes result.json, curves.png, model.fbc (the best weights; fbconv info describes it), TensorBoard events and
    last.ckpt. The same command takes up a run that was killed.
    """
    config = config_of(**{field.name: context.params[field.name] for field in dataclasses.fields(Config)})
    out = Path("runs") / _folder(config) if out is None else out
    result = run(config, out, "training", as_json)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print_results({config.mode: result}, title=f"{config.model} on {config.data}")
    print(f"results: {out / training.RESULT}\npicture: {out / 'curves.png'}")
    print(f"model: {out / training.MODEL}, {result['file_bytes']:,} bytes")


def config_of(**options: object) -> Config:
    """The configuration of these options; one that cannot be is wrong usage."""
    try:
        return Config(**options)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _folder(config: Config) -> str:
    def named(score: str) -> str:
        return score.replace("/", "+").replace(META, Path(config.meta).stem if config.meta else META)

    parts = [config.data, config.model, config.space, config.mode]
    parts += ["from", named(config.weights_from)] if config.weights_from else []
    if config.mode != "dense":
        parts += [named(config.score)]
        parts += [config.combine, named(config.control), f"{config.alpha:g}"] if config.control else []
        parts += [config.dynamic] if config.dynamic != "none" else []
        parts += [f"{config.rounds}rounds"] if config.rounds > 1 else []
        parts += [f"{config.shots}shots"] if config.shots > 1 else []
        parts += [config.distribution] if config.distribution else []
        parts += [f"{config.sparsity:g}"]
        parts += [config.init] if config.init else []
        parts += ["reinit"] if config.reinit else []
        parts += [f"decay{config.frozen_decay:g}"] if config.frozen_decay else []
    return "-".join([*parts, f"seed{config.seed}"])


def run(config: Config, out: Path, label: str, quiet: bool) -> dict[str, object]:
    """Trains behind a progress bar."""
    with _bar(label, quiet) as progress:
        return training.train(config, out, progress)


@contextmanager
def _bar(label: str, quiet: bool) -> Iterator[training.Progress | None]:
    if quiet:
        yield None
        return
    columns = (TextColumn("{task.description:>15}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[figures]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, figures="")

        def advance(done: int, steps: int, entry: dict[str, float] | None) -> None:
            figures = f"validation {100 * entry['validation_accuracy']:.2f} %" if entry else ""
            bar.update(task, completed=done, total=steps, figures=figures)

        yield advance


def print_results(results: Mapping[str, Mapping[str, object]], title: str) -> None:
    """A table of label -> result of a run."""
    table = Table(title=title)
    table.add_column("run", no_wrap=True)
    for column in ("test", "sparsity", "of all parameters", "trained weights", "seconds"):
        table.add_column(column, justify="right")
    for label, result in results.items():
        table.add_row(
            label,
            f"{100 * result['test_accuracy']:.2f} %",
            f"{result['sparsity']:.4f}",
            f"{result['real_sparsity']:.4f}",
            f"{result['trained_weights']:,}",
            f"{result['seconds']:.1f}",
        )
    Console().print(table)
