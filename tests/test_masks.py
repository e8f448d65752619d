"""Selection: exact counts, ties, exclusions, warnings."""

import math
import os
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fbconv
from fbconv import score, sparsify
from fbconv.masks import LayerCollapseWarning, kept_count, select
from fbconv.nn import SparseLinear
from fbconv.topk import keep_highest

pytestmark = pytest.mark.usefixtures("one_thread")


def kept(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def definition(scores, keep):
    """The ``keep`` best by (score, earliest first), by sorting Python numbers."""
    flat = [(-float(x), i) for i, x in enumerate(torch.cat([s.flatten().double() for s in scores.values()]))]
    best = {i for _, i in sorted(flat)[:keep]}
    masks, start = {}, 0
    for name, value in scores.items():
        bits = [start + i in best for i in range(value.numel())]
        masks[name] = torch.tensor(bits, dtype=torch.bool).view(value.shape)
        start += value.numel()
    return masks


def equal(ours, theirs):
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("total", [1, 7, 10, 1000, 266200, 430500, 15_000_000])
@pytest.mark.parametrize("sparsity", ["0", "0.1", "0.3", "0.5", "0.7", "0.9", "0.95", "0.99", "0.995", "0.999", "1"])
def test_kept_count_is_the_floor_of_the_decimal_number(total, sparsity):
    assert kept_count(total, float(sparsity)) == math.floor((1 - Fraction(sparsity)) * total)


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan")])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\], got"):
        select({"a": torch.ones(4)}, sparsity)


@pytest.mark.filterwarnings("ignore::fbconv.masks.LayerCollapseWarning")
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    levels=st.integers(1, 6),
    seed=st.integers(0, 1000),
    sparsity=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]),
)
def test_equals_the_definition_with_ties(sizes, levels, seed, sparsity):
    generator = torch.Generator().manual_seed(seed)
    scores = {f"w{i}": torch.randint(-levels, levels, (n,), generator=generator) / 3 for i, n in enumerate(sizes)}
    masks = select(scores, sparsity)
    assert equal(masks, definition(scores, kept_count(sum(sizes), sparsity)))


def test_ties_go_to_the_first():
    scores = {"a": torch.zeros(2, 2), "b": torch.zeros(4)}
    masks = select(scores, sparsity=3 / 8)
    assert masks["a"].all()
    assert masks["b"].tolist() == [True, False, False, False]


def test_positive_and_negative_zero_tie():
    assert select({"a": torch.tensor([-0.0, 0.0, -0.0])}, sparsity=2 / 3)["a"].tolist() == [True, False, False]


def test_shapes_and_non_contiguous_scores():
    scores = {"a": torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1)}
    assert equal(select(scores, 0.75), definition(scores, 6))


def test_layer_scope_keeps_each_layers_share():
    scores = {"small": torch.arange(10.0), "large": 100 + torch.arange(100.0)}
    masks = select(scores, sparsity=0.9, scope="layer")
    assert [int(mask.sum()) for mask in masks.values()] == [1, 10]
    assert equal(masks, {name: definition({name: s}, s.numel() // 10)[name] for name, s in scores.items()})


def test_global_scope_ranks_layers_together_and_warns_of_collapse():
    scores = {"low": torch.arange(10.0), "high": 100 + torch.arange(100.0)}
    with pytest.warns(LayerCollapseWarning, match="'low'"):
        masks = select(scores, sparsity=0.5)
    assert int(masks["low"].sum()) == 0
    assert kept(masks) == 55


def test_no_warning_without_collapse():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select({"a": torch.arange(4.0), "empty": torch.empty(0)}, 0.5)


def test_minus_infinity_is_never_kept():
    scores = {"a": torch.tensor([-torch.inf, 1.0, -torch.inf, -5.0])}
    assert select(scores, 0.5)["a"].tolist() == [False, True, False, True]
    with pytest.raises(ValueError, match="3 weights of 'a' have to be kept, but only 2 of 4 have a score above -inf"):
        select(scores, 0.25)


def test_plus_infinity_is_kept_first():
    assert select({"a": torch.tensor([1.0, torch.inf])}, 0.5)["a"].tolist() == [False, True]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_nan_names_the_tensor(scope):
    with pytest.raises(ValueError, match="'bad' must not be NaN, got 2 NaN"):
        select({"good": torch.ones(2), "bad": torch.tensor([1.0, torch.nan, torch.nan])}, 0.5, scope)


def test_float64_scores_are_not_rounded():
    scores = {"a": 1 + torch.tensor([0.0, 1e-12, 2e-12], dtype=torch.float64), "b": torch.zeros(3)}
    with pytest.warns(LayerCollapseWarning):
        assert select(scores, 5 / 6)["a"].tolist() == [False, False, True]


def test_half_precision_scores_compare_with_float32_ones():
    # 1.001 is no bfloat16: rounded to that type it would tie with 1.
    scores = {"half": torch.tensor([1.0, 1.0], dtype=torch.bfloat16), "full": torch.tensor([1.001, 0.0])}
    with pytest.warns(LayerCollapseWarning, match="'half'"):
        masks = select(scores, 0.75)
    assert masks["full"].tolist() == [True, False]
    assert not masks["half"].any()


def test_scores_are_not_changed():
    scores = {"a": torch.randn(50, generator=torch.Generator().manual_seed(0))}
    before = scores["a"].clone()
    select(scores, 0.3)
    assert torch.equal(scores["a"], before)


def test_bad_scope_and_no_scores():
    with pytest.raises(ValueError, match="scope must be one of global, layer, got 'net'"):
        select({"a": torch.ones(1)}, 0.5, "net")
    with pytest.raises(ValueError, match="got none"):
        select({}, 0.5)
    with pytest.raises(ValueError, match="scores of 'a' must be a tensor, got list"):
        select({"a": [1.0]}, 0.5)


# --- exclusions -------------------------------------------------------------------------------------------------------


def test_excluded_layers_neither_count_nor_have_a_mask():
    scores = {"conv1.weight": torch.arange(10.0), "head.fc.weight": 100 + torch.arange(10.0)}
    for pattern in ("head.fc.weight", "head.fc", "head.*", "h?ad*", "*fc*"):
        masks = select(scores, 0.5, exclude=[pattern])
        assert list(masks) == ["conv1.weight"]
        assert masks["conv1.weight"].tolist() == [False] * 5 + [True] * 5


def test_excluded_layers_stay_whole_in_the_model():
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
    masks = select(score(model, "magnitude"), 0.5, exclude=["1"])
    pruned = sparsify(model, masks)
    assert isinstance(pruned[0], SparseLinear)
    assert type(pruned[1]) is torch.nn.Linear
    assert torch.equal(pruned[1].weight, model[1].weight)


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (["conv9"], r"pattern 'conv9' must match one of a\.weight, b\.weight, got none"),
        (["A"], "pattern 'A' must match"),
        (["a", "b*"], "exclude must leave a layer, got a, b"),
        ("a", "exclude must be a sequence of patterns, got the string 'a'"),
    ],
)
def test_patterns_that_cannot_be_meant(exclude, message):
    with pytest.raises(ValueError, match=message):
        select({"a.weight": torch.ones(2), "b.weight": torch.ones(2)}, 0.5, exclude=exclude)


# --- the selection itself ---------------------------------------------------------------------------------------------


def bits(*words, dtype=torch.float32):
    integer = torch.int32 if dtype == torch.float32 else torch.int64
    return torch.tensor(words, dtype=integer).view(dtype)


@pytest.mark.parametrize("few", [-1, 50, 1 << 20])
@pytest.mark.parametrize("chunk", [7, 1 << 16])
@pytest.mark.parametrize(
    "kind", ["normal", "ties", "neighbours", "denormal", "wide", "float64", "infinite", "integers"]
)
def test_any_floats_in_any_chunks(monkeypatch, few, chunk, kind):
    """All ways through the passes, on numbers that share their leading bits and on numbers that share none."""
    monkeypatch.setattr("fbconv.topk._FEW", few)
    monkeypatch.setattr("fbconv.topk._CHUNK", chunk)
    source = torch.Generator().manual_seed(3)
    normal = torch.randn(200, generator=source)
    values = {
        "normal": normal,
        "ties": (normal * 2).round(),
        "neighbours": bits(*(0x3F800000 + int(i) for i in torch.randint(99, (200,), generator=source))) * normal.sign(),
        "denormal": bits(*torch.randint(1 << 20, (200,), generator=source).tolist()) * normal.sign(),
        "wide": normal * 10.0 ** torch.randint(-35, 35, (200,), generator=source),
        "float64": 1 + normal.double() * 1e-13,
        "infinite": torch.where(normal > 1, torch.inf, normal),
        "integers": torch.randint(-(2**52), 2**52, (200,), generator=source),
    }[kind]
    scores = {"a": values[:150].view(10, 15), "b": values[150:]}
    for keep in (0, 1, 2, 50, 99, 100, 149, 199, 200):
        assert equal(keep_highest(scores, keep), definition(scores, keep)), keep


def test_scores_may_be_of_several_types_and_devices(device):
    scores = {
        "half": torch.tensor([1.0, 2.0], dtype=torch.float16),
        "double": torch.tensor([1 + 1e-12, 1.5], dtype=torch.float64),
        "integer": torch.tensor([1, 3]),
        "flags": torch.tensor([True, True]),
    }
    with pytest.warns(LayerCollapseWarning, match="'flags'"):
        masks = select({name: value.to(device) for name, value in scores.items()}, 3 / 8)
    assert all(mask.device.type == device.type for mask in masks.values())
    assert equal({name: mask.cpu() for name, mask in masks.items()}, definition(scores, 5))
    assert [mask.tolist() for mask in masks.values()] == [[True, True], [True, True], [False, True], [False, False]]


def test_complex_scores():
    with pytest.raises(ValueError, match=r"scores of 'a' must be real, got torch\.complex64"):
        select({"a": torch.ones(2, dtype=torch.complex64)}, 0.5)


MEMORY = """
import resource, sys
import torch
from fbconv.masks import select

torch.set_num_threads(1)
count, parts, dtype = int(sys.argv[1]), 5, getattr(torch, sys.argv[2])
generator = torch.Generator().manual_seed(0)
scores = {f"w{i}": torch.empty(count // parts, dtype=dtype).normal_(generator=generator) for i in range(parts)}
select({"warm": scores["w0"][:1000]}, 0.5)  # libraries, buffers of the allocator
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
masks = select(scores, float(sys.argv[3]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((peak - before) * 1024, sum(int(mask.sum()) for mask in masks.values()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is another elsewhere")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_peak_memory_is_the_masks_and_little_else(dtype):
    """No copy of all scores is made: beside the masks (a byte each) less than a fifth of one float32 vector."""
    count = 20_000_000
    environment = os.environ | {"PYTHONPATH": str(Path(fbconv.__file__).parents[1])}
    command = [sys.executable, "-c", MEMORY, str(count), dtype, "0.9"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    grown, kept = map(int, done.stdout.split())
    assert kept == count // 10
    assert grown < count + 4 * count / 5
