"""Which layers share a filter basis."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

import fbconv
import fbconv.nn as fnn
from fbconv.models import build


class Block(nn.Module):
    """Named as torchvision's basic block."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else None

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.relu(self.bn1(self.conv1(x)))) + shortcut)


class ResNet(nn.Module):
    """Named as torchvision's; with its stem, or with that of CIFAR networks."""

    def __init__(self, cifar):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1) if cifar else nn.Conv2d(3, 4, 7, 2, 3)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(4, 4, 1), Block(4, 4, 1))
        self.layer2 = nn.Sequential(Block(4, 8, 2), Block(8, 8, 1))
        self.layer3 = nn.Sequential(Block(8, 8, 2), Block(8, 8, 1))
        self.layer4 = nn.Sequential(Block(8, 8, 2), Block(8, 8, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = self.maxpool(self.conv1(x))
        return self.fc(self.avgpool(self.layer4(self.layer3(self.layer2(self.layer1(x))))).flatten(1))


def groups(model):
    """Names of the layers that share a basis, in module order."""
    found = {}
    for name, module in fbconv.interspace(model, sharing="medium").named_modules():
        if isinstance(module, fnn.FBConv2d):
            found.setdefault(module.basis, []).append(name)
    return list(found.values())


def stage(name):
    return [f"{name}.{block}.conv{i}" for block in (0, 1) for i in (1, 2)]


@pytest.mark.parametrize("cifar", [False, True])
def test_resnets_with_torchvisions_names_share_stage_by_stage(cifar):
    expected = [["conv1"], *map(stage, ("layer1", "layer2", "layer3", "layer4"))]
    assert groups(ResNet(cifar)) == expected


def test_our_resnet18_shares_stage_by_stage():
    found = groups(build("resnet18", in_channels=3, image_size=32))
    assert [len(names) for names in found] == [1, 4, 4, 4, 4]
    assert found[0] == ["stem"]
    assert all(name.startswith(f"stage{i}.") for i, names in enumerate(found[1:], start=1) for name in names)


def test_a_resnet_inside_another_model_keeps_its_groups():
    head = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    model = nn.Sequential(OrderedDict(first=nn.Conv2d(3, 3, 3), backbone=ResNet(cifar=True), head=head))
    stages = [[f"backbone.{name}" for name in stage(f"layer{i}")] for i in range(1, 5)]
    assert groups(model) == [["first"], ["backbone.conv1"], *stages, ["head.0", "head.1"]]


def test_the_stem_may_be_named_and_ordered_in_any_way():
    model = ResNet(cifar=True)
    model.layer0 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    order = ["layer0", *(name for name in model._modules if name != "layer0")]
    model._modules = {name: model._modules[name] for name in order}
    assert groups(model)[0] == ["layer0.0", "layer0.1", "conv1"]


def vgg16(pools):
    """A narrow VGG-16; without pools, as one that calls them as functions."""
    layers, channels = [], 3
    for widths in ((2, 2), (4, 4), (8, 8, 8), (16, 16, 16), (16, 16, 16)):
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers += [nn.MaxPool2d(2)] if pools else []
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    "model",
    [vgg16(pools=True), vgg16(pools=False), nn.ModuleDict({"features": vgg16(pools=False)}), build("vgg16")],
    ids=["pools", "functional pools", "nested", "ours"],
)
def test_vgg16_has_its_five_groups(model):
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert groups(model) == [convs[:2], convs[2:4], convs[4:7], convs[7:10], convs[10:]]


def test_other_models_share_by_resolution():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 5), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 3),
    )  # fmt: skip
    assert groups(model) == [["0", "2"], ["1"], ["4"], ["5", "7"]]


def test_resnets_for_small_images_have_three_stages():
    model = ResNet(cifar=True)
    del model.layer4
    assert groups(model) == [["conv1"], *map(stage, ("layer1", "layer2", "layer3"))]


def test_fewer_than_three_stages_are_no_resnet():
    model = ResNet(cifar=True)
    del model.layer3, model.layer4
    assert groups(model)[0] == ["conv1", *stage("layer1")]


@pytest.mark.parametrize(
    ("sharing", "shape"),
    [("in:2", (3, 9, 3, 3)), ("out:2", (4, 9, 3, 3)), ("in:4", (2, 9, 3, 3)), ("out:7", (2, 9, 3, 3))],
)
def test_blocks_of_channels_have_a_basis_each(sharing, shape):
    layer = fbconv.interspace(nn.Conv2d(6, 8, 3), sharing=sharing)
    assert layer.basis.elements.shape == shape
    assert layer.basis_axis == sharing.partition(":")[0]


@pytest.mark.parametrize("sharing", ["in:4", "in:3", "out:16"])
def test_blocks_larger_than_a_layer_are_one_basis(sharing):
    layer = fbconv.interspace(nn.Conv2d(3, 8, 3), sharing=sharing)
    assert layer.basis.elements.shape == (9, 3, 3)
    assert layer(torch.zeros(1, 3, 5, 5)).shape == (1, 8, 3, 3)


@pytest.mark.parametrize("sharing", ["out:0", "all"])
def test_sharing_that_does_not_work(sharing):
    with pytest.raises(ValueError, match="must be coarse"):
        fbconv.interspace(nn.Conv2d(3, 8, 3), sharing=sharing)
