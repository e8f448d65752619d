"""Networks that pruning has cut: where an adaptive basis gives them a gradient again, and where nothing can."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fbconv
from fbconv.models import build
from fbconv.train import basis_gradient_norm, gradient_norm

pytestmark = pytest.mark.usefixtures("one_thread")


def backward(model, images, labels):
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()


@pytest.fixture
def cut(generator):
    """1x1 images whose last convolution keeps corners only: it reads nothing but padding, and its output is zero."""
    conv1, conv2 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3, padding=1, bias=False)
    model = nn.Sequential(conv1, nn.ReLU(), conv2, nn.Flatten(), nn.Linear(6, 4))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    mask = torch.zeros(6, 6, 3, 3, dtype=torch.bool)
    mask[:, :, ::2, ::2] = True
    images, labels = torch.rand(8, 3, 1, 1, generator=generator), torch.arange(8) % 4
    return model, mask, images, labels


def test_a_network_cut_by_positions_trains_in_the_interspace_only(cut):
    model, mask, *batch = cut
    spatial = fbconv.sparsify(model, {"2.weight": mask})
    filters = fbconv.sparsify(fbconv.interspace(model, "fine"), {"2.values": mask.flatten(2)})
    for pruned in (spatial, filters):
        backward(pruned, *batch)
        assert gradient_norm(pruned) == 0
    assert basis_gradient_norm(filters) > 0
    for pruned in (spatial, filters):
        torch.optim.SGD(pruned.parameters(), lr=0.1).step()
        backward(pruned, *batch)
    assert gradient_norm(spatial) == 0
    assert gradient_norm(filters) > 0


@pytest.mark.parametrize("init", ["standard", "orthonormal"])
def test_no_basis_helps_where_an_empty_layer_cuts(cut, init, generator):
    model, mask, *batch = cut
    net = fbconv.interspace(model, "fine", init=init, generator=generator)
    pruned = fbconv.sparsify(net, {"2.values": torch.zeros_like(mask.flatten(2))})
    backward(pruned, *batch)
    assert gradient_norm(pruned) == 0 == basis_gradient_norm(pruned)


@pytest.mark.parametrize("init", ["standard", "orthonormal"])
def test_no_basis_helps_behind_batch_norm_and_relu(cut, init, generator):
    """Zero is normalised to zero, and there ReLU has derivative zero: the cut layer's basis gets no gradient either."""
    model, mask, *batch = cut
    model = nn.Sequential(*model[:3], nn.BatchNorm2d(6), nn.ReLU(), *model[3:])
    net = fbconv.interspace(model, "fine", init=init, generator=generator)
    if init == "orthonormal":  # whose filters read the centre
        mask = torch.zeros_like(mask)
    pruned = fbconv.sparsify(net, {"2.values": mask.flatten(2)})
    backward(pruned, *batch)
    assert gradient_norm(pruned) == 0 == basis_gradient_norm(pruned)


@pytest.fixture
def bench(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "bench")
    import gradient_flow

    return gradient_flow


def test_both_spaces_have_equal_memory(bench, generator):
    net = build("lenet5")
    batch = torch.rand(8, 1, 28, 28, generator=generator), torch.arange(8)
    scores = {name: torch.rand(shape, generator=generator) for name, shape in fbconv.prunable(net).items()}
    spatial = bench.point(net, scores, bench.weights(net), batch, 0.98)
    net = fbconv.interspace(net, "fine")
    scores = {name: torch.rand(shape, generator=generator) for name, shape in fbconv.prunable(net).items()}
    filters = bench.point(net, scores, 430_500, batch, 0.98)
    assert spatial["kept"] == filters["kept"] + filters["basis_entries"] == 8_610
    assert filters["basis_entries"] == 2 * 625
    assert spatial["basis_gradient_norm"] is None
    assert filters["basis_gradient_norm"] > 0


def test_the_script_writes_results(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "SPARSITIES", (0.9, 0.98))
    options = ["--model", "lenet5", "--batches", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gradient_flow.py", *options])
    bench.main()
    rows = json.loads((tmp_path / "gradient_flow.json").read_text())["rows"]
    assert [(row["space"], row["sparsity"]) for row in rows] == [(s, q) for s in bench.BASES for q in (0.9, 0.98)]
    assert all(row["gradient_norm"] > 0 for row in rows)
    assert (tmp_path / "gradient_flow.png").read_bytes().startswith(b"\x89PNG")
