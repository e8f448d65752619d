"""``fbconv score``: masks, densities and a picture for a model in the user's own file."""

from __future__ import annotations

import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from .convert import prunable
from .data import DATA_SETS, load
from .densities import DISTRIBUTIONS
from .experiment import choose_device, environment, replacing, stream, write_json
from .input_shape import parse_shape
from .mask_plots import plot_densities
from .masks import SCOPES, LayerCollapseWarning
from .schedules import SCHEDULES, prune_masks
from .scores import SCORES, is_score, synflow
from .scores.base import STACKED
from .user_code import call, load_function

EPILOG = (
    "Example: fbconv score net.py:make_model --score snip --control grasp --alpha .9 --sparsity .99 --data cifar10 "
    "--data-dir data --out masks"
)
MASKS = "masks.safetensors"
SUMMARY = "score.json"
PICTURE = "densities.png"
_NEED_DATA = {"snip", "usnip", "grasp"}


# The parameters of the command, apart from it for the sake of its length.
_Model = Annotated[
    str,
    typer.Argument(
        metavar="FILE.py:FACTORY",
        help="A function of your own that takes nothing and returns the model, as it is to be trained. Your file "
        "is run, with torch's random state seeded by --seed.",
    ),
]
_Score = Annotated[
    str,
    typer.Option(
        help=f"Which weights to keep: {', '.join(SCORES)}, a stack like snip/magnitude, or FILE.py:NAME of your own "
        "(fbconv.scores.register says what it gets)."
    ),
]
_Control = Annotated[
    str | None, typer.Option(help="A second score that the masks must be good for too (COPS; it may keep fewer).")
]
_Alpha = Annotated[float, typer.Option(help="Balance in [0, 1): 0 turns the control off, near 1 it alone decides.")]
_Sparsity = Annotated[float, typer.Option(help="Share of weights to remove, in [0, 1].")]
_Rounds = Annotated[int, typer.Option(help="Rounds of scoring and pruning; 100 for synflow.")]
_Schedule = Annotated[str, typer.Option(help=f"How the density falls from round to round: {', '.join(SCHEDULES)}.")]
_Scope = Annotated[str, typer.Option(help=f"Rank all layers together or each on its own: {', '.join(SCOPES)}.")]
_Distribution = Annotated[
    str | None, typer.Option(help=f"Density of the layers: {', '.join(DISTRIBUTIONS)}; by default the scope's.")
]
_Exclude = Annotated[
    list[str] | None, typer.Option(help="Pattern of layers to leave whole (fc3, 'head.*'); may be repeated.")
]
_Data = Annotated[
    str | None,
    typer.Option(
        help=f"Data set ({', '.join(DATA_SETS)}), or FILE.py:NAME of a function of your own that returns batches "
        "(inputs, targets), a DataLoader for instance. Not needed by random, magnitude and synflow."
    ),
]
_Loss = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.py:NAME",
        help="A function of your own that takes outputs and targets and returns the loss; by default cross entropy.",
    ),
]
_DataDir = Annotated[str, typer.Option(help="Folder of the data set's files.")]
_BatchSize = Annotated[int, typer.Option(min=1, help="Images of a data set in a batch.")]
_Batches = Annotated[int, typer.Option(min=1, help="Batches to sum the gradients over.")]
_InputShape = Annotated[str | None, typer.Option(metavar="C,H,W", help="Shape of one input, for synflow without data.")]
_Seed = Annotated[int, typer.Option(min=0, help="Of the model's initialisation, the batches and random scores.")]
_Device = Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda, cuda:1, ...")]
_Out = Annotated[Path, typer.Option(help="Folder of the results.")]
_Json = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]


def score(
    model: _Model,
    score: _Score = "snip",
    control: _Control = None,
    alpha: _Alpha = 0.5,
    sparsity: _Sparsity = 0.9,
    rounds: _Rounds = 1,
    schedule: _Schedule = "exponential",
    scope: _Scope = "global",
    distribution: _Distribution = None,
    exclude: _Exclude = None,
    data: _Data = None,
    loss: _Loss = None,
    data_dir: _DataDir = "data",
    batch_size: _BatchSize = 100,
    batches: _Batches = 1,
    input_shape: _InputShape = None,
    seed: _Seed = 0,
    device: _Device = "auto",
    out: _Out = Path("masks"),
    as_json: _Json = False,
) -> None:
    """Score your own model and write masks of the weights to keep, exactly as sparse as asked.

    Writes masks.safetensors (parameter name -> bool tensor, for fbconv.sparsify or fbconv.freeze; excluded layers have
    none), score.json and densities.png. The model itself is not written: its weights follow from the factory and the
    seed.
    """
    settings = {
        "model": model, "score": score, "control": control, "alpha": alpha if control else None, "sparsity": sparsity,
        "rounds": rounds, "schedule": schedule, "scope": scope, "distribution": distribution,
        "exclude": exclude or [], "data": data, "loss": loss, "batch_size": batch_size, "batches": batches,
        "seed": seed,
    }  # fmt: skip
    _check(settings)
    shape = parse_shape(input_shape)
    started = time.perf_counter()
    torch.manual_seed(seed)
    network = call(model, nn.Module, "a torch.nn.Module").to(choose_device(device))
    chosen = [_score_function(name, shape) for name in (score, control)]
    given = None if data is None else _batches(data, data_dir, batch_size, batches, seed)
    selection = {"scope": scope, "distribution": distribution, "exclude": exclude or ()}
    masks = _quietly(
        model,
        partial(
            prune_masks, network, chosen[0], sparsity, rounds, schedule, batches=given, control=chosen[1], alpha=alpha,
            loss_fn=load_function(loss) if loss else None, generator=stream(seed, "score"), **selection,
        ),
    )  # fmt: skip
    summary = _summary(network, masks) | {"seconds": time.perf_counter() - started, "settings": settings}
    _write(masks, summary | {"environment": environment()}, out)
    if as_json:
        print(json.dumps(summary | {"environment": environment()}, indent=2))
        return
    _print_table(summary)
    print(f"masks: {out / MASKS}\nsummary: {out / SUMMARY}\npicture: {out / PICTURE}")


def _check(settings: Mapping[str, object]) -> None:
    for name in ("score", "control"):
        value = settings[name]
        if value is not None and ".py:" not in value and not is_score(value):
            known = f"{', '.join(SCORES)}, or a stack like snip/magnitude"
            raise typer.BadParameter(f"{name} must be one of {known}, got {value!r}")
    choices = {"schedule": SCHEDULES, "scope": SCOPES, "distribution": (None, *DISTRIBUTIONS)}
    for name, known in choices.items():
        if settings[name] not in known:
            expected = ", ".join(value for value in known if value)
            raise typer.BadParameter(f"{name} must be one of {expected}, got {settings[name]!r}")
    if ".py:" not in settings["model"]:
        raise typer.BadParameter(f"the model must be given as FILE.py:FACTORY, got {settings['model']!r}")
    if not 0 <= settings["sparsity"] <= 1:
        raise typer.BadParameter(f"sparsity must be in [0, 1], got {settings['sparsity']}")
    if settings["control"] and not 0 <= settings["alpha"] < 1:
        raise typer.BadParameter(f"alpha must be in [0, 1), got {settings['alpha']}")
    for name in ("score", "control"):
        if settings["data"] is None and _NEED_DATA & {*(settings[name] or "").split(STACKED)}:
            raise typer.BadParameter(f"{name} {settings[name]} needs --data")


def _score_function(name: str | None, shape: tuple[int, ...] | None) -> str | Callable[..., object] | None:
    if name == "synflow" and shape:
        return partial(synflow, input_shape=shape)
    return load_function(name) if name and ".py:" in name else name


def _batches(data: str, data_dir: str, batch_size: int, count: int, seed: int) -> list[object]:
    if data in DATA_SETS:
        source: Iterable[object] = load(data, data_dir, seed).training_batches(batch_size, stream(seed, "batches"))
    elif ":" in data:
        source = call(data, Iterable, "an iterable of batches")
    else:
        raise typer.BadParameter(f"data must be one of {', '.join(DATA_SETS)}, or FILE.py:NAME, got {data!r}")
    try:
        return list(itertools.islice(source, count))
    except Exception as error:
        raise ValueError(f"data {data}: {type(error).__name__}: {error}") from error


def _quietly(model: str, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Collapse in a line of its own rather than as Python prints warnings; what the user's code raises, with its place.

    Raises:
        ValueError: as the work.
        RuntimeError: for anything else that the model, the loss or the score raises.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LayerCollapseWarning)
        try:
            result = work()
        except (ImportError, ValueError):
            raise
        except Exception as error:
            raise RuntimeError(f"{model}: scoring raised {type(error).__name__}: {error}") from error
    for warning in caught:
        print(f"fbconv: warning: {warning.message}", file=sys.stderr)
    return result


def _summary(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, object]:
    layers = []
    for name, shape in prunable(model).items():
        kept = int(masks[name].sum()) if name in masks else shape.numel()
        layers.append(
            {"name": name, "shape": list(shape), "weights": shape.numel(), "kept": kept,
             "density": kept / max(1, shape.numel()), "excluded": name not in masks}
        )  # fmt: skip
    counted = [layer for layer in layers if not layer["excluded"]]
    weights, kept = (sum(layer[key] for layer in counted) for key in ("weights", "kept"))
    return {"weights": weights, "kept": kept, "sparsity": 1 - kept / weights, "layers": layers}


def _write(masks: Mapping[str, Tensor], summary: dict[str, object], out: Path) -> None:
    settings = {key: json.dumps(value) for key, value in summary["settings"].items()}
    with replacing(out / MASKS) as temporary:
        content = {name: mask.cpu().contiguous() for name, mask in masks.items()}
        temporary.write_bytes(save_tensors(content, settings))  # errors of the disk then name the file
    write_json(out / SUMMARY, summary)
    settings = summary["settings"]
    under = f" under {settings['control']}, alpha {settings['alpha']:g}" if settings["control"] else ""
    title = f"{settings['model']}: {settings['score']}{under}, sparsity {settings['sparsity']:g}"
    plot_densities(summary["layers"], out / PICTURE, title)


def _print_table(summary: Mapping[str, object]) -> None:
    table = Table(title="Density of the layers")
    table.add_column("layer", overflow="fold")
    for column in ("shape", "weights", "kept", "density"):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in summary["layers"]:
        share = "whole" if layer["excluded"] else f"{100 * layer['density']:.4g} %"
        style = "red" if layer["kept"] == 0 else "dim" if layer["excluded"] else None
        shape = "x".join(map(str, layer["shape"]))
        table.add_row(layer["name"], shape, f"{layer['weights']:,}", f"{layer['kept']:,}", share, style=style)
    table.add_section()
    density = f"{100 * (1 - summary['sparsity']):.4g} %"
    table.add_row("all but whole layers" if any(layer["excluded"] for layer in summary["layers"]) else "all", "",
                  f"{summary['weights']:,}", f"{summary['kept']:,}", density)  # fmt: skip
    Console().print(table)
