"""The command line: every command has an example in its help, and prints nothing but JSON on request.

Exit codes: 0 done, 2 wrong usage, 1 any other error.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from . import bench_command, cops_command, info_command, pack_command, score_command, unpack_command
from . import train as training
from .data import DATA_SETS
from .densities import DISTRIBUTIONS
from .experiment import BACKENDS, DYNAMICS, MODES, SPACES, Config, environment, write_json
from .initialisation import INITS
from .models import MODELS
from .plots import plot_comparison
from .scores import SCORES

app = typer.Typer(
    help="Sparse, frozen and interspace convolutions: train networks on a fraction of their weights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# What `reproduce` compares: label -> options that differ from its common ones.
_RUNS = {
    "dense": {"mode": "dense"},
    "SNIP": {"mode": "prune"},
    "FreezeNet": {"mode": "freeze"},
    "interspace SNIP": {"mode": "prune", "space": "interspace"},
}


class _Reproduction(StrEnum):
    digits = "digits"
    mnist = "mnist"


# Few images need small batches to make enough steps.
_SETUPS = {
    _Reproduction.digits: {"epochs": 20, "batch_size": 32},
    _Reproduction.mnist: {"epochs": 5, "batch_size": 100},
}

_JSON = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]
_DATA_DIR = Annotated[str, typer.Option(help="Folder of the data files (digits need none).")]
_SEED = Annotated[int, typer.Option(help="Of weights, split, scoring batch and order of the data.")]
_DEVICE = Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda, cuda:1, ...")]
_BACKEND = Annotated[str, typer.Option(help=f"Of compressed modules: {', '.join(BACKENDS)}.")]


def main() -> None:
    """Entry point of the ``fbconv`` command."""
    try:
        app(prog_name="fbconv")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"fbconv: {error}", file=sys.stderr)
        sys.exit(1)


@app.command(
    epilog="Example: fbconv train --data mnist --data-dir data --space interspace --mode prune --score snip "
    "--sparsity .99 --epochs 5 --out runs/interspace"
)
def train(
    context: typer.Context,
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATA_SETS)}.")] = Config.data,
    data_dir: _DATA_DIR = Config.data_dir,
    model: Annotated[str, typer.Option(help=f"Network: {', '.join(MODELS)}.")] = Config.model,
    space: Annotated[
        str, typer.Option(help=f"{' or '.join(SPACES)}: plain filters, or coefficients of trained filter bases.")
    ] = Config.space,
    sharing: Annotated[
        str, typer.Option(help="Who shares a filter basis: coarse (all), medium, fine (nobody), in:N or out:N.")
    ] = Config.sharing,
    mode: Annotated[
        str, typer.Option(help=f"{', '.join(MODES)}: what happens to the weights that are not kept.")
    ] = Config.mode,
    score: Annotated[str, typer.Option(help=f"Which weights to keep: {', '.join(SCORES)}.")] = Config.score,
    control: Annotated[
        str | None, typer.Option(help="A second score that the mask must be good for too (COPS).")
    ] = Config.control,
    alpha: Annotated[
        float, typer.Option(help="Balance in [0, 1): 0 turns the control off, near 1 it alone decides.")
    ] = Config.alpha,
    combine: Annotated[
        str, typer.Option(help="How score and control make one mask: cops, or their naive linear mix.")
    ] = Config.combine,
    rounds: Annotated[
        int,
        typer.Option(help="Rounds of scoring and pruning before training (100 for synflow); of training, with lth."),
    ] = Config.rounds,
    sparsity: Annotated[float, typer.Option(help="Share of weights not to train, in [0, 1].")] = Config.sparsity,
    distribution: Annotated[
        str | None,
        typer.Option(help=f"Density of the layers: {', '.join(DISTRIBUTIONS)}; by default all are ranked together."),
    ] = Config.distribution,
    dynamic: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(DYNAMICS)}: masks of the score for good, regrown at random or by gradient, pruned "
            "gradually, of a lottery ticket with rewinding, or of the trained network. Magnitude is the usual score of "
            "lth and ft, random that of set and rigl; gmp needs none."
        ),
    ] = Config.dynamic,
    interval: Annotated[int, typer.Option(help="Steps between two masks of set, rigl and gmp.")] = Config.interval,
    drop_fraction: Annotated[
        float, typer.Option(help="Share of the values that set and rigl replace at first; it falls to 0.")
    ] = Config.drop_fraction,
    rewind: Annotated[int, typer.Option(help="Step that every round of lth starts from.")] = Config.rewind,
    init: Annotated[
        str | None, typer.Option(help=f"Distribution of the weights, by default the model's own: {', '.join(INITS)}.")
    ] = Config.init,
    reinit: Annotated[bool, typer.Option("--reinit", help="Draw new weights once the mask is found.")] = Config.reinit,
    frozen_decay: Annotated[
        float, typer.Option(help="Weight decay of frozen weights (FreezeNet-WD); vanished ones are pruned at the end.")
    ] = Config.frozen_decay,
    epochs: Annotated[int, typer.Option(help="Passes over the training split.")] = Config.epochs,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = Config.batch_size,
    lr: Annotated[
        float | None,
        typer.Option(
            help="First learning rate, a tenth of it after half of the epochs, a hundredth after three quarters. "
            f"By default the model's own: {', '.join(f'{name} {known.lr:g}' for name, known in MODELS.items())}."
        ),
    ] = Config.lr,
    seed: _SEED = Config.seed,
    device: _DEVICE = Config.device,
    backend: _BACKEND = Config.backend,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; by default one named after the options in runs/.")
    ] = None,
    as_json: _JSON = False,
) -> None:
    """Train a network dense, pruned or frozen, and report its best validation epoch on the test set.

    Writes result.json, curves.png, model.fbc (the best weights; fbconv info describes it), TensorBoard events and
    last.ckpt. The same command takes up a run that was killed.
    """
    config = _config(**{field.name: context.params[field.name] for field in dataclasses.fields(Config)})
    out = Path("runs") / _folder(config) if out is None else out
    result = _run(config, out, "training", as_json)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    _print_table({config.mode: result}, title=f"{config.model} on {config.data}")
    print(f"results: {out / training.RESULT}\npicture: {out / 'curves.png'}")
    print(f"model: {out / training.MODEL}, {result['file_bytes']:,} bytes")


@app.command(epilog="Example: fbconv reproduce mnist --data-dir data --epochs 5 --out runs/mnist")
def reproduce(
    name: Annotated[_Reproduction, typer.Argument(help="The data set.")],
    data_dir: _DATA_DIR = Config.data_dir,
    epochs: Annotated[int | None, typer.Option(help="By default 20 for digits and 5 for mnist.")] = None,
    seed: _SEED = Config.seed,
    device: _DEVICE = Config.device,
    backend: _BACKEND = Config.backend,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; by default runs/NAME.")] = None,
    as_json: _JSON = False,
) -> None:
    """Compare LeNet-5 trained dense, SNIP-pruned, frozen (FreezeNet) and SNIP-pruned in the interspace, at q = .99.

    All four start from the same weights, and the three sparse runs train the same number of weights, filter bases
    included. Writes comparison.png, comparison.json and a folder for each run.
    """
    common = {"data": name.value, "data_dir": data_dir, "model": "lenet5", "score": "snip", "sparsity": 0.99}
    common |= _SETUPS[name] | {"seed": seed, "device": device, "backend": backend}
    common |= {} if epochs is None else {"epochs": epochs}
    configs = {label: _config(**common, **options) for label, options in _RUNS.items()}
    out = Path("runs") / name.value if out is None else out
    results = {
        label: _run(config, out / label.lower().replace(" ", "-"), label, as_json) for label, config in configs.items()
    }
    summary = {"environment": environment(), "runs": results}
    write_json(out / "comparison.json", summary)
    title = f"LeNet-5 on {name.value}, sparsity .99, {common['epochs']} epochs"
    plot_comparison(results, out / "comparison.png", title)
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    _print_table(results, title)
    print(f"results: {out / 'comparison.json'}\npicture: {out / 'comparison.png'}")


app.command(epilog=score_command.EPILOG)(score_command.score)
app.command(epilog=cops_command.EPILOG)(cops_command.cops)
app.command(epilog=bench_command.EPILOG)(bench_command.bench)
app.command(epilog=pack_command.EPILOG)(pack_command.pack)
app.command(epilog=unpack_command.EPILOG)(unpack_command.unpack)
app.command(epilog=info_command.EPILOG)(info_command.info)


def _config(**options: object) -> Config:
    try:
        return Config(**options)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _folder(config: Config) -> str:
    parts = [config.data, config.model, config.space, config.mode]
    if config.mode != "dense":
        parts += [config.score]
        parts += [config.combine, config.control, f"{config.alpha:g}"] if config.control else []
        parts += [config.dynamic] if config.dynamic != "none" else []
        parts += [f"{config.rounds}rounds"] if config.rounds > 1 else []
        parts += [config.distribution] if config.distribution else []
        parts += [f"{config.sparsity:g}"]
        parts += [config.init] if config.init else []
        parts += ["reinit"] if config.reinit else []
        parts += [f"decay{config.frozen_decay:g}"] if config.frozen_decay else []
    return "-".join([*parts, f"seed{config.seed}"])


def _run(config: Config, out: Path, label: str, quiet: bool) -> dict[str, object]:
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


def _print_table(results: dict[str, dict[str, object]], title: str) -> None:
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
