"""Masks that come out of trainings: lottery tickets with rewinding, and pruning of a trained network."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ..data import DataSet
from ..experiment import Config
from ..schedules import iterative_masks
from .model import Prepared, compressed, dense_network, masks_of, placed, score_of, selection, target_sparsity
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
    """The ticket, at the step that the search has always gone back to."""
    search = TicketSearch(config, data, network, out, progress)
    prepared = compressed(config, network, search.masks())
    return prepared, search.begin(prepared.model)


class TicketSearch:
    """Train, prune by the score, go back to step ``rewind``; ``rounds`` times. Weights, statistics, order of the data
    and learning rate all go back.

    Each training has a folder of its own in ``out``, where it resumes.

    Attributes:
        done: the trainings that have ended; the last one's network is the one that the last masks were chosen for.
    """

    def __init__(self, config: Config, data: DataSet, network: Prepared, out: Path, progress: Progress | None) -> None:
        self.done: list[Run] = []
        self._config, self._data, self.network = config, data, network
        self._out, self._progress = out, progress
        first = Run(config, data, network.model)
        if config.rewind >= first.steps:
            raise ValueError(f"train: rewind must be below the {first.steps} steps of a training, got {config.rewind}")
        first.warm_up(config.rewind)
        self._length = first.steps - config.rewind

    def masks(self) -> dict[str, Tensor]:
        """Those of the last round."""
        config = self._config
        schedule = {"rounds": config.rounds, "shots": config.shots}
        sparsity = target_sparsity(config, self.network)
        choice = {"score": score_of(config, config.score), **selection(config, self._data)}
        rounds = iterative_masks(self.network.model, self._train, sparsity, **schedule, **choice)
        *_, tickets = rounds
        return tickets

    def begin(self, model: nn.Module) -> Run:
        """A training of the pruned network, after those that are done."""
        config, done = self._config, self.done
        before = (len(done) * self._length - config.rewind, (config.rounds + 1) * self._length)
        seconds = done[-1].seconds if done else 0.0
        return Run(config, self._data, placed(config, model), config.rewind, before=before, seconds=seconds)

    def _train(self, model: nn.Module) -> None:
        folder = self._out / f"round-{len(self.done) + 1}"
        self.done.append(self.begin(model).resume(folder).fit(folder, self._progress))
