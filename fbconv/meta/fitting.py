"""Training of the five regressors, and how well they predict."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..masks import select
from ..overlap import jaccard
from ..scores.learned.regressors import Linear, Perceptron, Regressor, Trees
from .data_set import Examples

_EPOCHS, _BATCH, _RATE = 5, 1024, 1e-3


@dataclasses.dataclass(frozen=True)
class Quality:
    """How well a regressor predicts some examples.

    Attributes:
        r2: coefficient of determination; 1 is perfect, 0 what the mean of the targets would reach.
        mse: mean squared error.
        overlap: Jaccard index of the ticket and as many weights, those of the highest predictions.
    """

    r2: float
    mse: float
    overlap: float


def fit(name: str, examples: Examples, seed: int = 0) -> Regressor:
    """Train one of :data:`REGRESSORS`.

    ``"linear"``, ``"sgd"``, ``"tree"`` and ``"forest"`` are scikit-learn's, with its defaults, but for each of the
    forest's 100 trees seeing a tenth of the examples, which bounds its time and size. ``"mlp"`` has layers of 64, 32
    and 1 neurons, a sigmoid behind, mean squared error, and Adam for 5 epochs.

    Args:
        name: of the kind.
        examples: to learn from.
        seed: of whatever it draws at random.

    Raises:
        ValueError: unknown name. ModuleNotFoundError: without scikit-learn.

    Source: "Hitting the Jackpot", section 5.2.2.

    Example:
        >>> features = torch.rand(100, 4)
        >>> fit("linear", Examples(features, 0.5 * features[:, 0])).coefficients[0]
        tensor(0.5000, dtype=torch.float64)
    """
    if name not in REGRESSORS:
        raise ValueError(f"meta: a regressor is one of {', '.join(REGRESSORS)}, got {name!r}")
    return REGRESSORS[name](examples, seed)


def quality(regressor: Regressor, examples: Examples) -> Quality:
    """R2, mean squared error, and how much of the tickets is found.

    Example:
        >>> perfect = Linear(torch.tensor([1.0, 0, 0, 0]).double(), torch.zeros(1).double())
        >>> features = torch.rand(100, 4)
        >>> quality(perfect, Examples(features, features[:, 0]))
        Quality(r2=1.0, mse=0.0, overlap=1.0)
    """
    target = examples.target.double()
    predicted = regressor(examples.features)
    squares = (predicted.double() - target).square()
    spread = (target - target.mean()).square().sum()
    ticket = target > 0
    chosen = select({"": predicted}, 1 - float(ticket.double().mean()))[""]
    return Quality(float(1 - squares.sum() / spread), float(squares.mean()), jaccard({"": ticket}, {"": chosen}))


def require_scikit_learn() -> None:
    """Raises ModuleNotFoundError, saying how to get it."""
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('meta trains with scikit-learn: pip install "fbconv[train]"') from error


def _linear(examples: Examples, seed: int) -> Regressor:
    from sklearn.linear_model import LinearRegression

    return _of_linear(LinearRegression(), examples)


def _sgd(examples: Examples, seed: int) -> Regressor:
    from sklearn.linear_model import SGDRegressor

    return _of_linear(SGDRegressor(random_state=seed), examples)


def _of_linear(model, examples: Examples) -> Regressor:
    model.fit(examples.features.numpy(), examples.target.numpy())
    coefficients, intercept = (torch.tensor(part, dtype=torch.float64) for part in (model.coef_, model.intercept_))
    return Linear(coefficients.flatten(), intercept.reshape(1))


def _tree(examples: Examples, seed: int) -> Regressor:
    from sklearn.tree import DecisionTreeRegressor

    model = DecisionTreeRegressor(random_state=seed)
    model.fit(examples.features.numpy(), examples.target.numpy())
    return _of_trees([model.tree_])


def _forest(examples: Examples, seed: int) -> Regressor:
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(max_samples=0.1, random_state=seed, n_jobs=torch.get_num_threads())
    model.fit(examples.features.numpy(), examples.target.numpy())
    return _of_trees([tree.tree_ for tree in model.estimators_])


def _of_trees(trees: Sequence) -> Trees:
    """Nodes of all trees in a row, leaves leading to themselves."""
    offsets = torch.tensor([0] + [tree.node_count for tree in trees]).cumsum(0)
    parts: list[dict[str, Tensor]] = []
    for tree, offset in zip(trees, offsets.tolist(), strict=False):
        here = torch.arange(tree.node_count) + offset
        left, right = (torch.from_numpy(side.copy()) for side in (tree.children_left, tree.children_right))
        parts.append(
            {
                "feature": torch.from_numpy(tree.feature.copy()).clamp(min=0),
                "threshold": torch.from_numpy(tree.threshold.copy()),
                "left": torch.where(left < 0, here, left + offset),
                "right": torch.where(right < 0, here, right + offset),
                "value": torch.from_numpy(tree.value.reshape(-1).copy()),
            }
        )
    nodes = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Trees(roots=offsets[:-1], **nodes)


def _perceptron(examples: Examples, seed: int) -> Regressor:
    generator = torch.Generator().manual_seed(seed)
    widths = (examples.features.shape[1], 64, 32, 1)
    weights = [
        torch.randn(out, into, generator=generator) * (2 / into) ** 0.5 for into, out in itertools.pairwise(widths)
    ]
    biases = [torch.zeros(out) for out in widths[1:]]
    parameters = [nn.Parameter(tensor) for pair in zip(weights, biases, strict=True) for tensor in pair]
    optimizer = torch.optim.Adam(parameters, lr=_RATE)
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(examples.target), generator=generator).split(_BATCH):
            optimizer.zero_grad()
            F.mse_loss(Perceptron(*parameters)(examples.features[rows]), examples.target[rows]).backward()
            optimizer.step()
    return Perceptron(*(parameter.detach() for parameter in parameters))


REGRESSORS: dict[str, Callable[[Examples, int], Regressor]] = {
    "linear": _linear,
    "sgd": _sgd,
    "tree": _tree,
    "forest": _forest,
    "mlp": _perceptron,
}
