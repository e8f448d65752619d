"""What benchmarks time is what they say: every pass of every candidate against plain PyTorch; and how they time it."""

import itertools
import math
import statistics

import pytest
import torch

import fbconv
from fbconv.benchmark import DIRECTIONS, LAYERS, OPS, VGG, Layer, Operands, applicable, geometric_means, measure, timing
from fbconv.benchmark import our_candidate as ours
from fbconv.benchmark.candidates import dense_candidates
from fbconv.benchmark.flops import useful_flops
from fbconv.benchmark.passes import pass_through
from fbconv.benchmark.peers import PEERS, installed_peers, peer_candidate
from fbconv.benchmark.plot import crossings_of
from fbconv.benchmark.timing import Candidate, interleaved_medians

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = (
    Layer("plain", 5, 6, 12),
    Layer("strided groups", 6, 8, 9, stride=2, groups=2),
    Layer("depthwise", 6, 6, 7, groups=6),
    Layer("pointwise", 5, 6, 7, kernel=1),
    Layer("linear", 12, 8, 1, kernel=1, linear=True),
)
CASES = [(layer, op) for layer in TINY for op in OPS if applicable(layer, op)]
IDS = [f"{layer.name}-{op}" for layer, op in CASES]
BATCH = 5  # of 12 x 12 maps, peers multiply two at a time: the last part is smaller


def by_hand(operands, op, direction):
    """The output, or the gradients asked for in the order input, values, basis."""
    layer, mask = operands.layer, operands.mask
    leaves = [operands.input, operands.values, *([operands.basis] if op == "filter-basis" else [])]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    x, values = leaves[:2]
    start = operands.weight if op == "frozen" else torch.zeros(mask.shape)
    weight = start.masked_scatter(mask, values)
    if op == "filter-basis":
        weight = torch.einsum("abn,nij->abij", weight.flatten(2), leaves[2][0])
    if layer.linear:
        y = x @ weight.T
    else:
        y = torch.conv2d(x, weight, None, layer.stride, layer.kernel // 2, 1, layer.groups)
    wanted = {"grad-input": leaves[:1], "grad-values": leaves[1:]}.get(direction, leaves)
    return y if direction == "forward" else torch.autograd.grad(y, wanted, operands.grad)


def result_of(candidate):
    candidate.before()
    return candidate.call()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("layer", "op"), CASES, ids=IDS)
def test_our_passes(layer, op, direction):
    operands = Operands(layer, BATCH, 0.6)
    candidate = ours(operands, op, direction)
    for _ in range(2):
        torch.testing.assert_close(result_of(candidate), by_hand(operands, op, direction), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("layer", TINY, ids=lambda layer: layer.name)
def test_dense_passes_in_both_memory_formats(layer, direction):
    whole = Operands(layer, BATCH, 0.0)  # every weight is a value
    expected = by_hand(whole, "masked", direction)
    candidates = dense_candidates(whole, direction)
    assert list(candidates) == (["contiguous"] if layer.linear else ["contiguous", "channels_last"])
    for name, candidate in candidates.items():
        result = result_of(candidate)
        if name == "channels_last":
            outputs = (result,) if direction == "forward" else result
            assert outputs[0].is_contiguous(memory_format=torch.channels_last)
        if direction != "forward":
            result = tuple(r.reshape(e.shape) for r, e in zip(result, expected, strict=True))
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("layer", "op"), CASES, ids=IDS)
@pytest.mark.parametrize("peer", PEERS)
def test_peers_compute_the_same(peer, layer, op, direction):
    if peer not in installed_peers():
        pytest.skip(f"{PEERS[peer]} is not installed")
    operands = Operands(layer, BATCH, 0.6)
    candidate = peer_candidate(operands, peer, op, direction)
    weights_too = direction in ("grad-values", "backward", "step")
    assert (candidate is None) == (op == "frozen" or (weights_too and (peer, op) != ("torch-csr", "masked")))
    if candidate is None:
        return
    results, expected = result_of(candidate), by_hand(operands, op, direction)
    results = results if isinstance(results, tuple) else (results,)
    if direction == "forward":
        expected = (expected,)
    elif direction == "step":
        expected = (by_hand(operands, op, "forward"), *expected)
    torch.testing.assert_close(results, tuple(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_training_changes_the_version_of_parameters_before_each_call(direction):
    seen = []

    def layer(x, w):
        seen.append((id(w), w._version, w.detach().clone()))
        return x @ w

    tensors = (torch.ones(2, 3), torch.ones(3, 4))
    for training in (True, False):
        seen.clear()
        candidate = pass_through(layer, tensors, torch.ones(2, 4), direction, training)
        for _ in range(3):
            result_of(candidate)
        ids, versions, values = zip(*seen, strict=True)
        assert len(seen) == 3
        assert len(set(ids)) == 1
        assert len(set(versions)) == (3 if training else 1)
        assert all(torch.equal(value, tensors[1]) for value in values)


@pytest.mark.parametrize(("batch", "direction", "changes"), [(1, "forward", False), (2, "forward", True),
                                                             (1, "step", True)])  # fmt: skip
def test_only_the_forward_pass_of_one_image_is_inference(batch, direction, changes, monkeypatch):
    versions = []

    def sparse_conv2d(x, values, pattern, **options):
        versions.append(values._version)
        return original(x, values, pattern, **options)

    original = fbconv.functional.sparse_conv2d
    monkeypatch.setattr(fbconv.functional, "sparse_conv2d", sparse_conv2d)
    candidate = ours(Operands(TINY[0], batch, 0.6), "masked", direction)
    result_of(candidate)
    result_of(candidate)
    assert (versions[0] != versions[1]) == changes


@pytest.fixture
def clock(monkeypatch):
    """Time passes only in calls; ``calls`` makes a candidate that takes so many seconds and notes its name."""
    now, log = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def candidate(name, *seconds, **options):
        durations = itertools.cycle(seconds)

        def call():
            now[0] += next(durations)
            log.append(name)

        def before():
            now[0] += 100

        return Candidate(call, before, **options)

    candidate.log = log
    return candidate


def test_medians_are_of_calls_alone_and_interleaved(clock):
    # Two calls to warm up; in each turn one whose time does not count, and one whose time does.
    candidates = {"a": clock("a", 9, 9, 50, 1, 50, 2, 50, 30), "b": clock("b", 4)}
    medians = interleaved_medians(candidates, rounds=3)
    assert medians == {"a": timing.Timing(2, 3), "b": timing.Timing(4, 3)}
    assert clock.log[:4] == ["a", "a", "b", "b"]
    turns = [clock.log[first : first + 4] for first in range(4, 16, 4)]
    assert all(turn in (["a", "a", "b", "b"], ["b", "b", "a", "a"]) for turn in turns)


@pytest.mark.parametrize(("seconds", "calls", "rounds"), [(0.01, 32, 15), (0.25, 18, 8), (0.5, 10, 4), (5, 7, 3)])
def test_slow_peers_sit_out_rounds(clock, seconds, calls, rounds):
    candidates = {"ours": clock("ours", seconds), "peer": clock("peer", seconds, may_skip=True)}
    medians = interleaved_medians(candidates, rounds=15)
    assert medians["ours"].rounds == 15
    assert medians["peer"].rounds == rounds
    assert clock.log.count("ours") == 32
    assert clock.log.count("peer") == calls
    assert medians["peer"].seconds == pytest.approx(seconds)


def test_useful_operations_by_counting():
    layer = TINY[1]
    operands = Operands(layer, 3, 0.8)
    positions = 3 * 5 * 5
    kept = int(operands.mask.sum())
    columns = set()
    for a, b, i, j in operands.mask.nonzero().tolist():
        columns.add((b + 3 * (a // 4), i, j))
    taps = 9 * len(columns)
    expected = {
        "masked": (kept, kept, kept, 2 * kept, 3 * kept),
        "frozen": (216, 216, kept, 216 + kept, 432 + kept),
        "filter-basis": (kept + taps, kept + taps, 2 * kept + 2 * taps, 2 * kept + 3 * taps, 3 * kept + 3 * taps),
    }
    for op, counts in expected.items():
        assert [useful_flops(operands, op, d) for d in DIRECTIONS] == [2 * positions * count for count in counts]


@pytest.mark.parametrize("layer", LAYERS.values(), ids=lambda layer: layer.name)
def test_shapes_of_the_layers(layer):
    x, weight = (torch.empty(shape, device="meta") for shape in (layer.input_shape(2), layer.weight_shape))
    if layer.linear:
        y = torch.nn.functional.linear(x, weight)
    else:
        y = torch.conv2d(x, weight, None, layer.stride, layer.padding, 1, layer.groups)
    assert tuple(y.shape) == layer.output_shape(2)
    assert layer.positions(2) == y.numel() // layer.out_channels


def test_rows_compare_with_the_better_memory_format(monkeypatch):
    seconds = {("dense", "contiguous"): 0.004, ("dense", "channels_last"): 0.003, ("masked", "ours"): 0.001,
               ("masked", "scipy"): 0.008, ("masked", "torch-csr"): 0.002}  # fmt: skip

    def fake(candidates, rounds):
        assert set(candidates) == set(seconds)
        return {name: timing.Timing(value, rounds) for name, value in seconds.items()}

    pytest.importorskip("scipy")
    monkeypatch.setattr("fbconv.benchmark.runner.interleaved_medians", fake)
    operands = Operands(TINY[0], 2, 0.5)
    (row,) = measure(operands, ["masked"], "forward", 4, ["scipy", "torch-csr"], peak=2.0)
    assert row["dense_ms"] == 3
    assert row["speed_up"] == pytest.approx(3)
    assert row["over_peers"] == pytest.approx({"scipy": 8, "torch-csr": 2})
    assert row["peers"]["scipy"] == {"ms": 8, "rounds": 4}
    assert row["useful_gflops"] == pytest.approx(2 * row["nnz"] * 288 / 0.001 / 1e9)
    assert row["peak_share"] == pytest.approx(row["useful_gflops"] / 2)


def test_geometric_means_need_all_vgg_layers():
    rows = [
        {"layer": layer.name, "batch": 1, "sparsity": 0.9, "op": "masked", "pass": "forward", "speed_up": ratio,
         "over_peers": {"scipy": 2 * ratio}}
        for layer, ratio in zip(VGG, (1, 2, 4, 8), strict=True)
    ]  # fmt: skip
    other = {"layer": "linear-512", "batch": 1, "sparsity": 0.9, "op": "masked", "pass": "forward", "speed_up": 99.0}
    (mean,) = geometric_means([*rows, other])
    assert mean["speed_up"] == pytest.approx(statistics.geometric_mean([1, 2, 4, 8]))
    assert mean["over_scipy"] == pytest.approx(2 * mean["speed_up"])
    assert mean["least_over_scipy"] == 2
    rows[0]["over_peers"] = {}
    assert geometric_means(rows)[0]["over_scipy"] is None
    assert geometric_means(rows[1:]) == []


def test_break_even_lies_between_the_points_around_it():
    assert crossings_of([(0.5, 1.5), (0.9, 3.0)]) == []
    assert crossings_of([(0.5, 0.5), (0.9, 0.6)]) == []
    assert crossings_of([(0.0, 0.1), (0.9, 0.5), (0.99, 2.0)]) == pytest.approx([1 - 10**-1.5])
    down, up = crossings_of([(0.5, 2.0), (0.8, 0.5), (0.95, 2.0)])
    assert 0.5 < down < 0.8 < up < 0.95


def test_peak_of_one_core():
    assert 0 < fbconv._C.fma_gflops(0.01) < math.inf
    for seconds in (0, -1, math.nan, 61):
        with pytest.raises(ValueError, match=r"fma_gflops: seconds must be in \(0, 60\]"):
            fbconv._C.fma_gflops(seconds)
