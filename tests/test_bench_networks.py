"""Networks that are timed compute the same; the script runs, on a network so small that times mean nothing."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fbconv
from fbconv.benchmark.peer_network import scipy_network

pytestmark = pytest.mark.usefixtures("one_thread")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "bench")
    import bench_networks

    monkeypatch.setattr(bench_networks, "MODEL", "lenet5")
    return bench_networks


@pytest.mark.parametrize("interspace", [False, True])
def test_scipy_computes_the_same(interspace, generator):
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.Conv2d(8, 6, (3, 2), dilation=2, bias=False),
        nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip
    model = fbconv.interspace(model, init="orthonormal", generator=generator) if interspace else model
    masks = {name: torch.rand(shape, generator=generator) < 0.5 for name, shape in fbconv.prunable(model).items()}
    sparse = fbconv.sparsify(model, masks)
    input = torch.randn(3, 4, 11, 8, generator=generator)
    torch.testing.assert_close(scipy_network(sparse)(input), sparse(input), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:no weight of")  # few rounds of scoring
def test_rows_and_picture(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["bench_networks.py", "--quick", "--out", str(tmp_path)])
    bench.main()
    assert (tmp_path / "networks.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((tmp_path / "networks.json").read_text())
    ours, scipy = [("spatial", "fbconv"), ("interspace", "fbconv")], [("spatial", "scipy"), ("interspace", "scipy")]
    expected = {"inference": [*ours, *scipy], "step": [*ours, ("frozen", "fbconv")]}
    for direction, contenders in expected.items():
        rows = [row for row in stored["rows"] if row["pass"] == direction]
        dense = [row for row in rows if row["network"] == "dense"]
        assert {(row["network"], row["by"]) for row in rows if row not in dense} == set(contenders)
        assert max(row["speed_up"] for row in dense) == 1
        assert len({row["trained_weights"] for row in rows if row not in dense}) == 1
        assert all(len(row["backends"]) == 4 for row in rows if row["by"] == "fbconv")


def test_a_wrong_network_is_refused(bench, generator):
    model, input = nn.Sequential(nn.Linear(6, 4)), torch.randn(3, 6, generator=generator)
    sparse = fbconv.sparsify(model, {"0.weight": torch.rand(4, 6, generator=generator) < 0.5})
    bench.check("right", sparse, sparse, input)
    with pytest.raises(AssertionError, match="wrong: output is"):
        bench.check("wrong", model, sparse, input)
