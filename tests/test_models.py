"""The networks: sizes of the literature, seeded initialisation, bad sizes."""

import math

import pytest
import torch
from torch import nn

import fbconv
from fbconv.initialisation import Draw
from fbconv.models import MODELS, BasicBlock, build


@pytest.mark.parametrize(
    ("name", "channels", "size", "parameters", "weights"),
    [
        ("lenet300", 1, 28, 266_610, 266_200),
        ("lenet5", 1, 28, 431_080, 430_500),
        ("lenet5", 3, 32, 657_080, 656_500),
        ("vgg7", 3, 32, 544_010, 542_128),
        ("vgg16", 3, 32, 15_255_626, 15_239_872),
        ("vgg16-lth", 3, 32, 14_728_266, 14_715_584),
        ("resnet18", 3, 32, 11_173_962, 11_164_352),
    ],
)
def test_sizes(name, channels, size, parameters, weights):
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


def test_layers_of_resnet18_have_readable_names():
    names = [name.removesuffix(".weight") for name in fbconv.prunable(build("resnet18"))]
    assert names[:3] == ["stem", "stage1.block1.conv1", "stage1.block1.conv2"]
    assert [name for name in names if "shortcut" in name] == [f"stage{i}.block1.shortcut.conv" for i in (2, 3, 4)]
    assert (len(names), names[-1]) == (21, "fc")


def test_a_block_adds_its_shortcut(generator):
    input = torch.randn(2, 4, 7, 7, generator=generator)
    plain, projected = BasicBlock(4, 4, stride=1).eval(), BasicBlock(4, 6, stride=2).eval()
    for block in (plain, projected):
        nn.init.zeros_(block.norm2.weight)
    assert torch.equal(plain(input), input.relu())
    expected = torch.conv2d(input[..., ::2, ::2], projected.shortcut.conv.weight)
    torch.testing.assert_close(projected(input), projected.shortcut.norm(expected).relu())


def small_resnet18():
    return build("resnet18", in_channels=3, image_size=8, seed=1)


@pytest.fixture
def masks(generator):
    shapes = fbconv.prunable(small_resnet18())
    return {name: torch.rand(shape, generator=generator) < 0.05 for name, shape in shapes.items()}


def test_resnet18_is_exported(masks, generator):
    images = torch.randn(2, 3, 8, 8, generator=generator)
    for model in (small_resnet18(), fbconv.freeze(small_resnet18(), masks)):
        exported = torch.export.export(model.eval(), (images,)).module()
        torch.testing.assert_close(exported(images), model(images))


@pytest.mark.parametrize("kind", ["pruned", "frozen", "interspace"])
def test_resnet18_is_converted_and_trained(kind, masks, generator):
    images, labels = torch.randn(4, 3, 8, 8, generator=generator), torch.tensor([0, 1, 2, 3])
    if kind == "interspace":
        model = fbconv.interspace(small_resnet18(), generator=generator)
        model = fbconv.sparsify(model, {name: masks[name.replace("values", "weight")].flatten(2)
                                        for name in fbconv.prunable(model) if name.endswith("values")})  # fmt: skip
    else:
        model = (fbconv.sparsify if kind == "pruned" else fbconv.freeze)(small_resnet18(), masks)
    before = fbconv.densify(model)
    assert before.state_dict().keys() == small_resnet18().state_dict().keys()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    outputs = model(images)
    torch.testing.assert_close(outputs, before(images), rtol=1e-3, atol=1e-3)
    nn.functional.cross_entropy(outputs, labels).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    optimizer.step()
    assert not torch.equal(fbconv.densify(model).stage4.block2.conv2.weight, before.stage4.block2.conv2.weight)


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
        ({"name": "lenet6"}, "name must be one of lenet300, lenet5, vgg7, vgg16, vgg16-lth, resnet18, got 'lenet6'"),
        ({"name": "lenet5", "image_size": 12}, "image_size must be at least 16 for lenet5, got 12"),
        ({"name": "lenet300", "in_channels": 0}, "must be positive, got 0 and 10"),
        ({"name": "lenet300", "num_classes": 0}, "must be positive, got 1 and 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
