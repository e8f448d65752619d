"""The networks: sizes of the literature, seeded initialisation, bad sizes."""

import math

import pytest
import torch
from torch import nn

import fbconv
from fbconv.initialisation import Draw
from fbconv.models import MODELS, build


@pytest.mark.parametrize(
    ("name", "channels", "size", "parameters", "weights"),
    [
        ("lenet300", 1, 28, 266_610, 266_200),
        ("lenet5", 1, 28, 431_080, 430_500),
        ("lenet5", 3, 32, 657_080, 656_500),
        ("vgg16", 3, 32, 15_255_626, 15_239_872),
    ],
)
def test_sizes_are_the_published_ones(name, channels, size, parameters, weights):
    model = build(name, in_channels=channels, image_size=size)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in model.parameters() if p.dim() > 1) == weights


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 28, 10), (3, 32, 7)])
def test_output_shape(name, channels, size, classes):
    model = build(name, in_channels=channels, image_size=size, num_classes=classes).eval()
    assert model(torch.zeros(2, channels, size, size)).shape == (2, classes)


def test_vgg16_has_thirteen_normalised_convolutions():
    kinds = [type(module) for module in build("vgg16", in_channels=3, image_size=32)]
    assert kinds.count(nn.Conv2d) == kinds.count(nn.BatchNorm2d) == 13
    assert (kinds.count(nn.Linear), kinds.count(nn.BatchNorm1d), kinds.count(nn.MaxPool2d)) == (3, 2, 5)


@pytest.mark.parametrize("name", ["lenet300", "lenet5"])
def test_the_seed_alone_decides_the_weights(name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, other = build(name, seed=3), build(name, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = build(name, seed=3)
    for key, value in one.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert not torch.equal(one.fc1.weight, other.fc1.weight)


@pytest.mark.parametrize("name", list(MODELS))
def test_weights_are_those_of_the_seed(name):
    model = build(name, in_channels=3, image_size=32, init="pm_sigma", seed=9)
    for key, shape in fbconv.prunable(model).items():
        assert torch.equal(model.get_parameter(key), Draw("pm_sigma", 9, key.removesuffix(".weight")).tensor(shape))


def test_lenets_are_xavier_normal_and_vgg_kaiming_normal():
    fc = build("lenet5").fc1.weight
    assert fc.std().item() == pytest.approx(math.sqrt(2 / (800 + 500)), rel=0.02)
    vgg = build("vgg16", in_channels=3, image_size=32)
    assert vgg.conv5_3.weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.02)
    # Normal, not uniform: the fourth moment of a normal distribution is 3 sigma^4, of a uniform one 1.8.
    for weight in (fc.detach(), vgg.conv5_3.weight.detach()):
        assert ((weight.double() ** 4).mean() / weight.double().var() ** 2).item() == pytest.approx(3, rel=0.05)
    for module in vgg:
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert not module.bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "lenet6"}, "name must be one of lenet300, lenet5, vgg16, got 'lenet6'"),
        ({"name": "lenet5", "image_size": 12}, "image_size must be at least 16 for lenet5, got 12"),
        ({"name": "lenet300", "in_channels": 0}, "must be positive, got 0 and 10"),
        ({"name": "lenet300", "num_classes": 0}, "must be positive, got 1 and 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
