"""Peak memory of calls that take a known amount of it; the script runs, on a layer so small that sizes mean nothing."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from fbconv.benchmark.shapes import Layer
from fbconv.benchmark.timing import Candidate

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux' /proc")
MB = 10**6


@pytest.fixture(autouse=True)
def bench(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "bench")
    import bench_memory

    return bench_memory


def takes(temporary, result):
    """A call that touches so many bytes in one block, then returns so many, after another that took even more."""

    def call():
        torch.ones(temporary, dtype=torch.uint8).add_(1)
        return torch.ones(result, dtype=torch.uint8)

    return Candidate(call, lambda: torch.ones(3 * temporary, dtype=torch.uint8).sum())


@pytest.mark.parametrize(("temporary", "result", "expected"), [(30 * MB, 10 * MB, 20 * MB), (MB, 10 * MB, 0)])
def test_a_known_amount(temporary, result, expected):
    from memory import scratch_bytes

    assert scratch_bytes(partial(takes, temporary, result)) == pytest.approx(expected, abs=0.5 * MB)


def test_rows_and_picture(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "VGG", [Layer("small", 4, 6, 7)])
    arguments = ["--threads", "1", "--repetitions", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench_memory.py", *arguments])
    bench.main()
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((tmp_path / "memory.json").read_text())["rows"]
    expected = [(direction, *case) for direction in ("forward", "backward") for case in bench.cases(direction)]
    assert [(row["pass"], row["runs"], row["sparsity"] or 0) for row in rows] == expected
    assert {row["im2col_bytes"] for row in rows} == {4 * 36 * 32 * 49}
