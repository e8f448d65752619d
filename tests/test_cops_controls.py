"""COPS with several controls: against linear programming, against all masks, and at the edges."""

import builtins
import itertools
import math

import numpy as np
import pytest
import torch
from cops_problems import KINDS, Problem, as_scores, as_vector, check_count, check_solution, draw
from hypothesis import given, settings
from hypothesis import strategies as st

import fbconv
from fbconv._cops.planes import Planes
from fbconv._cops.rounding import Columns
from fbconv._cops.several_controls import with_several

pytestmark = pytest.mark.filterwarnings("ignore::fbconv.LayerCollapseWarning")


def random_problem(seed: int, size: int) -> tuple[list[np.ndarray], int, list[float]]:
    rng = np.random.default_rng(seed)
    controls = int(rng.integers(2, 5))
    scores = draw(KINDS[seed % len(KINDS)], size, rng, controls)
    keep = int(size * rng.choice([0.03, 0.1, 0.4, 0.9]))
    return scores, keep, [float(alpha) for alpha in rng.choice([0.1, 0.2, 0.3, 0.5], controls)]


def solve(scores, keep, alphas, few):
    """As fbconv.cops does, but with another size at which the linear program takes over."""
    norms = [float(np.abs(score).sum()) or 1.0 for score in scores]
    mask, values = with_several([torch.from_numpy(score) for score in scores], norms, keep, alphas, few)
    return fbconv.CopsResult({"w": mask}, **values)


def attempt(function, *arguments):
    """The result and no error, or no result and the error's text."""
    try:
        return function(*arguments), ""
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize(("few", "size"), [(20, 150), (50, 1000), (100, 4000)])
@pytest.mark.parametrize("kind", KINDS)
def test_against_linear_programming(kind, few, size):
    """``few`` far below ``size``: nearly all weights are decided by the cutting planes."""
    solved = 0
    for seed in range(KINDS.index(kind), 5 * len(KINDS), len(KINDS)):
        scores, keep, alphas = random_problem(seed, size)
        copies = [score.copy() for score in scores]
        problem = Problem.of(scores, keep, alphas)
        optimum = problem.by_highs()
        result, error = attempt(solve, scores, keep, alphas, few)
        if optimum is None:
            assert "controls together at alpha = (" in error
        elif result is None:
            assert "no mask was found that meets all controls" in error
        else:
            assert abs(result.lp_value - optimum) <= 1e-7 * abs(optimum) + 1e-15, seed
            check_solution(problem, result)
            assert all((score == copy).all() for score, copy in zip(scores, copies, strict=True))
            solved += 1
    assert solved >= 3


def test_a_large_problem_through_the_public_call():
    scores = draw("normal", 60_000, np.random.default_rng(0), controls=3)
    alphas = [0.2, 0.3, 0.4]
    target, *controls = map(as_scores, scores)
    result = fbconv.cops(target, controls, sparsity=0.9, alpha=alphas)
    problem = Problem.of(scores, 6000, alphas)
    check_solution(problem, result)
    check_count(problem, result, tolerance=1e-9)
    # A vertex has as many fractional weights as there are constraints.
    largest = np.sort(np.abs(problem.target))[-4:].sum()
    assert 0 <= result.objective_gap == result.bound <= largest
    assert result.objective_gap < 1e-3 * abs(result.lp_value)
    assert [mask.shape for mask in result.masks.values()] == [(1, 30_000), (30_000,)]


def test_masses_of_ties():
    scores = draw("few values", 100_000, np.random.default_rng(1), controls=2)
    result = fbconv.cops(as_scores(scores[0]), [as_scores(score) for score in scores[1:]], 0.6, alpha=0.6)
    problem = Problem.of(scores, 40_000, [0.6, 0.6])
    check_solution(problem, result)
    assert result.objective_gap <= 1e-4 * abs(result.lp_value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_tiny_problems_against_all_masks(data):
    size, count = data.draw(st.integers(2, 6)), data.draw(st.integers(2, 3))
    values = st.integers(-4, 4).map(float)
    scores = [np.array(data.draw(st.lists(values, min_size=size, max_size=size))) for _ in range(1 + count)]
    keep = data.draw(st.integers(0, size))
    alphas = [data.draw(st.sampled_from([0, 0.1, 0.35, 0.8])) for _ in range(count)]
    problem = Problem.of(scores, keep, alphas)
    masks = np.array(list(itertools.product((False, True), repeat=size)))
    inside = masks.sum(1) <= keep
    met = inside & (masks @ problem.controls.T <= problem.kappas + 1e-12).all(1)
    target, *controls = map(as_scores, scores)
    result, error = attempt(fbconv.cops, target, controls, 1 - keep / size, alphas)
    if result is None:
        assert "no mask" in error
        safely_met = inside & (masks @ problem.controls.T <= problem.kappas - 1e-6).all(1)
        assert not safely_met.any()
        return
    check_solution(problem, result)
    best = (masks @ problem.target)[met].min()
    assert result.lp_value - 1e-9 <= best <= result.target_value + 1e-12


def test_controls_that_contradict_each_other():
    control = {"w": torch.tensor([1.0, -1.0, 2.0, -2.0])}
    opposite = {"w": -control["w"]}
    target = {"w": torch.ones(4)}
    message = r"no mask meets all 2 controls together at alpha = \(0.5, 0.5\)"
    with pytest.raises(ValueError, match=message):
        fbconv.cops(target, [control, opposite], 0.5, alpha=0.5)
    big = draw("normal", 20_000, np.random.default_rng(0), controls=2)
    big[2] = -big[1]
    with pytest.raises(ValueError, match=message):
        fbconv.cops(as_scores(big[0]), [as_scores(score) for score in big[1:]], 0.5, alpha=0.5)


def test_a_fraction_meets_the_controls_but_no_mask_does():
    target = {"w": torch.ones(2)}
    controls = [{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}]
    with pytest.raises(ValueError, match=r"no mask was found that meets all controls at alpha = \(0.4, 0.4\)"):
        fbconv.cops(target, controls, sparsity=0.5, alpha=0.4)


def test_a_control_that_is_met_exactly_is_met():
    """Of all masks one alone meets both controls: its sums are .1 times -10 and .6 times -5."""
    target = {"w": torch.tensor([-3.0, 3, -2, 0, -3, 1, 0, -1])}
    first = {"w": torch.tensor([3.0, 3, -2, -3, 2, -2, 0, 2])}
    second = {"w": torch.tensor([0.0, -2, 2, -1, 2, 3, -2, 3])}
    alphas = (0.1, 0.6)
    result = fbconv.cops(target, [first, second], sparsity=3 / 8, alpha=alphas)
    assert all(value <= kappa for value, kappa in zip(result.control_value, result.kappa, strict=True))
    for array in (np.array(alphas), torch.tensor(alphas, dtype=torch.float64)):
        again = fbconv.cops(target, [first, second], sparsity=3 / 8, alpha=array)
        assert torch.equal(again.masks["w"], result.masks["w"])


def test_rounding_that_misses_a_control_is_repaired(monkeypatch):
    relaxed = []
    relax = Columns.relax
    monkeypatch.setattr(Columns, "relax", lambda self, kappas: relaxed.append(kappas) or relax(self, kappas))
    monkeypatch.setattr(Columns, "_search", lambda self, kappas: pytest.fail("tightening should have done"))
    scores, keep, alphas = random_problem(7, 150)
    result = solve(scores, keep, alphas, few=20)
    assert len(relaxed) > 1
    assert all((later < relaxed[0]).all() for later in relaxed[1:])
    check_solution(Problem.of(scores, keep, alphas), result)


def test_branch_and_bound_finds_what_rounding_misses(monkeypatch):
    scores, keep, alphas = random_problem(196, 12)
    check_solution(Problem.of(scores, keep, alphas), solve(scores, keep, alphas, few=20))
    monkeypatch.setattr(Columns, "_search", lambda self, kappas: None)
    with pytest.raises(ValueError, match="no mask was found"):
        solve(scores, keep, alphas, few=20)


@pytest.mark.parametrize("alphas", [(0, 0.5, 0), (0, 0, 0), (0.3, 0, 0.3)])
def test_a_control_with_alpha_0_is_off(alphas):
    scores = draw("normal", 3000, np.random.default_rng(3), controls=3)
    target, *controls = map(as_scores, scores)
    result = fbconv.cops(target, controls, 0.8, alphas)
    on = [control for control, alpha in zip(controls, alphas, strict=True) if alpha]
    alone = fbconv.cops(target, on or controls[0], 0.8, [alpha for alpha in alphas if alpha] or 0)
    assert (as_vector(result.masks) == as_vector(alone.masks)).all()
    assert result.lp_value == alone.lp_value
    for k, alpha in enumerate(alphas):
        assert (result.multiplier[k] == 0, result.kappa[k] == math.inf) == (alpha == 0, alpha == 0)
    check_solution(Problem.of(scores, 600, alphas), result)


def test_a_single_control_in_a_list_gives_tuples():
    target, control = map(as_scores, draw("normal", 500, np.random.default_rng(4)))
    alone, listed = fbconv.cops(target, control, 0.8, 0.5), fbconv.cops(target, [control], 0.8, [0.5])
    assert listed.multiplier == (alone.multiplier,)
    assert listed.control_value == (alone.control_value,)
    assert listed.kappa == (alone.kappa,)
    assert (as_vector(listed.masks) == as_vector(alone.masks)).all()


@pytest.mark.parametrize("sparsity", [0, 1])
def test_every_weight_and_none(sparsity):
    scores = draw("normal", 5000, np.random.default_rng(5), controls=2)
    result = fbconv.cops(as_scores(scores[0]), [as_scores(score) for score in scores[1:]], sparsity, alpha=0.3)
    check_solution(Problem.of(scores, 5000 * (1 - sparsity), [0.3, 0.3]), result)


def test_controls_that_are_met_anyway():
    target = draw("correlated", 20_000, np.random.default_rng(6), controls=2)
    result = fbconv.cops(as_scores(target[0]), [as_scores(score) for score in target[1:]], 0.9, alpha=0.01)
    assert result.multiplier == (0, 0)
    assert result.objective_gap == pytest.approx(0, abs=1e-15)
    assert (as_vector(result.masks) == as_vector(fbconv.select(as_scores(target[0]), 0.9))).all()


def test_minus_infinity_in_any_score_is_never_kept():
    rng = np.random.default_rng(7)
    scores = [{"w": torch.from_numpy(rng.random(50))} for _ in range(3)]
    for k, score in enumerate(scores):
        score["w"][10 * k] = -torch.inf
    result = fbconv.cops(scores[0], scores[1:], sparsity=0, alpha=0.5)
    assert (~result.masks["w"]).nonzero().flatten().tolist() == [0, 10, 20]
    scores[2]["w"][3] = math.nan
    with pytest.raises(ValueError, match=r"control\[1\] of 'w' must be finite"):
        fbconv.cops(scores[0], scores[1:])


def test_the_number_of_alphas():
    scores = {"w": torch.ones(3)}
    with pytest.raises(ValueError, match="got 2 controls and 3 alphas"):
        fbconv.cops(scores, [scores, scores], alpha=[0.1, 0.1, 0.1])


def test_without_scipy(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    scores = {"w": torch.ones(3)}
    assert fbconv.cops(scores, scores).kept == 0
    with pytest.raises(
        ImportError, match=r"several controls need scipy; install it with: pip install 'fbconv\[cops\]'"
    ):
        fbconv.cops(scores, [scores, scores])


def test_on_every_device(device):
    scores = draw("normal", 20_000, np.random.default_rng(8), controls=2)
    target, *controls = ({name: value.to(device) for name, value in as_scores(s).items()} for s in scores)
    result = fbconv.cops(target, controls, 0.9, alpha=0.4)
    assert all(mask.device.type == device.type for mask in result.masks.values())
    check_solution(Problem.of(scores, 2000, [0.4, 0.4]), result)


def test_planes():
    planes = Planes()
    for value, slope in ((0.0, [1.0, 0.0]), (0.0, [0.0, 2.0]), (6.0, [-1.0, -1.0])):
        planes.add(value, np.array(slope))
    point, height = planes.highest(np.zeros(2), np.full(2, 100.0))
    # x = 2y = 6 - x - y
    np.testing.assert_allclose(point, [2.4, 1.2])
    assert height == pytest.approx(2.4)
    assert planes.at(np.array([1.0, 1.0])) == 1
    lower, upper = planes.box(2.0, np.zeros(2), np.full(2, 100.0))
    np.testing.assert_allclose(lower, [2, 1])
    np.testing.assert_allclose(upper, [3, 2])
