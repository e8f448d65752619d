"""The model of a configuration: network, space, masks, weights."""

from __future__ import annotations

import dataclasses
import warnings

import torch
from torch import Tensor, nn

from ..convert import freeze, initialise, interspace, prunable, sparsify
from ..data import DataSet
from ..experiment import META, Config, seed32, stream
from ..masks import LayerCollapseWarning
from ..models import MODELS, build
from ..nn import FilterBasis
from ..schedules import prune_masks
from ..scores import score, weights_from_scores
from ..scores.base import STACKED
from ..scores.learned import LearnedScore
from ..scores.learned import load as load_score

TRAINED_BEFORE = ("lth", "ft")  # masks that come out of trainings


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model ready to train, and what it is to be compared with.

    Attributes:
        model: dense, pruned or frozen, in either space.
        weights: number of weights of the plain dense network (D).
        parameters: number of all its parameters.
    """

    model: nn.Module
    weights: int
    parameters: int

    @property
    def trained_weights(self) -> int:
        """Trained weights or coefficients, and all entries of filter bases."""
        model = self.model
        return sum(model.get_parameter(name).numel() for name in prunable(model)) + _basis_entries(model)

    @property
    def sparsity(self) -> float:
        """``1 - trained_weights / weights``: q, and in the interspace q_IP, which is negative when dense."""
        return 1 - self.trained_weights / self.weights

    @property
    def real_sparsity(self) -> float:
        """The same over all parameters: biases and normalisation, which are always trained, included."""
        return 1 - sum(parameter.numel() for parameter in self.model.parameters()) / self.parameters


def prepare(config: Config, data: DataSet) -> Prepared:
    """Build the model that ``config`` describes: network, then space, then mask, then perhaps other weights.

    With ``dynamic`` "gmp" the masks keep all weights at first. Of "lth" and "ft", whose masks come out of trainings,
    this is the model of the same configuration with "none".

    Raises:
        ValueError: if the filter bases alone have more entries than the sparsity leaves, or the model has nothing to
            put into the interspace.

    Example:
        >>> config = Config(mode="freeze", sparsity=0.99)
        >>> prepare(config, fbconv.data.load("digits")).trained_weights
        4305
    """
    network = dense_network(config, data)
    if config.mode == "dense":
        return network
    if config.dynamic == "gmp":
        target_sparsity(config, network)  # too small a budget is an error now
        return compressed(config, network, {name: torch.ones(shape) for name, shape in prunable(network.model).items()})
    return compressed(config, network, masks_of(config, network, data))


def dense_network(config: Config, data: DataSet) -> Prepared:
    """The dense model in its space."""
    _, channels, size, _ = data.train.images.shape
    model = build(
        config.model,
        in_channels=channels,
        image_size=size,
        num_classes=data.num_classes,
        init=_init(config),
        seed=config.seed,
    ).to(data.train.images.device)
    weights = sum(shape.numel() for shape in prunable(model).values())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if config.space == "interspace":
        model = interspace(model, sharing=config.sharing, generator=stream(config.seed, "bases"))
        if not _basis_entries(model):
            raise ValueError(f"train: space interspace needs a convolution larger than 1x1, {config.model} has none")
    if config.weights_from is not None:
        scores = score(model, score_of(config, config.weights_from), **scoring(config, data))
        model = weights_from_scores(model, scores, inplace=True)
    return Prepared(placed(config, model), weights, parameters)


def _init(config: Config) -> str:
    return config.init or MODELS[config.model].init


def compressed(config: Config, network: Prepared, masks: dict[str, Tensor]) -> Prepared:
    """The network pruned or frozen outside of the masks."""
    init = _init(config)
    drawn = config.dynamic not in TRAINED_BEFORE and config.weights_from is None
    seed = config.seed if drawn else None
    model = sparsify(network.model, masks) if config.mode == "prune" else freeze(network.model, masks, seed, init)
    if config.reinit:
        model = initialise(model, init, seed32(config.seed, "reinit"), inplace=True)
    return dataclasses.replace(network, model=placed(config, model))


def placed(config: Config, model: nn.Module) -> nn.Module:
    """The model with its backend, in the memory format that suits what is dense: compressed weights have none."""
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = config.backend
    return model.to(memory_format=torch.channels_last)


def masks_of(config: Config, network: Prepared, data: DataSet) -> dict[str, Tensor]:
    """The masks that the configuration's score gives for the network as it stands."""
    with warnings.catch_warnings():
        if config.mode == "freeze":  # a layer without a trained weight still passes signals on
            warnings.simplefilter("ignore", LayerCollapseWarning)
        sparsity = target_sparsity(config, network)
        chosen = score_of(config, config.score)
        return prune_masks(network.model, chosen, sparsity, config.rounds, **selection(config, data))


def score_of(config: Config, name: str) -> list[str | LearnedScore]:
    """The stack that a score's name stands for, learned ones as their file has them."""
    return [load_score(config.meta) if part == META else part for part in name.split(STACKED)]


def scoring(config: Config, data: DataSet) -> dict[str, object]:
    """The data and the random numbers of scores."""
    generator = stream(config.seed, "score")
    return {"batches": [next(data.training_batches(config.batch_size, generator))], "generator": generator}


def selection(config: Config, data: DataSet) -> dict[str, object]:
    """What scores, and chooses among them, by :func:`fbconv.prune_masks`."""
    return scoring(config, data) | {
        "control": None if config.control is None else score_of(config, config.control),
        "alpha": config.alpha,
        "combine": config.combine,
        "distribution": config.distribution,
    }


def target_sparsity(config: Config, network: Prepared) -> float:
    """Of the prunable tensors: bases are paid from the same budget, so that both spaces compare at equal memory."""
    bases = _basis_entries(network.model)
    budget = (1 - config.sparsity) * network.weights - bases
    if budget < 0:
        raise ValueError(
            f"train: sparsity must leave room for the {bases} entries of the filter bases, got {config.sparsity} of "
            f"{network.weights} weights"
        )
    return 1 - budget / sum(shape.numel() for shape in prunable(network.model).values())


def bases_of(model: nn.Module) -> list[nn.Parameter]:
    """The elements of a model's filter bases, shared ones once."""
    return [module.elements for module in model.modules() if isinstance(module, FilterBasis)]


def _basis_entries(model: nn.Module) -> int:
    return sum(elements.numel() for elements in bases_of(model))
