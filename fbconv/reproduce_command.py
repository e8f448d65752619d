"""``fbconv reproduce``: the same network four ways."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .experiment import Config, environment, write_json
from .plots import plot_comparison
from .train_command import Backend, DataDir, Device, Json, Seed, config_of, print_results, run

EPILOG = "Example: fbconv reproduce mnist --data-dir data --epochs 5 --out runs/mnist"

# What `reproduce` compares: label -> options that differ from its common ones.
_RUNS = {
    "dense": {"mode": "dense"},
    "SNIP": {"mode": "prune"},
    "FreezeNet": {"mode": "freeze"},
    "interspace SNIP": {"mode": "prune", "space": "interspace"},
}


class Reproduction(StrEnum):
    """A data set to compare on."""

    digits = "digits"
    mnist = "mnist"


# Few images need small batches to make enough steps.
_SETUPS = {
    Reproduction.digits: {"epochs": 20, "batch_size": 32},
    Reproduction.mnist: {"epochs": 5, "batch_size": 100},
}


def reproduce(
    name: Annotated[Reproduction, typer.Argument(help="The data set.")],
    data_dir: DataDir = Config.data_dir,
    epochs: Annotated[int | None, typer.Option(help="By default 20 for digits and 5 for mnist.")] = None,
    seed: Seed = Config.seed,
    device: Device = Config.device,
    backend: Backend = Config.backend,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; by default runs/NAME.")] = None,
    as_json: Json = False,
) -> None:
    """Compare LeNet-5 trained dense, SNIP-pruned, frozen (FreezeNet) and SNIP-pruned in the interspace, at q = .99.

    All four start from the same weights, and the three sparse runs train the same number of weights, filter bases
    included. Writes comparison.png, comparison.json and a folder for each run.
    """
    common = {"data": name.value, "data_dir": data_dir, "model": "lenet5", "score": "snip", "sparsity": 0.99}
    common |= _SETUPS[name] | {"seed": seed, "device": device, "backend": backend}
    common |= {} if epochs is None else {"epochs": epochs}
    configs = {label: config_of(**common, **options) for label, options in _RUNS.items()}
    out = Path("runs") / name.value if out is None else out
    results = {
        label: run(config, out / label.lower().replace(" ", "-"), label, as_json) for label, config in configs.items()
    }
    summary = {"environment": environment(), "runs": results}
    write_json(out / "comparison.json", summary)
    title = f"LeNet-5 on {name.value}, sparsity .99, {common['epochs']} epochs"
    plot_comparison(results, out / "comparison.png", title)
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    print_results(results, title)
    print(f"results: {out / 'comparison.json'}\npicture: {out / 'comparison.png'}")
