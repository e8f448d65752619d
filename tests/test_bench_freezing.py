"""What is timed beside freezing trains the same weights; the script runs, on so few images that times mean nothing."""

import json
import sys
from pathlib import Path

import pytest
import torch

import fbconv

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux' /proc"),
]
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "bench")
    import bench_freezing

    bench_freezing.snip_masks.cache_clear()
    monkeypatch.setitem(bench_freezing.NETWORKS, "lenet5", bench_freezing.Images(1, 28, 8))
    yield bench_freezing
    bench_freezing.snip_masks.cache_clear()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradient_masking_trains_as_freezing_does(bench, layout):
    masks = bench.snip_masks("lenet5", 0.9)
    trained = {}
    for runs in (bench.MASKED, "frozen, auto", "frozen, sparse"):
        step = bench.make_step(bench.Case("lenet5", runs, 0.9), layout)
        for _ in range(3):
            step()
        assert len(step.backward_seconds) == 3
        trained[runs] = fbconv.densify(step.network).state_dict()
    start = bench.dense_network("lenet5").state_dict()
    for name, weight in trained.pop(bench.MASKED).items():
        frozen = ~masks.get(name, torch.ones_like(weight, dtype=torch.bool))
        assert torch.equal(weight[frozen], start[name][frozen])
        assert not torch.equal(weight, start[name])
        for ours in trained.values():
            torch.testing.assert_close(ours[name], weight)


def test_stored_bytes_are_those_of_the_tensors(bench):
    weights, parameters, kept = 430_500, 431_080, 4305
    stored = {}
    for runs, sparsity in (("dense", None), (bench.MASKED, 0.99), ("frozen, sparse", 0.99)):
        step = bench.make_step(bench.Case("lenet5", runs, sparsity), "contiguous")
        step()
        stored[runs] = step.stored_bytes()
    full = dict.fromkeys(("parameters", "gradients", "momentum"), 4 * parameters)
    assert stored["dense"] == full | {"buffers": 0}
    assert stored[bench.MASKED] == full | {"buffers": weights}
    few = dict.fromkeys(full, 4 * (parameters - weights + kept))
    patterns = sum(
        fbconv.SparsePattern.from_mask(mask).packed.nbytes for mask in bench.snip_masks("lenet5", 0.99).values()
    )
    assert stored["frozen, sparse"] == few | {"buffers": 4 * weights + patterns}


def test_rows_and_picture(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["bench_freezing.py", "--quick", "--out", str(tmp_path)])
    bench.main()
    assert (tmp_path / "freezing.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((tmp_path / "freezing.json").read_text())["rows"]
    cases = [(row["runs"], row["sparsity"]) for row in rows]
    assert cases == [("dense", None), (bench.MASKED, None), *((runs, 0.99) for runs in bench.OURS)]
    assert rows[0]["step_speed_up"] == rows[0]["backward_speed_up"] == 1
    assert all(0 < row["backward_ms"] < row["step_ms"] for row in rows)
    assert {row["trained_weights"] for row in rows[2:]} == {4305}
    assert [len(row["backends"] or ()) for row in rows[2:]] == [0, 4, 4]  # "sparse" decides nothing
    # A step ends with gradients and momentum there.
    assert all(row["rise_bytes"] > row["stored_bytes"]["momentum"] for row in rows[:2])
