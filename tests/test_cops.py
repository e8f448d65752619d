"""COPS with one control: against linear programming, against all masks, and at the edges."""

import itertools
import math
import pkgutil
from types import ModuleType

import numpy as np
import pytest
import torch
from cops_problems import KINDS, Problem, as_scores, as_vector, check_count, check_neighbour, check_solution, draw
from hypothesis import given, settings
from hypothesis import strategies as st

import fbconv
from fbconv import _C
from fbconv._cops import one_control_torch

pytestmark = pytest.mark.filterwarnings("ignore::fbconv.LayerCollapseWarning")
ALPHAS = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.99999, 0.999999)
# 300 problems: seed -> number of weights
SIZES = {seed: (20, 100, 400, 1000)[seed % 4] for seed in range(285)} | {
    seed: (3000, 5000, 8000)[seed % 3] for seed in range(285, 297)
}
SIZES |= {297: 20_000, 298: 20_000, 299: 20_000}


def random_problem(seed: int, size: int) -> tuple[list[np.ndarray], int, float]:
    rng = np.random.default_rng(seed)
    scores = draw(KINDS[seed % len(KINDS)], size, rng)
    return scores, int(size * rng.choice([0.005, 0.01, 0.1, 0.3, 0.9])), float(rng.choice(ALPHAS))


def sparsity_for(keep: int, size: int) -> float:
    return 1 - keep / size


@pytest.mark.parametrize("seeds", [range(first, first + 20) for first in range(0, 300, 20)], ids=lambda s: f"{s[0]}-")
def test_against_linear_programming(seeds):
    for seed in seeds:
        scores, keep, alpha = random_problem(seed, SIZES[seed])
        problem = Problem.of(scores, keep, [alpha])
        target, control = map(as_scores, scores)
        result = fbconv.cops(target, control, sparsity_for(keep, SIZES[seed]), alpha)
        optimum = problem.by_highs()
        assert abs(result.lp_value - optimum) <= 1e-7 * abs(optimum) + 1e-15, seed
        mask = check_solution(problem, result)
        check_count(problem, result)
        check_neighbour(problem, result, mask)


def certify(problem: Problem, result: fbconv.CopsResult) -> None:
    """Optimality without a solver: between m- and m+ lies a fractional mask that meets the constraint, with the dual
    value for its target score; by weak duality both are optimal."""
    check_solution(problem, result, tolerance=1e-11)
    check_count(problem, result)
    if result.multiplier == 0:
        assert result.bound == 0
        return
    # S0(m-) = S0(m+) - bound, and both masks have the same mixed score.
    fall = result.bound / result.multiplier
    share = (problem.kappas[0] - result.control_value) / fall if fall else 0.0
    assert -1e-9 <= share <= 1 + 1e-9
    fractional = result.target_value - share * result.bound
    assert abs(fractional - result.lp_value) <= 1e-11 * (1 + result.multiplier)


@pytest.mark.parametrize("order", ["random", "by target", "by control", "periodic"])
@pytest.mark.parametrize("kind", [*KINDS, "wild"])
def test_many_weights_are_decided_by_guesses(kind, order):
    rng = np.random.default_rng(len(kind) + len(order))
    size = 150_000
    if kind == "wild":
        scores = [np.exp(8 * rng.standard_normal(size)) * sign for sign in (-1, rng.choice([-1, 1], size))]
    else:
        scores = draw(kind, size, rng)
    if order == "periodic":  # what a sample at equal distances would miss
        for score in scores:
            score[::16] *= 100
    elif order != "random":
        permutation = np.argsort(scores[order == "by control"], kind="stable")
        scores = [score[permutation] for score in scores]
    keep, alpha = int(size * rng.choice([0.001, 0.01, 0.5])), float(rng.choice(ALPHAS))
    dtype = torch.float32 if len(order) % 2 else torch.float64
    target, control = (as_scores(score, dtype) for score in scores)
    rounded = [
        -torch.cat([value.flatten() for value in score.values()]).double().numpy() for score in (target, control)
    ]
    result = fbconv.cops(target, control, sparsity_for(keep, size), alpha)
    certify(Problem.of(rounded, keep, [alpha]), result)


def all_masks(size: int) -> np.ndarray:
    return np.array(list(itertools.product((False, True), repeat=size)))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_tiny_problems_against_all_masks(data):
    size = data.draw(st.integers(1, 7))
    values = st.one_of(
        st.integers(-3, 3).map(float), st.floats(-1, 1, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6)
    )
    scores = [np.array(data.draw(st.lists(values, min_size=size, max_size=size))) for _ in range(2)]
    keep, alpha = data.draw(st.integers(0, size)), data.draw(st.sampled_from([0, 0.1, 0.5, 0.9, 0.999999]))
    problem = Problem.of(scores, keep, [alpha])
    result = fbconv.cops(*map(as_scores, scores), sparsity_for(keep, size), alpha)
    mask = check_solution(problem, result)
    check_count(problem, result)
    check_neighbour(problem, result, mask)
    masks = all_masks(size)
    values = masks @ np.stack([problem.target, problem.controls[0]]).T
    feasible = (masks.sum(1) <= keep) & (values[:, 1] <= problem.kappas[0] + 1e-15)
    best = values[feasible, 0].min()
    assert result.lp_value - 1e-12 * (1 + result.multiplier) <= best <= result.target_value + 1e-12


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 300), levels=st.integers(1, 5))
def test_alpha_0_is_the_targets_mask_ties_to_the_first(seed, size, levels):
    rng = np.random.default_rng(seed)
    target, control = rng.integers(-levels, 2, size) / 2, rng.integers(-levels, levels, size) / 2
    keep = int(rng.integers(0, size + 1))
    result = fbconv.cops(as_scores(target), as_scores(control), sparsity_for(keep, size), alpha=0)
    expected = np.zeros(size, dtype=bool)
    expected[[i for i in np.argsort(target, kind="stable")[:keep] if target[i] < 0]] = True
    assert (as_vector(result.masks) == expected).all()
    assert (result.multiplier, result.kappa, result.bound, result.objective_gap) == (0, math.inf, 0, 0)


def test_alpha_leads_from_the_targets_mask_to_the_controls():
    target, control = map(as_scores, draw("normal", 5000, np.random.default_rng(0)))
    ends = [fbconv.cops(scores, scores, 0.9, 0).masks for scores in (target, control)]
    results = [fbconv.cops(target, control, 0.9, alpha) for alpha in (0, 0.2, 0.5, 0.8, 0.99, 0.999999)]
    to_target, to_control = ([fbconv.mask_similarity(r.masks, end) for r in results] for end in ends)
    assert to_target == sorted(to_target, reverse=True)
    assert to_control == sorted(to_control)
    assert to_target[0] == 1
    assert to_control[-1] > 0.99
    multipliers = [r.multiplier for r in results]
    assert multipliers == sorted(multipliers)


@pytest.mark.parametrize("alpha", [0, 0.5, 0.999999])
def test_no_weight_and_every_weight(alpha):
    scores = draw("normal", 50, np.random.default_rng(1))
    target, control = map(as_scores, scores)
    none = fbconv.cops(target, control, sparsity=1, alpha=alpha)
    assert none.kept == none.target_value == none.lp_value == none.bound == none.multiplier == 0
    assert not as_vector(none.masks).any()
    everything = fbconv.cops(target, control, sparsity=0, alpha=alpha)
    problem = Problem.of(scores, 50, [alpha])
    check_neighbour(problem, everything, check_solution(problem, everything))


def test_a_target_without_negative_scores_keeps_what_the_control_asks_for():
    target, control = np.array([1.0, 2.0, 3.0]), np.array([1.0, -1.0, -2.0])
    off = fbconv.cops(as_scores(target), as_scores(control), 0, alpha=0)
    assert off.kept == 0
    on = fbconv.cops(as_scores(target), as_scores(control), 0, alpha=0.6)
    assert as_vector(on.masks).tolist() == [False, False, True]


def test_a_control_without_negative_scores_allows_only_its_zeros():
    target, control = -np.array([5.0, 4.0, 3.0, 2.0, 1.0]), np.array([1.0, 0.0, 1e-30, 0.0, 2.0])
    result = fbconv.cops(as_scores(target), as_scores(control), 0, alpha=0.5)
    assert as_vector(result.masks).tolist() == [False, True, False, True, False]
    assert result.kappa == result.control_value == 0


def test_all_scores_negative():
    scores = [-1 - np.arange(40.0), -40 + np.arange(40.0)]
    result = fbconv.cops(*map(as_scores, scores), sparsity=0.75, alpha=0.9)
    problem = Problem.of(scores, 10, [0.9])
    check_neighbour(problem, result, check_solution(problem, result))
    assert result.kept == 10


@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, -1), (-1, 0), (-1, -1), (-1, 1)])
def test_all_scores_equal(a, b):
    scores = [np.full(30, float(a)), np.full(30, float(b))]
    result = fbconv.cops(*map(as_scores, scores), sparsity=0.5, alpha=0.5)
    problem = Problem.of(scores, 15, [0.5])
    mask = check_solution(problem, result)
    check_neighbour(problem, result, mask)
    # Equal weights go in from the first on.
    assert (mask == (np.arange(30) < result.kept)).all()


def test_masses_of_ties_stay_fast_and_right():
    scores = draw("few values", 400_000, np.random.default_rng(3))
    result = fbconv.cops(*map(as_scores, scores), sparsity=0.6, alpha=0.7)
    certify(Problem.of(scores, 160_000, [0.7]), result)
    assert result.steps < 100


def test_numbers_far_apart():
    """Multipliers of any size, down to where numbers end."""
    target, control = np.array([-1e300, -1e299, 1e-300, -1.0]), np.array([5e-324, -1e-310, -1e-320, 1e-309])
    result = fbconv.cops(as_scores(target), as_scores(control), sparsity=0.5, alpha=0.9)
    assert result.control_value <= result.kappa
    assert as_vector(result.masks).tolist() == [True, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int32, torch.int8])
def test_dtypes_shapes_and_untouched_inputs(dtype):
    generator = torch.Generator().manual_seed(0)
    target, control = (
        {"w": torch.randint(-50, 50, (6, 8, 3), generator=generator).permute(1, 2, 0), "v": torch.zeros(0)}
        for _ in range(2)
    )
    target, control = ({k: v.to(dtype) for k, v in scores.items()} for scores in (target, control))
    copies = [{k: v.clone() for k, v in scores.items()} for scores in (target, control)]
    result = fbconv.cops(target, control, sparsity=0.8, alpha=0.5)
    assert all(torch.equal(s[k], c[k]) for s, c in zip((target, control), copies, strict=True) for k in s)
    assert {k: (m.shape, m.dtype) for k, m in result.masks.items()} == {
        k: (v.shape, torch.bool) for k, v in target.items()
    }
    vectors = [-s["w"].double().flatten().numpy() for s in (target, control)]
    check_solution(Problem.of(vectors, 28, [0.5]), result)


def test_float64_scores_are_not_rounded():
    target = np.array([-1 - 2e-12, -1 - 1e-12, -1.0])
    result = fbconv.cops(as_scores(target), as_scores(-np.ones(3)), sparsity=1 / 3, alpha=0.5)
    assert as_vector(result.masks).tolist() == [True, True, False]
    wide, narrow = {"w": torch.tensor([1 + 1e-12, 1.0]).double()}, {"w": torch.tensor([1.0, 1.0])}
    wide["w"][0] += 1e-12
    assert fbconv.cops(wide, narrow, 0.5).masks["w"].tolist() == [True, False]


def test_minus_infinity_is_never_kept():
    inf = torch.inf
    target, control = {"w": torch.tensor([9.0, 8.0, -inf, 7.0])}, {"w": torch.tensor([1.0, -inf, 2.0, 1.0])}
    result = fbconv.cops(target, control, sparsity=0, alpha=0.5)
    assert result.masks["w"].tolist() == [True, False, False, True]
    assert result.target_value == -1  # what is never kept does not count in the norm
    assert fbconv.cops(target, target, 0.75, alpha=0.5).masks["w"].tolist() == [True, False, False, False]


def test_a_compressed_layer_keeps_within_its_pattern():
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
    first = torch.rand(30, 20, generator=torch.Generator().manual_seed(0)) < 0.3
    model = fbconv.sparsify(model, {"0.weight": first})
    batches = [(torch.randn(16, 20), torch.randint(5, (16,)))]
    target, control = (fbconv.score(model, name, batches) for name in ("snip", "magnitude"))
    result = fbconv.cops(target, control, sparsity=0.9, alpha=0.9)
    assert not (result.masks["0.values"] & ~first).any()
    assert result.kept == 75
    assert fbconv.sparsify(model, result.masks)[0].pattern.nnz == int(result.masks["0.values"].sum())


@pytest.mark.parametrize(("bad", "what"), [(math.nan, "1 NaN"), (math.inf, "1 infinite")])
@pytest.mark.parametrize("argument", ["target", "control"])
def test_not_a_number_names_the_tensor(argument, bad, what):
    scores = {name: {"good": torch.ones(3), "bad": torch.ones(3)} for name in ("target", "control")}
    scores[argument]["bad"][1] = bad
    with pytest.raises(ValueError, match=rf"cops: {argument} of 'bad' must be finite .*, got {what}"):
        fbconv.cops(**scores)
    with pytest.raises(ValueError, match=f"linear_mix: {argument} of 'bad' must be finite"):
        fbconv.linear_mix(**scores, weight=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": {}}, "target must hold at least one tensor, got none"),
        ({"target": {"w": np.ones(2)}}, "target of 'w' must be a tensor, got ndarray"),
        ({"control": {"w": [1.0, 2.0]}}, "control of 'w' must be a tensor, got list"),
        ({"control": {"w": torch.ones(3)}}, r"control of 'w' must have target's shape \(2,\), got \(3,\)"),
        ({"control": {"v": torch.ones(2)}}, "control must have target's names, but '[vw]' is only in"),
        ({"control": {"w": torch.ones(2, device="meta")}}, "control of 'w' must be on cpu, got meta"),
        ({"control": {"w": torch.ones(2, dtype=torch.complex64)}}, "control of 'w' must be real, got torch.complex64"),
        ({"target": {"w": torch.full((2,), 1e308, dtype=torch.float64) * 1.5}}, "target must have .* finite sum"),
        ({"alpha": 1.0}, r"alpha must be in \[0, 1\), got 1.0"),
        ({"alpha": -0.1}, r"alpha must be in \[0, 1\), got -0.1"),
        ({"alpha": math.nan}, r"alpha must be in \[0, 1\), got nan"),
        ({"alpha": [0.5, 0.5]}, "got 1 controls and 2 alphas"),
        ({"control": []}, "got 0 controls"),
        ({"sparsity": 1.5}, r"sparsity must be in \[0, 1\], got 1.5"),
    ],
)
def test_errors(change, message):
    arguments = {"target": {"w": torch.ones(2)}, "control": {"w": torch.ones(2)}} | change
    with pytest.raises(ValueError, match=message):
        fbconv.cops(**arguments)


def test_errors_of_the_compiled_solver():
    a, b = np.array([-3.0, -2.0, -1.0], dtype=np.float32), np.array([1.0, -1.0, -3.0])
    with pytest.raises(ValueError, match="kappa must be at least -4, the lowest control score of any mask, got -4.1"):
        _C.cops_solve(a, b, 2, -4.1, 1.0)
    assert _C.cops_solve(a, b, 2, -4.0, 1.0)["mask"].tolist() == [False, True, True]
    for function in (_C.cops_scale, lambda *x: _C.cops_solve(*x, 0.0, 1.0)):
        with pytest.raises(ValueError, match=r"keep must be in \[0, 3\], got -1"):
            function(a, b, -1)
        with pytest.raises(ValueError, match=r"keep must be in \[0, 3\], got 4"):
            function(a, b, 4)
        with pytest.raises(ValueError, match="control must have target's 3 scores, got 2"):
            function(a, b[:2], 1)
        with pytest.raises(ValueError, match="target must be a contiguous float32 or float64 vector, got int64"):
            function(a.astype(int), b, 1)
        with pytest.raises(ValueError, match=r"control must be a contiguous .* got float64 of shape \(3,\)"):
            function(a, np.repeat(b, 2)[::2], 1)
    with pytest.raises(ValueError, match="kappa must be a number, got NaN"):
        _C.cops_solve(a, b, 1, math.nan, 1.0)
    with pytest.raises(ValueError, match="multiplier must be positive, got 0"):
        _C.cops_solve(a, b, 1, 0.0, 0.0)


def test_the_compiled_solver_counts_what_is_not_finite():
    a, b = np.ones(100_000, dtype=np.float32), np.ones(100_000)
    a[[5, 70_000]], b[99_999] = [np.nan, -np.inf], np.inf
    scale = _C.cops_scale(a, b, 10)
    assert (scale["target_not_finite"], scale["control_not_finite"]) == (2, 1)


def test_a_layer_that_loses_everything_is_reported():
    scores = {"w": torch.tensor([3.0, 2.0]), "last": torch.tensor([0.1])}
    with pytest.warns(fbconv.LayerCollapseWarning, match="'last'"):
        fbconv.cops(scores, scores, sparsity=1 / 3, alpha=0.5)


def test_threads_do_not_change_the_result():
    scores = [as_scores(score, torch.float32) for score in draw("heavy-tailed", 1_200_000, np.random.default_rng(5))]
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(fbconv.cops(*scores, sparsity=0.95, alpha=0.9))
    finally:
        torch.set_num_threads(threads)
    first = results[0]
    for other in results[1:]:
        assert all(torch.equal(first.masks[name], other.masks[name]) for name in first.masks)
        for field in ("multiplier", "target_value", "control_value", "lp_value", "bound", "steps"):
            assert getattr(first, field) == getattr(other, field)


@pytest.mark.parametrize("alpha", [0, 0.1, 0.9, 0.999999])
@pytest.mark.parametrize("keep", [0, 1, 30, 2500, 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_the_torch_version_finds_the_same_mask(kind, keep, alpha):
    target, control = (torch.from_numpy(score) for score in draw(kind, 5000, np.random.default_rng(keep)))
    if keep == 30:
        target = target.float()
    copies = target.clone(), control.clone()
    scale = _C.cops_scale(target.numpy(), control.numpy(), keep)
    ours = one_control_torch.scale(target, control, keep)
    assert ours == pytest.approx(scale, rel=1e-12, abs=0)
    kappa = alpha * scale["control_min"] if alpha else math.inf
    expected = _C.cops_solve(target.numpy(), control.numpy(), keep, kappa, scale["multiplier"])
    found = one_control_torch.solve(target, control, keep, kappa, scale["multiplier"], handoff=20)
    assert (found["mask"].numpy() == expected["mask"]).all()
    for name in ("multiplier", "dual", "target_plus", "control_plus", "target_minus", "control_minus", "kept"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-9)
    assert torch.equal(target, copies[0])
    assert torch.equal(control, copies[1])


def test_the_torch_version_says_what_is_infeasible_and_not_finite():
    target, control = torch.tensor([-3.0, -2.0, -1.0]), torch.tensor([1.0, -1.0, -3.0])
    with pytest.raises(ValueError, match="kappa must be at least -4, the lowest control score of any mask, got -5"):
        one_control_torch.solve(target, control, 2, -5.0, 1.0, handoff=0)
    scale = one_control_torch.scale(torch.tensor([math.nan, 1.0]), torch.tensor([math.inf, -math.inf]), 1)
    assert (scale["target_not_finite"], scale["control_not_finite"]) == (1, 2)


def test_masks_on_every_device(device):
    target, control = (as_scores(score, torch.float32) for score in draw("normal", 300_000, np.random.default_rng(7)))
    expected = fbconv.cops(target, control, sparsity=0.9, alpha=0.7)
    moved = [{name: value.to(device) for name, value in scores.items()} for scores in (target, control)]
    result = fbconv.cops(*moved, sparsity=0.9, alpha=0.7)
    assert all(mask.device.type == device.type for mask in result.masks.values())
    assert (as_vector(result.masks) == as_vector(expected.masks)).all()


def test_linear_mix_with_the_found_multiplier_selects_the_same_weights():
    target, control = map(as_scores, draw("normal", 2000, np.random.default_rng(9)))
    result = fbconv.cops(target, control, sparsity=0.9, alpha=0.8)
    mixed = fbconv.linear_mix(target, control, result.multiplier)
    other = fbconv.select(mixed, 0.9)
    # One pair of weights ties at this multiplier: both m- and m+ are its selections.
    assert fbconv.mask_similarity(result.masks, other) >= 1 - 1 / 200


def test_linear_mix_by_hand():
    target = {"w": torch.tensor([3.0, -1.0, -torch.inf])}
    control = {"w": torch.tensor([2.0, 2.0, 9.0])}
    mixed = fbconv.linear_mix(target, control, weight=2)["w"]
    torch.testing.assert_close(mixed, torch.tensor([3 / 4 + 2 / 2, -1 / 4 + 2 / 2, -torch.inf]))
    assert torch.equal(fbconv.linear_mix(target, target, 0)["w"], torch.tensor([0.75, -0.25, -torch.inf]))
    with pytest.raises(ValueError, match=r"weight must be in \[0, inf\), got -1"):
        fbconv.linear_mix(target, control, weight=-1)


def test_no_module_takes_the_place_of_a_public_function():
    """Importing a submodule sets an attribute of its package, whatever stood there."""
    modules = {module.name for module in pkgutil.iter_modules(fbconv.__path__)}
    assert [name for name in modules & set(fbconv.__all__) if not isinstance(getattr(fbconv, name), ModuleType)] == []
