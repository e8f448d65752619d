"""Masks that come out of trainings: lottery tickets with rewinding, and pruning of a trained network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..data import DataSet
from ..experiment import Config
from ..schedules import iterative_masks
from .model import Prepared, compressed, dense_network, masks_of, placed, selection, target_sparsity
from .run import Progress, Run, load_changing_state


def found_by_training(config: Config, data: DataSet, out: Path, progress: Progress | None) -> tuple[Prepared, Run]:
    """The model to train at last, its masks found by the trainings that ``config.dynamic`` stands for.

    Each of these has a folder of its own in ``out``, where it resumes.

    Returns:
        the model, and the run that it is at the start of.
    """
    network = dense_network(config, data)
    target_sparsity(config, network)  # too small a budget is an error now
    return (_fine_tuning if config.dynamic == "ft" else _lottery_ticket)(config, data, network, out, progress)


def _fine_tuning(
    config: Config, data: DataSet, network: Prepared, out: Path, progress: Progress | None
) -> tuple[Prepared, Run]:
    """One-shot pruning of the trained network, then the whole schedule once more."""
    run = Run(config, data, network.model)
    run.before = (0, 2 * run.steps)
    run.resume(out / "dense").fit(out / "dense", progress)
    load_changing_state(network.model, run.best["model"])
    prepared = compressed(config, network, masks_of(config, network, data))
    return prepared, Run(config, data, prepared.model, before=(run.steps, 2 * run.steps), seconds=run.seconds)


def _lottery_ticket(
    config: Config, data: DataSet, network: Prepared, out: Path, progress: Progress | None
) -> tuple[Prepared, Run]:
    """Train, prune by the score, go back to step ``rewind``; ``rounds`` times. Weights, statistics, order of the data
    and learning rate all go back."""
    first = Run(config, data, network.model)
    if config.rewind >= first.steps:
        raise ValueError(f"train: rewind must be below the {first.steps} steps of a training, got {config.rewind}")
    first.warm_up(config.rewind)
    length = first.steps - config.rewind
    done: list[Run] = []

    def begin(model: nn.Module) -> Run:
        before = (len(done) * length - config.rewind, (config.rounds + 1) * length)
        seconds = done[-1].seconds if done else 0.0
        return Run(config, data, placed(config, model), config.rewind, before=before, seconds=seconds)

    def train(model: nn.Module) -> None:
        folder = out / f"round-{len(done) + 1}"
        done.append(begin(model).resume(folder).fit(folder, progress))

    sparsity = target_sparsity(config, network)
    schedule = {"rounds": config.rounds, "shots": config.shots}
    rounds = iterative_masks(network.model, train, sparsity, score=config.score, **schedule, **selection(config, data))
    *_, tickets = rounds
    prepared = compressed(config, network, tickets)
    return prepared, begin(prepared.model)
