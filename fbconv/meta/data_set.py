"""The examples that a regressor learns from: every weight of some networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from .._training.model import dense_network, scoring
from .._training.run import Progress
from .._training.tickets import TicketSearch
from ..convert import prunable
from ..data import DataSet
from ..experiment import Config
from ..scores import score
from ..scores.base import parameters_of
from ..scores.context import untouched
from ..scores.learned.features import features_of
from ..scores.outputs import cross_entropy


@dataclasses.dataclass(frozen=True)
class Examples:
    """Weights of a network, one a line.

    Attributes:
        features: ``(weights, features)`` float32 in [0, 1].
        target: ``(weights,)`` float32 in [0, 1].
    """

    features: Tensor
    target: Tensor

    @classmethod
    def together(cls, parts: list[Examples]) -> Examples:
        """The examples of several networks."""
        return cls(torch.cat([part.features for part in parts]), torch.cat([part.target for part in parts]))


def examples(
    config: Config, data: DataSet, out: Path, extended: bool = False, progress: Progress | None = None
) -> Examples:
    """Features of a network at its initialisation, against the score that iterative multi-shot SynFlow ends with.

    Lottery tickets are searched as ``fbconv train --dynamic lth --score synflow`` does: ``rounds`` trainings, each
    followed by ``shots`` rounds of SynFlow and rewinding. The target is SynFlow's score of the weights that the last
    training has come to, pruned by the ticket: 0 for what is pruned, and at most 1.

    Args:
        config: of the search; its score, its mode and what makes its masks are replaced by those.
        data: on the device where to work.
        out: folder of the trainings, which are taken up there.
        extended: six more features (:func:`fbconv.scores.learned.features.features_of`).
        progress: called after every step with the steps done and the steps in all.

    Raises:
        ValueError: as :func:`fbconv.train.train`.

    Source: "Hitting the Jackpot", section 5.2.1.

    Example:
        >>> config = Config(model="lenet300", sparsity=0.99, epochs=2, rounds=2, shots=5)
        >>> examples(config, fbconv.data.load("digits"), Path("runs/meta")).features.shape  # doctest: +SKIP
        torch.Size([266200, 4])
    """
    config = dataclasses.replace(
        config, mode="prune", dynamic="lth", score="synflow", control=None, distribution=None, rewind=0, reinit=False
    )
    network = dense_network(config, data)
    features = _features(network.model, scoring(config, data), extended)
    search = TicketSearch(config, data, network, out, progress)
    masks = search.masks()
    return Examples(torch.cat([features[key] for key in masks]).cpu(), _target(search, masks).cpu())


def _features(model: nn.Module, chosen: dict[str, object], extended: bool) -> dict[str, Tensor]:
    weights = parameters_of(model, prunable(model))
    with untouched(model, weights, chosen["generator"]):
        return features_of(model, weights, chosen["batches"], cross_entropy, chosen["generator"], extended)


def _target(search: TicketSearch, masks: dict[str, Tensor]) -> Tensor:
    trained = search.done[-1].model
    names = dict(zip(prunable(search.network.model), prunable(trained), strict=True))
    shape = search.done[-1].data.train.images.shape[1:]
    scores = score(trained, "synflow", masks={names[key]: mask for key, mask in masks.items()}, input_shape=shape)
    flat = torch.cat([scores[names[key]].flatten() for key in masks])
    kept = flat.where(flat != -torch.inf, 0.0)
    return (kept / kept.max().clamp(min=torch.finfo(kept.dtype).tiny)).float()
