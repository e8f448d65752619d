"""The theorem's numerics: the bound, the cases where no basis helps, and the search against exhaustive ones."""

import itertools
import json
import sys
from math import comb
from pathlib import Path

import pytest
import torch
from rich.console import Console

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def bench(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "bench")
    import theorem

    return theorem


def normal(m, n, generator):
    return torch.randn(m, n, generator=generator, dtype=torch.float64)


def test_delta_is_the_share_of_supports_of_whole_filters(bench):
    m, n = 3, 3
    for kept in range(1, m * n):
        supports = torch.zeros(comb(m * n, kept), m * n, dtype=torch.bool)
        for row, entries in enumerate(itertools.combinations(range(m * n), kept)):
            supports[row, list(entries)] = True
        whole = sum(bench.whole_filters(support.view(m, n)) for support in supports)
        assert bench.delta(m, n, kept) == whole / len(supports)


def test_whole_filters_leave_no_better_basis_but_a_better_support(bench, generator):
    target = normal(9, 4, generator)
    target[:, :2] *= 1e-3  # so that magnitude keeps the last two filters whole
    pruned = bench.magnitude(target, 18)
    mask = pruned.coefficients != 0
    assert bench.whole_filters(mask)
    assert bench.fixed_support(target, mask, 20).error == pytest.approx(pruned.error, rel=1e-12)
    assert bench.below(bench.free_support(target, 18, 5, generator).error, pruned.error)


def test_whole_positions_leave_a_better_basis(bench, generator):
    """Rows of the matrix: one position of all filters. The best basis on them is that of the principal components."""
    target = normal(9, 40, generator)
    target[:3] += 9 * target[:3].sign()
    mask = bench.magnitude(target, 120).coefficients != 0
    assert torch.equal(mask, (torch.arange(9) < 3)[:, None].expand(9, 40))
    best = torch.linalg.svdvals(target)[3:].norm()
    assert bench.fixed_support(target, mask, 20).error == pytest.approx(float(best), rel=1e-6)
    assert bench.below(float(best), bench.magnitude(target, 120).error)


@pytest.mark.parametrize(("n", "kept"), [(4, 9), (12, 30), (40, 36)])
def test_errors_are_those_of_feasible_points_and_in_order(bench, generator, n, kept):
    target = normal(9, n, generator)
    pruned = bench.magnitude(target, kept)
    mask = pruned.coefficients != 0
    fixed, free = bench.fixed_support(target, mask, 8), bench.free_support(target, kept, 8, generator)
    assert pruned.error == pytest.approx(float(target.abs().flatten().sort().values[:-kept].norm()))
    for fit in (pruned, fixed, free):
        assert int((fit.coefficients != 0).sum()) <= kept
        assert fit.error == float((target - fit.basis @ fit.coefficients).norm())
    assert torch.equal(fixed.coefficients != 0, mask)
    assert bench.below(fixed.error, pruned.error)
    assert bench.below(free.error, fixed.error)


def test_the_support_is_the_best_there_is(bench, generator):
    import dictionary_learning

    target, rotation = normal(3, 3, generator), torch.linalg.qr(normal(3, 3, generator)).Q
    for kept in range(1, 9):
        found = dictionary_learning.best_support(target, rotation, kept)
        assert int(found.sum()) == kept
        assert explained(target, rotation, found) == pytest.approx(
            max(explained(target, rotation, mask) for mask in all_supports(3, 3, kept))
        )


def all_supports(m, n, kept):
    for entries in itertools.combinations(range(m * n), kept):
        mask = torch.zeros(m * n, dtype=torch.bool)
        mask[list(entries)] = True
        yield mask.view(m, n)


def explained(target, basis, mask):
    import dictionary_learning

    left = target - basis @ dictionary_learning.least_squares(target, basis, mask)
    return float(target.square().sum() - left.square().sum())


def test_least_squares_on_any_basis(bench, generator):
    import dictionary_learning

    target, basis = normal(5, 6, generator), normal(5, 5, generator)
    mask = torch.rand(5, 6, generator=generator) < 0.5
    found = dictionary_learning.least_squares(target, basis, mask)
    for j in range(6):
        kept = basis[:, mask[:, j]]
        if kept.numel():
            torch.testing.assert_close(found[mask[:, j], j], torch.linalg.lstsq(kept, target[:, j]).solution)
    assert not found[~mask].any()


def test_tiny_problems_fail_as_often_as_delta_says(bench):
    rows = bench.measure_tiny(((2, 2),), 300, Console(quiet=True))
    assert [row["delta"] for row in rows] == [0, pytest.approx(1 / 3), 0]
    assert [row["unexplained"] for row in rows] == [0, 0, 0]
    assert [row["share_not_below"] for row in rows] == [0, pytest.approx(1 / 3, abs=0.1), 0]


def test_the_script_writes_results(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "COUNTS", (9, 16))
    monkeypatch.setattr(bench, "TINY", ((2, 2),))
    monkeypatch.setattr(bench, "TINY_TRIALS", 5)
    monkeypatch.setattr(bench, "ROUNDS", 2)
    monkeypatch.setattr(sys, "argv", ["theorem.py", "--trials", "4", "--out", str(tmp_path)])
    bench.main()
    written = json.loads((tmp_path / "theorem.json").read_text())
    assert [(row["n"], row["kept"]) for row in written["rows"]] == [
        (n, kept) for n in (9, 16) for kept in bench.budgets(n)
    ]
    assert all(row["share_below"]["free"] == 1 == row["share_below"]["fixed"] for row in written["rows"])
    assert (tmp_path / "theorem.png").read_bytes().startswith(b"\x89PNG")
