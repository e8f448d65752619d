"""Regressors as tensors: whatever library has trained them, torch predicts, and their files run no code."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Regressor(Protocol):
    """Predicts a number in [0, 1], or near it, from features in [0, 1]."""

    kind: ClassVar[str]

    def __call__(self, features: Tensor) -> Tensor:
        """``(n, features)`` float32 -> ``(n,)`` float32."""

    def to(self, device: torch.device) -> Regressor:
        """The same on a device."""


class _OnDevice:
    def to(self, device: torch.device) -> Regressor:
        moved = {field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **moved)


@dataclasses.dataclass(frozen=True)
class Linear(_OnDevice):
    """``coefficients (features,)`` and ``intercept (1,)``, float64."""

    kind: ClassVar[str] = "linear"
    coefficients: Tensor
    intercept: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return (features.double() @ self.coefficients + self.intercept).float()


@dataclasses.dataclass(frozen=True)
class Trees(_OnDevice):
    """The mean of binary trees, whose nodes lie one after the other.

    Attributes:
        roots: ``(trees,)`` int64.
        feature: ``(nodes,)`` int64, what a node asks for.
        threshold: ``(nodes,)`` float64; at most that goes left.
        left, right: ``(nodes,)`` int64; both lead further down the row, or both, of a leaf, to the node itself.
        value: ``(nodes,)`` float64.
    """

    kind: ClassVar[str] = "trees"
    roots: Tensor
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        total = torch.zeros(len(features), dtype=torch.float64, device=features.device)
        for root in self.roots.tolist():
            total += self.value[self._leaves(root, features)]
        return (total / len(self.roots)).float()

    def _leaves(self, root: int, features: Tensor) -> Tensor:
        """Where each row of the features ends in a tree. Most rows end early, and are left alone then."""
        node = torch.full((len(features),), root, device=features.device)
        under_way = torch.arange(len(features), device=features.device)
        while len(under_way):
            here = node[under_way]
            goes_left = features[under_way, self.feature[here]] <= self.threshold[here]
            following = torch.where(goes_left, self.left[here], self.right[here])
            node[under_way] = following
            under_way = under_way[self.left[following] != following]
        return node


@dataclasses.dataclass(frozen=True)
class Perceptron(_OnDevice):
    """features - 64 - 32 - 1, ReLU between, a sigmoid behind; weights as of ``nn.Linear``."""

    kind: ClassVar[str] = "perceptron"
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    weight3: Tensor
    bias3: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        hidden = F.relu(F.linear(features, self.weight1, self.bias1))
        hidden = F.relu(F.linear(hidden, self.weight2, self.bias2))
        return F.linear(hidden, self.weight3, self.bias3).sigmoid().squeeze(1)


KINDS: dict[str, type] = {cls.kind: cls for cls in (Linear, Trees, Perceptron)}
