"""Sparse dictionary learning with a square dictionary: filters ``U ~ F R``, R with a number of non-zero coefficients.

``target`` is U ``(m, n)``, a filter a column; ``basis`` is F ``(m, m)``, an element a column; ``mask`` ``(m, n)`` says
which coefficients may be non-zero. All in float64. Every result is a feasible point and its error that of its own
numbers, so an error is an upper bound of the optimum however well the search went.

Source: K-SVD (Aharon, Elad, Bruckstein 2006); interspace pruning (Wimmer et al. 2022), section 4.1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

RIDGE = 1e-13  # beside elements of length 1: lets systems with parallel elements be solved, else only rounding sees it
PATIENCE = 1e-5  # relative gain of a round below which it is the last


class Fit(NamedTuple):
    """A feasible point: ``error = |target - basis @ coefficients|_F``."""

    basis: Tensor
    coefficients: Tensor
    error: float


def magnitude(target: Tensor, kept: int) -> Fit:
    """The best point in the standard basis: the entries of largest magnitude, exactly ``kept`` of them."""
    mask = torch.zeros(target.numel(), dtype=torch.bool)
    mask[target.abs().flatten().topk(kept).indices] = True
    coefficients = target * mask.view_as(target)
    return _fit(target, torch.eye(len(target), dtype=target.dtype), coefficients)


def fixed_support(target: Tensor, mask: Tensor, rounds: int) -> Fit:
    """Basis and coefficients alternately from the standard basis, the support given."""
    return _alternate(target, torch.eye(len(target), dtype=target.dtype), lambda _: mask, rounds)


def free_support(target: Tensor, kept: int, rounds: int, generator: torch.Generator) -> Fit:
    """Support, coefficients and basis alternately, the best of several first bases."""
    choose = partial(best_support, target, kept=kept)
    fits = [_alternate(target, basis, choose, rounds) for basis in first_bases(target, generator)]
    return min(fits, key=lambda fit: fit.error)


def first_bases(target: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The standard basis, that with the largest filter as an element, a random rotation, and random filters."""
    m, n = target.shape
    standard = torch.eye(m, dtype=target.dtype)
    filters = target / target.norm(dim=0)
    largest = filters[:, target.norm(dim=0).argmax()]
    replaced = standard.clone()
    replaced[:, largest.abs().argmax()] = largest  # the proof's basis: one coefficient stands for a whole filter
    rotation = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=target.dtype)).Q
    some = filters[:, torch.randperm(n, generator=generator)[:m]]
    return [standard, replaced, rotation, *([some] if n >= m else [])]


def _alternate(target: Tensor, basis: Tensor, choose: Callable[[Tensor], Tensor], rounds: int) -> Fit:
    best = None
    for _ in range(rounds):
        mask = choose(basis)
        fit = update(target, basis, least_squares(target, basis, mask), mask)
        if best is not None and fit.error >= (1 - PATIENCE) * best.error:
            return min(fit, best, key=lambda either: either.error)
        best, basis = fit, fit.basis
    return best


def least_squares(target: Tensor, basis: Tensor, mask: Tensor) -> Tensor:
    """The best coefficients on a support."""
    kept = mask.T.to(target)
    right = kept * (basis.T @ target).T
    return torch.linalg.solve(_restricted_gram(basis, kept), right).T * mask


def update(target: Tensor, basis: Tensor, coefficients: Tensor, mask: Tensor) -> Fit:
    """One element after the other, its coefficients with it: the best rank-one term for what the others leave."""
    basis, coefficients = basis.clone(), coefficients.clone()
    for i, users in enumerate(mask):
        if users.any():
            others = coefficients[:, users].index_fill(0, torch.tensor([i]), 0)
            left = target[:, users] - basis @ others
            basis[:, i] = torch.linalg.eigh(left @ left.T).eigenvectors[:, -1]
            coefficients[i, users] = basis[:, i] @ left
    return _fit(target, basis, coefficients)


def best_support(target: Tensor, basis: Tensor, kept: int) -> Tensor:
    """A support of at most ``kept`` coefficients: the best one of every filter for its share of the budget.

    All 2^m supports of a filter are tried. The budget is shared by a price of a coefficient, as in a Lagrange dual;
    what is left at that price (few coefficients, none if gains diminish with every one) goes where one more gains most.
    """
    supports, groups = _supports(len(basis))
    explained = _explained(target, basis, supports)
    best = [explained[group].max(0) for group in groups]
    gains = torch.stack([one.values for one in best])
    counts = _share_out(gains, kept)
    chosen = torch.stack([group[one.indices] for group, one in zip(groups, best, strict=True)])
    return supports[chosen.gather(0, counts[None])[0]].T


def _share_out(gains: Tensor, kept: int) -> Tensor:
    """Coefficients of each filter; ``gains[k, j]`` is what k coefficients explain of filter j."""
    low, high = 0.0, 1.0 + float(gains.max())
    for _ in range(40):
        price = (low + high) / 2
        low, high = (price, high) if _affordable(gains, price).sum() > kept else (low, price)
    counts = _affordable(gains, high)
    more = gains.diff(dim=0, append=gains[-1:]).gather(0, counts[None])[0]
    more[counts == len(gains) - 1] = -1.0  # full filters
    left = min(kept - int(counts.sum()), int((more >= 0).sum()))
    counts[more.topk(left).indices] += 1
    return counts


def _affordable(gains: Tensor, price: float) -> Tensor:
    """Coefficients of each filter that are worth it at that price of one."""
    return (gains - price * torch.arange(len(gains))[:, None]).argmax(0)


def _explained(target: Tensor, basis: Tensor, supports: Tensor) -> Tensor:
    """``(2^m, n)``: squared length of each filter's projection on the span of each support."""
    kept = supports.to(basis)
    spanning = kept[:, :, None] * basis.T
    projections = spanning.mT @ torch.linalg.solve(_restricted_gram(basis, kept), spanning)
    products = target[:, None] * target[None]
    return projections.flatten(1) @ products.flatten(0, 1)


def _restricted_gram(basis: Tensor, kept: Tensor) -> Tensor:
    """For each row of ``kept`` (0 or 1) the Gram matrix of the kept elements, with ones for the others."""
    gram = kept[:, :, None] * (basis.T @ basis) * kept[:, None, :]
    return gram + torch.diag_embed(1 - kept + RIDGE)


@cache
def _supports(m: int) -> tuple[Tensor, list[Tensor]]:
    """All supports of a filter ``(2^m, m)``, and which of them have 0, 1, ..., m coefficients."""
    supports = torch.tensor(list(itertools.product((False, True), repeat=m)))
    counts = supports.sum(1)
    return supports, [(counts == k).nonzero()[:, 0] for k in range(m + 1)]


def _fit(target: Tensor, basis: Tensor, coefficients: Tensor) -> Fit:
    return Fit(basis, coefficients, float((target - basis @ coefficients).norm()))
