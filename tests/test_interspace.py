"""Models in the interspace: where they start, that they are the spatial ones, and that bases stay shared."""

import copy
import pickle

import pytest
import torch
from torch import nn

import fbconv
import fbconv.nn as fnn

SIGMA = (2 / (64 * 9)) ** 0.5  # Kaiming-normal: variance 2 / (C_in K^2)


def kaiming(generator):
    """A layer of 36,864 weights: their variance has a sampling error of 0.7 %."""
    conv = nn.Conv2d(64, 64, 3)
    nn.init.normal_(conv.weight, 0, SIGMA, generator=generator)
    return conv


def composed(generator, init, elements, sharing="coarse"):
    model = fbconv.interspace(kaiming(generator), sharing, init, elements, generator=generator)
    return model.weight.detach() / SIGMA


@pytest.mark.parametrize("sharing", ["coarse", "in:16", "out:16"])
@pytest.mark.parametrize(
    ("init", "elements"),
    [("standard", 9), ("orthonormal", 9), *(("random", count) for count in (1, 2, 4, 9, 14))],
)
def test_composed_filters_are_kaiming_normal(generator, init, elements, sharing):
    filters = composed(generator, init, elements, sharing).flatten(2)
    assert filters.mean().abs() < 0.05
    torch.testing.assert_close(filters.square().mean((0, 1)), torch.ones(9), rtol=0.15, atol=0)  # at every position
    assert filters.square().mean() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("elements", [1, 4, 8])
@pytest.mark.parametrize("init", ["standard", "orthonormal"])
def test_too_few_elements_keep_their_share_of_the_variance(generator, init, elements):
    filters = composed(generator, init, elements)
    assert filters.square().mean() == pytest.approx(elements / 9, rel=0.05)


@pytest.mark.parametrize("elements", [1, 4, 9])
@pytest.mark.parametrize("init", ["standard", "orthonormal"])
def test_drawn_coefficients_give_kaiming_normal_filters_for_any_number_of_elements(generator, init, elements):
    model = fbconv.interspace(kaiming(generator), init=init, n_elements=elements, generator=generator)
    filters = fbconv.initialise(model, "kaiming_normal").weight.detach() / SIGMA
    assert filters.square().mean() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("elements", [4, 9, 14])
def test_random_elements_have_mean_zero_at_every_position(generator, elements):
    basis = fnn.FilterBasis(3, elements, "random", generator=generator).elements
    torch.testing.assert_close(basis.mean(0), torch.zeros(3, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(basis.square().sum(0), torch.ones(3, 3))


@pytest.mark.parametrize("count", [4, 9])
def test_orthonormal_elements_are_orthonormal(generator, count):
    flat = fnn.FilterBasis(3, count, "orthonormal", generator=generator).elements.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(count), rtol=0, atol=1e-6)


@pytest.mark.parametrize("init", ["standard", "orthonormal"])
def test_no_complete_basis_has_more_elements_than_taps(init):
    with pytest.raises(ValueError, match="n_elements must be from 1 to 9"):
        fbconv.interspace(nn.Conv2d(1, 1, 3), init=init, n_elements=10)


class Net(nn.Module):
    """Strides, dilation, groups, depthwise, padding modes, a kernel of two sides, a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 8, 5, stride=2, padding=2),
            nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect", groups=8, bias=False),
            nn.Conv2d(8, 8, (1, 3)),
            nn.Conv2d(8, 8, 1),
        )
        self.twice = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.twice(torch.relu(self.twice(self.layers(x))))


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Net().double().eval()


@pytest.fixture
def x(generator):
    return torch.randn(2, 4, 12, 12, generator=generator, dtype=torch.float64)


SHARINGS = ["coarse", "medium", "fine", "in:1", "in:4", "out:1", "out:4"]


@pytest.mark.parametrize("init", ["standard", "orthonormal"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_the_function_stays(model, x, sharing, init, generator):
    inter = fbconv.interspace(model, sharing, init, generator=generator)
    assert {module.kernel_size for module in inter.modules() if type(module) is nn.Conv2d} == {(1, 1)}, "only 1x1 stay"
    torch.testing.assert_close(inter(x), model(x), rtol=1e-12, atol=1e-12)
    dense = fbconv.densify(inter)
    assert dense.state_dict().keys() == model.state_dict().keys()
    assert {type(module) for module in dense.modules()} == {type(module) for module in model.modules()}
    torch.testing.assert_close(dense(x), model(x), rtol=1e-12, atol=1e-12)


def test_standard_initialisation_keeps_the_weights_bits(model):
    inter = fbconv.interspace(model)
    for name, weight in model.named_parameters():
        if name == "twice.weight" or (name.endswith("weight") and weight.dim() == 4 and weight.shape[2:] != (1, 1)):
            assert torch.equal(inter.get_submodule(name.removesuffix(".weight")).weight, weight), name


@pytest.mark.parametrize("elements", [1, 4, 12])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_densify_of_any_number_of_elements(model, x, sharing, elements, generator):
    inter = fbconv.interspace(model, sharing, "random", elements, generator=generator)
    torch.testing.assert_close(fbconv.densify(inter)(x), inter(x), rtol=1e-12, atol=1e-12)


def of_bases(model):
    """Name of a layer -> the parameter of its basis."""
    layers = model.named_modules()
    return {name: layer.basis.elements for name, layer in layers if isinstance(layer, fnn.FBConv2d)}


def who_shares(model):
    first = {}
    return {name: first.setdefault(id(elements), name) for name, elements in of_bases(model).items()}


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def reloaded(model):
    other = fbconv.interspace(Net().double(), "coarse", "orthonormal")
    other.load_state_dict(model.state_dict())
    return other


def moved(model):
    return copy.deepcopy(model).float().double()


@pytest.mark.parametrize("renewed", [copy.deepcopy, pickled, reloaded, moved])
def test_a_shared_basis_is_one_parameter_and_stays_one(model, x, renewed, generator):
    inter = fbconv.interspace(model, "coarse", "orthonormal", generator=generator)
    assert len(of_bases(inter)) == 5
    assert len(set(map(id, of_bases(inter).values()))) == 3, "one for each kernel size"
    for each in (inter, renewed(inter)):
        ids = [id(parameter) for parameter in each.parameters()]
        assert len(ids) == len(set(ids))
        assert {id(elements) for elements in of_bases(each).values()} <= set(ids)
        assert who_shares(each) == who_shares(inter)
    again = renewed(inter).eval()
    tolerance = 1e-4 if renewed is moved else 0
    torch.testing.assert_close(again(x), inter(x), rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        again.twice.basis.elements.zero_()
    assert not again.layers[1].weight.any(), "a change reaches all that share it"
    assert inter.layers[1].weight.any(), "and nobody else"
