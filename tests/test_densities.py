"""Layer densities: uniform, ER and ERK, against the definition and against an independent solver."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fbconv.densities import layer_counts
from fbconv.masks import select

RESNET_LIKE = {
    "stem": (64, 3, 3, 3), "conv1": (64, 64, 3, 3), "conv2": (128, 64, 3, 3), "shortcut": (128, 64, 1, 1),
    "conv3": (512, 512, 3, 3), "fc": (10, 512),
}  # fmt: skip


def factor(shape, distribution):
    if distribution == "uniform":
        return 1.0
    if distribution == "er":
        return (shape[0] + shape[1]) / (shape[0] * shape[1])
    return sum(shape) / math.prod(shape)


def exact_densities(shapes, keep, distribution):
    """``min(1, eps * f)`` with eps by bisection."""
    low, high = 0.0, 1e9
    for _ in range(200):
        eps = (low + high) / 2
        densities = {name: min(1.0, eps * factor(shape, distribution)) for name, shape in shapes.items()}
        total = sum(density * math.prod(shapes[name]) for name, density in densities.items())
        low, high = (eps, high) if total < keep else (low, eps)
    return densities


@pytest.mark.parametrize("distribution", ["uniform", "er", "erk"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.2, 0.5, 0.9, 0.999, 1.0])
def test_counts_are_the_densities_rounded_and_sum_to_the_budget(distribution, share):
    total = sum(map(math.prod, RESNET_LIKE.values()))
    keep = round(share * total)
    counts = layer_counts(RESNET_LIKE, keep, distribution)
    assert list(counts) == list(RESNET_LIKE)
    assert sum(counts.values()) == keep
    for name, density in exact_densities(RESNET_LIKE, keep, distribution).items():
        size = math.prod(RESNET_LIKE[name])
        assert 0 <= counts[name] <= size
        assert abs(counts[name] - density * size) <= 1


def test_layers_above_one_are_dense_and_eps_is_solved_again():
    """At density .2 an unpinned ERK would give the stem 2.2 of its weights."""
    total = sum(map(math.prod, RESNET_LIKE.values()))
    keep = total // 5
    unpinned = keep / sum(sum(shape) for shape in RESNET_LIKE.values())
    assert unpinned * factor(RESNET_LIKE["stem"], "erk") > 1
    counts = layer_counts(RESNET_LIKE, keep, "erk")
    densities = {name: counts[name] / math.prod(shape) for name, shape in RESNET_LIKE.items()}
    assert densities["stem"] == densities["shortcut"] == densities["fc"] == 1
    ratios = [densities[name] / factor(RESNET_LIKE[name], "erk") for name in ("conv1", "conv2", "conv3")]
    if densities["conv1"] < 1:
        assert ratios[0] == pytest.approx(ratios[2], rel=1e-4)
    assert ratios[1] == pytest.approx(ratios[2], rel=1e-4)


def test_erk_counts_kernel_sizes_and_er_does_not():
    shapes = {"wide": (100, 100, 1, 1), "large": (100, 100, 5, 5)}
    er, erk = (layer_counts(shapes, 10_000, distribution) for distribution in ("er", "erk"))
    assert er["large"] == pytest.approx(25 * er["wide"], rel=0.01)
    assert erk["large"] == pytest.approx(erk["wide"] * 210 / 202, rel=0.01)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=5),
    distribution=st.sampled_from(["uniform", "er", "erk"]),
    data=st.data(),
)
def test_webster_by_sorting_all_thresholds(sizes, distribution, data):
    shapes = {f"w{i}": shape for i, shape in enumerate(sizes)}
    total = sum(map(math.prod, sizes))
    keep = data.draw(st.integers(0, total))
    thresholds = sorted(
        ((k - 0.5) / (factor(shape, distribution) * math.prod(shape)), i)
        for i, shape in enumerate(sizes)
        for k in range(1, math.prod(shape) + 1)
    )
    counts = list(layer_counts(shapes, keep, distribution).values())
    assert sum(counts) == keep
    # Equal thresholds may differ in the last bit here: compare what was taken by its worst threshold.
    taken = sorted(
        (k - 0.5) / (factor(shape, distribution) * math.prod(shape))
        for shape, count in zip(sizes, counts, strict=True)
        for k in range(1, count + 1)
    )
    assert taken == pytest.approx([threshold for threshold, _ in thresholds[:keep]], rel=1e-12)


@pytest.mark.parametrize("distribution", ["uniform", "er", "erk"])
def test_no_count_falls_when_the_budget_rises(distribution):
    shapes = {"a": (3, 2, 2, 2), "b": (5, 3), "c": (7, 7), "d": (1, 4)}
    counts = [layer_counts(shapes, keep, distribution) for keep in range(sum(map(math.prod, shapes.values())) + 1)]
    for before, after in itertools.pairwise(counts):
        assert all(before[name] <= after[name] for name in shapes)


def test_empty_layers_and_vectors():
    assert layer_counts({"empty": (0, 3), "full": (2, 2)}, 3, "erk") == {"empty": 0, "full": 3}
    assert layer_counts({}, 0, "uniform") == {}
    assert layer_counts({"vector": (8,)}, 3, "erk") == {"vector": 3}
    with pytest.raises(ValueError, match=r"distribution er needs rows and channels, got 'vector' of shape \(8,\)"):
        layer_counts({"vector": (8,)}, 3, "er")


@pytest.mark.parametrize(
    ("keep", "distribution", "message"),
    [
        (1, "erdos", "distribution must be one of uniform, er, erk, got 'erdos'"),
        (5, "uniform", r"keep must be in \[0, 4\], got 5"),
        (-1, "uniform", r"keep must be in \[0, 4\], got -1"),
    ],
)
def test_bad_arguments(keep, distribution, message):
    with pytest.raises(ValueError, match=message):
        layer_counts({"a": (2, 2)}, keep, distribution)


@pytest.mark.parametrize("distribution", ["uniform", "er", "erk"])
def test_select_keeps_the_best_of_each_layer(distribution):
    source = torch.Generator().manual_seed(0)
    shapes = {name: (shape[0] // 2, *shape[1:]) for name, shape in RESNET_LIKE.items() if name != "conv3"}
    scores = {name: i + torch.rand(shape, generator=source) for i, (name, shape) in enumerate(shapes.items())}
    masks = select(scores, 0.8, distribution=distribution)
    keep = int(0.2 * sum(map(math.prod, shapes.values())) + 1e-6)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == layer_counts(shapes, keep, distribution)
    for name, mask in masks.items():
        assert mask.all() or scores[name][mask].min() > scores[name][~mask].max()


def test_the_layer_scope_is_the_uniform_distribution():
    source = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(3, size, generator=source) for name, size in (("a", 5), ("b", 7), ("c", 11))}
    for other in ({"scope": "layer", "distribution": "uniform"}, {"distribution": "uniform"}):
        masks, expected = select(scores, 0.7, **other), select(scores, 0.7, scope="layer")
        assert all(torch.equal(masks[name], expected[name]) for name in scores)
    assert sum(int(mask.sum()) for mask in expected.values()) == int(0.3 * 69)
