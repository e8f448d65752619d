"""Parameters and FLOPs of layers, against numbers counted by hand and loops over what a layer computes."""

import pytest
import torch
from torch import nn

import fbconv
import fbconv.nn as fnn
from fbconv.benchmark.flops import useful_flops
from fbconv.benchmark.operands import Operands
from fbconv.benchmark.shapes import Layer
from fbconv.data import load
from fbconv.experiment import Config
from fbconv.models import build
from fbconv.train import prepare


def only(model, input_shape):
    (layer,) = fbconv.count(model, input_shape).layers
    return layer


# (layer, input shape, output shape, weights, multiply-adds)
PLAIN = {
    "conv": (nn.Conv2d(2, 3, 3, padding=1), (1, 2, 5, 4), (1, 3, 5, 4), 54, 54 * 20),
    "batch": (nn.Conv2d(2, 3, 3, padding=1), (7, 2, 5, 4), (7, 3, 5, 4), 54, 54 * 20 * 7),
    "no batch": (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4), (3, 5, 4), 54, 54 * 20),
    "stride": (nn.Conv2d(2, 3, 3, stride=2), (1, 2, 7, 9), (1, 3, 3, 4), 54, 54 * 12),
    "dilation": (nn.Conv2d(1, 1, 3, dilation=2), (1, 1, 6, 6), (1, 1, 2, 2), 9, 9 * 4),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (1, 4, 5, 5), (1, 6, 3, 3), 108, 108 * 9),
    "depthwise": (nn.Conv2d(5, 5, 3, groups=5, bias=False), (1, 5, 4, 4), (1, 5, 2, 2), 45, 45 * 4),
    "1x1": (nn.Conv2d(4, 2, 1), (1, 4, 3, 3), (1, 2, 3, 3), 8, 8 * 9),
    "two sides": (nn.Conv2d(1, 2, (1, 3)), (1, 1, 2, 5), (1, 2, 2, 3), 6, 6 * 6),
    "linear": (nn.Linear(6, 4), (3, 6), (3, 4), 24, 24 * 3),
    "linear, more axes": (nn.Linear(6, 4), (2, 5, 6), (2, 5, 4), 24, 24 * 10),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_plain_layers(name):
    layer, input_shape, output_shape, weights, multiplies = PLAIN[name]
    found = only(layer, input_shape)
    assert (found.name, found.kind) == ("", type(layer).__name__)
    assert (found.input, found.output) == (input_shape, output_shape)
    assert (found.weights, found.trained, found.basis) == (weights, weights, 0)
    assert found.dense_flops == found.theory_flops == found.exact_flops == 2 * multiplies
    assert found.composed_flops is None
    assert found.flop_ratio == 1


def some(shape, kept):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[:kept] = True
    return mask


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("kept", [0, 5])
def test_pruned_and_frozen_layers(name, kept):
    layer, input_shape, _, weights, multiplies = PLAIN[name]
    masks = {"weight": some(layer.weight.shape, kept)}
    pruned, frozen = (only(convert(layer, masks), input_shape) for convert in (fbconv.sparsify, fbconv.freeze))
    assert (pruned.weights, pruned.trained) == (frozen.weights, frozen.trained) == (weights, kept)
    assert pruned.dense_flops == frozen.dense_flops == 2 * multiplies
    assert pruned.theory_flops == pruned.exact_flops == 2 * multiplies * kept // weights
    assert frozen.theory_flops == frozen.exact_flops == 2 * multiplies
    assert pruned.flop_ratio == (weights / kept if kept else None)


def test_an_interspace_layer_by_hand():
    mask = torch.zeros(3, 2, 9, dtype=torch.bool)
    mask[0, 0, 0] = mask[2, 0, 0] = mask[1, 0, 4] = mask[2, 1, 8] = True  # 4 coefficients, 3 columns
    layer = fnn.FBConv2d(2, 3, 3, padding=1, mask=mask)
    found = only(layer, (1, 2, 5, 4))
    assert (found.kind, found.weights, found.trained, found.basis) == ("FBConv2d", 54, 4, 81)
    assert found.dense_flops == 2 * 54 * 20
    assert found.theory_flops == 2 * (4 + 2 * 9 * 9) * 20
    assert found.exact_flops == 2 * (4 + 3 * 9) * 20
    assert found.composed_flops == 2 * 54 * 20 + 2 * 4 * 9


# (layer's options, basis' options, axis of its blocks)
INTERSPACE = {
    "groups": ({"in_channels": 4, "out_channels": 6, "groups": 2}, {}, "in"),
    "depthwise": ({"in_channels": 4, "out_channels": 4, "groups": 4}, {}, "in"),
    "few elements": ({"in_channels": 4, "out_channels": 6}, {"n_elements": 4}, "in"),
    "many elements": ({"in_channels": 4, "out_channels": 6}, {"n_elements": 12, "init": "random"}, "in"),
    "in blocks": ({"in_channels": 4, "out_channels": 6}, {"n_bases": 2}, "in"),
    "out blocks": ({"in_channels": 4, "out_channels": 6}, {"n_bases": 3}, "out"),
    "out blocks within groups": ({"in_channels": 4, "out_channels": 8, "groups": 2}, {"n_bases": 4}, "out"),
    "out blocks across groups": ({"in_channels": 3, "out_channels": 6, "groups": 3}, {"n_bases": 2}, "out"),
}


@pytest.mark.parametrize("name", INTERSPACE)
@pytest.mark.parametrize("density", [0.0, 0.15, 1.0])
def test_interspace_layers_against_a_loop(name, density, generator):
    options, bases, axis = INTERSPACE[name]
    basis = fnn.FilterBasis(3, **bases, generator=generator)
    inputs, outputs, groups = options["in_channels"], options["out_channels"], options.get("groups", 1)
    mask = torch.rand(outputs, inputs // groups, basis.n_elements, generator=generator) < density
    layer = fnn.FBConv2d(**options, kernel_size=3, stride=2, basis=basis, basis_axis=axis, mask=mask)
    live, connected = set(), set()
    for a in range(outputs):
        for b in range(inputs // groups):
            channel = a // (outputs // groups) * (inputs // groups) + b
            block = a // (outputs // basis.n_bases) if axis == "out" else 0
            for n in range(basis.n_elements):
                connected.add((channel, block, n))
                if mask[a, b, n]:
                    live.add((channel, block, n))
    found = only(layer, (2, inputs, 7, 9))
    positions, kept = 2 * 3 * 4, int(mask.sum())
    assert (found.trained, found.basis) == (kept, basis.elements.numel())
    assert found.weights == outputs * inputs // groups * 9
    assert found.theory_flops == 2 * (kept + 9 * len(connected)) * positions
    assert found.exact_flops == 2 * (kept + 9 * len(live)) * positions
    assert found.composed_flops == found.dense_flops + 2 * kept * 9


@pytest.mark.parametrize("elements", [4, 9])
def test_theory_is_the_papers_formula(generator, elements):
    inputs, outputs, size, kept = 4, 6, 5, 20
    model = fbconv.interspace(nn.Conv2d(inputs, outputs, 3, padding=1), n_elements=elements)
    model = fbconv.sparsify(model, {"values": some((outputs, inputs, elements), kept)})
    found = only(model, (1, inputs, size, size))
    q = 1 - kept / found.weights
    assert found.theory_flops == pytest.approx(2 * inputs * 9 * size * size * (outputs * (1 - q) + elements))


def test_frozen_coefficients_make_a_dense_convolution():
    model = fbconv.freeze(fbconv.interspace(nn.Conv2d(2, 3, 3)), {"values": some((3, 2, 9), 4)})
    found = only(model, (1, 2, 5, 5))
    assert (found.trained, found.basis) == (4, 81)
    assert found.theory_flops == found.dense_flops == 2 * 54 * 9
    assert found.exact_flops == found.composed_flops == 2 * 54 * 9 + 2 * 54 * 9


def test_benchmarks_count_the_same():
    shape = Layer("small", 4, 8, 6)
    operands = Operands(shape, batch=2, sparsity=0.8)
    conv = nn.Conv2d(4, 8, 3, **operands.geometry)
    pruned = fbconv.sparsify(conv, {"weight": operands.mask})
    inter = fbconv.sparsify(fbconv.interspace(conv), {"values": operands.mask.flatten(2)})
    for model, op in ((pruned, "masked"), (inter, "filter-basis")):
        assert only(model, shape.input_shape(2)).exact_flops == useful_flops(operands, op, "forward")


class Shared(nn.Module):
    """A layer that runs twice, on maps of two sizes, two layers with one weight, and a layer that does not run."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Conv2d(2, 2, 3)
        self.twice = nn.Conv2d(2, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.fc, self.tied = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.tied.weight = self.fc.weight
        self.offset = torch.ones(2)  # neither parameter nor buffer

    def forward(self, x):
        x = self.twice(self.norm(self.twice(x))).mean((2, 3))
        return self.tied(self.fc(x + self.offset + torch.ones(2)))


def test_what_is_shared_counts_once():
    counts = fbconv.count(Shared(), (1, 2, 6, 6))
    found = [(layer.name, layer.output, layer.weights, layer.dense_flops) for layer in counts.layers]
    assert found == [
        ("twice", (1, 2, 4, 4), 36, 2 * 36 * 16),
        ("twice", (1, 2, 2, 2), 0, 2 * 36 * 4),
        ("fc", (1, 2), 4, 8),
        ("tied", (1, 2), 0, 8),
        ("idle", (), 36, 0),
    ]
    assert counts.weights == counts.trained == 76
    assert counts.parameters == 76 + 4 + 4
    assert counts.dense_flops == sum(layer.dense_flops for layer in counts.layers)
    assert counts.sparsity == counts.interspace_sparsity == counts.real_sparsity == 0
    assert counts.flop_ratio == 1


def test_bases_count_once_and_idle_layers_compute_nothing():
    model = fbconv.interspace(Shared())
    counts = fbconv.count(model, (1, 2, 6, 6))
    assert [layer.basis for layer in counts.layers] == [81, 0, 0, 0, 0]
    assert counts.layers[-1].composed_flops == counts.layers[-1].exact_flops == 0
    assert counts.layers[-1].flop_ratio is None
    assert counts.sparsity == 0
    assert counts.interspace_sparsity == -81 / 76
    assert counts.real_sparsity == pytest.approx(-81 / 84)


@pytest.mark.parametrize(
    ("space", "mode"), [("spatial", "prune"), ("spatial", "freeze"), ("interspace", "prune"), ("interspace", "freeze")]
)
def test_rates_are_those_of_training(space, mode):
    prepared = prepare(Config(space=space, mode=mode, sparsity=0.9), load("digits"))
    size = load("digits").train.images.shape[-1]
    counts = fbconv.count(prepared.model, (1, 1, size, size))
    assert counts.weights == prepared.weights
    assert counts.trained + counts.basis == prepared.trained_weights
    assert counts.interspace_sparsity == prepared.sparsity
    assert counts.real_sparsity == prepared.real_sparsity


def test_published_numbers_of_resnet18():
    counts = fbconv.count(build("resnet18", in_channels=3, image_size=32), (1, 3, 32, 32))
    assert round(counts.dense_flops / 2e6) == 555  # multiply-adds of ResNet-18 with a 3x3 stem on 32 x 32
    assert len(counts.layers) == 21


def test_the_model_is_left_as_it_was():
    model = fbconv.interspace(Shared()).train()
    model.idle.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fbconv.count(model, (3, 2, 6, 6))
    assert model.training
    assert not model.idle.training
    assert not any(module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_on_the_meta_device_and_in_other_dtypes():
    assert only(nn.Conv2d(2, 3, 3, device="meta"), (1, 2, 4, 4)).weights == 54
    assert only(nn.Conv2d(2, 3, 3, dtype=torch.float64), (1, 2, 4, 4)).weights == 54


class Choosy(nn.Linear):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def undecided():
    return nn.Sequential(nn.Linear(2, 2), Choosy(2, 2))


@pytest.mark.parametrize(
    ("model", "shape", "error", "message"),
    [
        (nn.Linear(2, 2), (1, 0), ValueError, "input_shape must be positive sizes, batch included, got"),
        (nn.Linear(2, 2), (1, 2.0), ValueError, "input_shape must be positive"),
        (nn.ReLU(), (1, 2), ValueError, "must have a Conv2d, Linear or compressed layer, got none"),
        (undecided(), (1, 2), RuntimeError, "does not depend on the numbers in tensors, got"),
        (fnn.FBConv2d(2, 2, 3).to("meta"), (1, 2, 3, 3), ValueError, "mask with data, got one on the meta device"),
        (nn.Conv2d(2, 2, 3), (1, 5, 3, 3), RuntimeError, "channels"),
    ],
)
def test_what_cannot_be_counted(model, shape, error, message):
    with pytest.raises(error, match=message):
        fbconv.count(model, shape)
