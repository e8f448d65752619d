"""The training run: a model, made dense, pruned or frozen in either space, trained and measured."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torch import nn

from ._training.model import TRAINED_BEFORE, Prepared, prepare, target_sparsity
from ._training.run import (
    CHECKPOINT,
    MOMENTUM,
    WEIGHT_DECAY,
    Log,
    Progress,
    Run,
    basis_gradient_norm,
    evaluate,
    gradient_norm,
    learning_rate,
    load_changing_state,
    make_optimizer,
)
from ._training.tickets import found_by_training
from .checkpoint import save
from .data import DataSet, load
from .experiment import Config, choose_device, clear_leftovers, environment, load_checkpoint, write_json
from .freezing import finish, frozen_layers, remaining
from .plots import plot_curves, require_matplotlib

__all__ = [
    "CHECKPOINT",
    "MODEL",
    "MOMENTUM",
    "RESULT",
    "WEIGHT_DECAY",
    "Prepared",
    "Progress",
    "basis_gradient_norm",
    "evaluate",
    "gradient_norm",
    "learning_rate",
    "make_optimizer",
    "prepare",
    "train",
    "train_on",
]

RESULT = "result.json"
MODEL = "model.fbc"
CURVES = "curves.png"
VANISHED = 1e-3  # of their initial size: frozen weights that may be pruned


def train(config: Config, out: str | Path, progress: Progress | None = None) -> dict[str, object]:
    """Train as ``config`` says and report the best validation epoch on the test set.

    SGD with momentum .9, cross entropy, weight decay 5e-4 on weights and values only (not on biases, normalisation
    and filter bases). Learning rate: ``lr`` for the first half of the epochs, a tenth of it up to three quarters, a
    hundredth after that. The best epoch has the highest validation accuracy and, among equals, the lowest validation
    loss. ``out/last.ckpt`` is written after every epoch: the same call takes up a killed run there and, on the same
    machine, ends bit-identical to one that was not killed.

    Args:
        config: what to train, on what.
        out: folder for ``result.json``, ``curves.png``, ``model.fbc`` (the best weights, for :func:`fbconv.load`),
            ``last.ckpt`` (the latest and the best ones) and TensorBoard events; made if need be.
        progress: called after every step with the steps done, the steps in all, and the last epoch's figures.

    Returns:
        what ``result.json`` holds; accuracies and sparsities as fractions, ``seconds`` of wall time over all sittings,
        ``steps_per_second`` of the training steps alone. ``frozen_size`` is how large frozen weights still are at the
        best epoch, as a share of their initial size: where it is small enough for them to have vanished, the tested
        model is the pruned one. ``file_bytes`` is the size of ``model.fbc``. The history's ``gradient_norm`` is the
        mean of :func:`gradient_norm` over an epoch; in the interspace there is ``basis_gradient_norm`` too.

    Raises:
        ValueError: if ``out`` holds a run of another configuration, or the configuration cannot be met.
        FileNotFoundError: if the data set's files are missing.
        RuntimeError: if the loss is no longer finite.
        ModuleNotFoundError: without matplotlib or TensorBoard.

    Source:
        setups of Wimmer et al., with a schedule that scales to any number of epochs.

    Example:
        >>> train(Config(epochs=2), "runs/short")["best_epoch"]  # doctest: +SKIP
        2
    """
    return train_on(load(config.data, config.data_dir, config.seed), config, Path(out), progress)


def train_on(
    data: DataSet, config: Config, out: Path, progress: Progress | None = None, pictures: bool = True
) -> dict[str, object]:
    """:func:`train` on data that are there already: those that :func:`fbconv.data.load` gives for the configuration.

    Args:
        data: on any device.
        config, out, progress: as for :func:`train`.
        pictures: whether to draw ``curves.png`` and to write TensorBoard events, which takes a second.
    """
    if pictures:
        require_matplotlib()  # now rather than after an hour of training
    load_checkpoint(out / CHECKPOINT, config)  # another configuration's is an error before any work
    clear_leftovers(out / RESULT, out / MODEL, out / CURVES)
    data = data.to(choose_device(config.device))
    prepared, run = _begun(config, data, out, progress)
    run.resume(out)
    with _event_log(out, run.next_epoch) if pictures else contextlib.nullcontext() as log:
        run.fit(out, progress, log)
    model, frozen_size = _finished(run)
    result = _report(run, prepared, model) | {"frozen_size": frozen_size, "file_bytes": save(model, out / MODEL)}
    if pictures:
        plot_curves(result, out / CURVES)
    write_json(out / RESULT, result)
    return result


def _begun(config: Config, data: DataSet, out: Path, progress: Progress | None) -> tuple[Prepared, Run]:
    if config.dynamic in TRAINED_BEFORE:
        return found_by_training(config, data, out, progress)
    prepared = prepare(config, data)
    sparsity = target_sparsity(config, prepared) if config.dynamic == "gmp" else 0.0
    return prepared, Run(config, data, prepared.model, sparsity=sparsity)


def _finished(run: Run) -> tuple[nn.Module, float]:
    """The model of the best epoch, pruned where its frozen weights have vanished, and how large they are."""
    load_changing_state(run.model, run.best["model"])
    sizes = [remaining(layer) for layer in frozen_layers(run.model).values()]
    vanished = bool(sizes) and max(sizes) <= VANISHED
    return finish(run.model, VANISHED) if vanished else run.model, max(sizes, default=0.0)


def _report(run: Run, prepared: Prepared, model: nn.Module) -> dict[str, object]:
    _, test_accuracy = evaluate(model, run.data, run.data.test)
    return {
        "test_accuracy": test_accuracy,
        "test_images": len(run.data.test),
        "validation_accuracy": run.best_entry["validation_accuracy"],
        "best_epoch": run.best["epoch"],
        "sparsity": prepared.sparsity,
        "real_sparsity": prepared.real_sparsity,
        "trained_weights": prepared.trained_weights,
        "weights": prepared.weights,
        "seconds": run.seconds,
        "steps_per_second": run.steps_done / run.training_seconds,
        "history": run.history,
        "config": dataclasses.asdict(run.config),
        "environment": environment(),
    }


@contextlib.contextmanager
def _event_log(out: Path, first_epoch: int) -> Iterator[Log]:
    """Writes the figures of epochs to TensorBoard's files."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('training writes TensorBoard events: pip install "fbconv[train]"') from error
    # Epochs that a killed run had logged after its last checkpoint are hidden.
    with SummaryWriter(str(out), purge_step=first_epoch + 1) as events:
        yield partial(_write_events, events)


def _write_events(events, entry: dict[str, float]) -> None:
    for name, value in entry.items():
        if name != "epoch":
            events.add_scalar(name.replace("_", "/"), value, entry["epoch"])
    events.flush()
