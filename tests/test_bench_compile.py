"""The script runs, on a network so small that times mean nothing, through a compiler that only traces."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_thread")
pytest.importorskip("matplotlib")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "bench")
    import bench_compile

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    return bench_compile


@pytest.mark.filterwarnings("ignore:no weight of")  # few rounds of scoring
def test_rows_and_picture(bench, monkeypatch, tmp_path):
    options = [
        "--model",
        "lenet5",
        "--sparsity",
        ".986",
        "--score-rounds",
        "3",
        "--rounds",
        "2",
        "--out",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["bench_compile.py", *options])
    bench.main()
    assert (tmp_path / "compile_lenet5.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((tmp_path / "compile_lenet5.json").read_text())["rows"]
    names = {"dense", "spatial", "interspace", "frozen"}
    for direction in ("inference", "step"):
        found = [row for row in rows if row["pass"] == direction]
        assert {(row["network"], row["runs"]) for row in found} == {(n, r) for n in names for r in bench.RUNS}
        assert max(r["speed_up"] for r in found if (r["network"], r["runs"]) == ("dense", "eager")) == 1
        assert all(row["over_eager"] == 1 for row in found if row["runs"] == "eager")
