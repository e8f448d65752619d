"""A regressor as a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..base import Batches, LossFunction
from ..gradients import device_of
from .features import features_of
from .regressors import Regressor


@dataclass(frozen=True)
class LearnedScore:
    """A score function that predicts from other scores: what :func:`fbconv.score` takes in the place of a name.

    Attributes:
        regressor: of :mod:`fbconv.meta.regressors`.
        extended: whether it looks at the six further features too.

    Source: "Hitting the Jackpot", section 3.2.2.

    Example:
        >>> from fbconv.scores import score
        >>> from fbconv.scores.learned.regressors import Linear
        >>> half_snip = LearnedScore(Linear(torch.tensor([0, 0.5, 0, 0]).double(), torch.zeros(1).double()))
        >>> batch = torch.randn(8, 4), torch.randint(3, (8,))
        >>> score(nn.Linear(4, 3), half_snip, batches=[batch])["weight"].max()
        tensor(0.5000)
    """

    regressor: Regressor
    extended: bool = False

    def __call__(
        self,
        model: nn.Module,
        weights: Mapping[str, nn.Parameter],
        batches: Batches | None,
        loss_fn: LossFunction,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        regressor = self.regressor.to(device_of(weights))
        features = features_of(model, weights, batches, loss_fn, generator, self.extended)
        return {key: regressor(features[key]).view_as(weight) for key, weight in weights.items()}
