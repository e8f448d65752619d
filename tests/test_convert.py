"""Whole-model conversions keep the function, the names and the rest of the model."""

import copy

import pytest
import torch
from cases import random_mask
from conversions import masked, near
from torch import nn

import fbconv
import fbconv.nn as fnn


class Net(nn.Module):
    """Conv layers of several kernel sizes, groups, batch norm, nesting and a linear head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, padding=2, bias=False)
        self.body = nn.Sequential(
            nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(8, 6, 1)
        )
        self.tail = nn.Conv2d(6, 4, 3, stride=2)
        self.head = nn.Linear(4 * 4 * 4, 10)

    def forward(self, x):
        return self.head(self.tail(self.body(self.stem(x))).flatten(1))


PRUNABLE = {
    "stem.weight": (8, 3, 5, 5),
    "body.2.weight": (8, 4, 3, 3),
    "body.4.weight": (6, 8, 1, 1),
    "tail.weight": (4, 6, 3, 3),
    "head.weight": (10, 64),
}


@pytest.fixture
def model(generator):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Net().eval()


@pytest.fixture
def x(generator):
    return torch.randn(2, 3, 10, 10, generator=generator)


@pytest.fixture
def masks(generator):
    return {name: random_mask(generator, shape, 0.3) for name, shape in PRUNABLE.items()}


def test_prunable_names_and_shapes(model):
    found = fbconv.prunable(model)
    assert {name: tuple(shape) for name, shape in found.items()} == PRUNABLE
    assert list(found) == list(PRUNABLE)


def test_sparsify(model, masks, x):
    sparse = fbconv.sparsify(model, masks)
    near(sparse(x), masked(model, masks)(x))
    assert isinstance(sparse.stem, fnn.SparseConv2d)
    assert isinstance(sparse.head, fnn.SparseLinear)
    assert isinstance(model.stem, nn.Conv2d)
    assert not sparse.training
    assert sparse.stem.bias is None
    assert {name: tuple(shape) for name, shape in fbconv.prunable(sparse).items()} == {
        name.replace("weight", "values"): shape for name, shape in PRUNABLE.items()
    }


def test_sparsify_some_layers(model, masks, x):
    some = {name: masks[name] for name in ("stem.weight", "head.weight")}
    sparse = fbconv.sparsify(model, some)
    near(sparse(x), masked(model, some)(x))
    assert type(sparse.tail) is nn.Conv2d


def test_sparsify_again_with_fewer_weights(model, masks, x):
    sparse = fbconv.sparsify(model, masks)
    fewer = {name: mask & (torch.arange(mask.numel()).view(mask.shape) % 2 == 0) for name, mask in masks.items()}
    again = fbconv.sparsify(sparse, {name.replace("weight", "values"): mask for name, mask in fewer.items()})
    near(again(x), masked(model, fewer)(x))


def test_freeze_keeps_the_function(model, masks, x):
    frozen = fbconv.freeze(model, masks)
    near(frozen(x), model(x))
    assert isinstance(frozen.stem, fnn.FrozenConv2d)
    assert isinstance(frozen.head, fnn.FrozenLinear)
    assert sum(p.numel() for name, p in frozen.named_parameters() if name.endswith("values")) == sum(
        int(mask.sum()) for mask in masks.values()
    )


@pytest.mark.parametrize("init", ["standard", "orthonormal"])
@pytest.mark.parametrize("sharing", ["coarse", "fine", "medium", "in:1", "out:2"])
def test_interspace_with_a_full_basis_keeps_the_function(model, x, sharing, init, generator):
    inter = fbconv.interspace(model, sharing=sharing, init=init, generator=generator)
    assert isinstance(inter.stem, fnn.FBConv2d)
    assert isinstance(inter.body[2], fnn.FBConv2d)
    assert type(inter.body[4]) is nn.Conv2d, "1x1 convolutions keep the standard basis"
    assert type(inter.head) is nn.Linear
    near(inter(x), model(x))
    near(fbconv.densify(inter)(x), model(x))


def test_coarse_interspace_has_one_basis_per_kernel_size(model, generator):
    inter = fbconv.interspace(model, sharing="coarse", generator=generator)
    assert inter.body[2].basis is inter.tail.basis
    assert inter.stem.basis is not inter.tail.basis
    fine = fbconv.interspace(model, sharing="fine", generator=generator)
    assert fine.body[2].basis is not fine.tail.basis


@pytest.mark.parametrize("elements", [4, 12])
def test_interspace_with_other_numbers_of_elements(model, x, elements, generator):
    inter = fbconv.interspace(model, init="random", n_elements=elements, generator=generator)
    assert inter.tail.pattern.shape == (4, 6, elements)
    near(fbconv.densify(inter)(x), inter(x))


def test_sparsify_an_interspace(model, x, generator):
    inter = fbconv.interspace(model, init="orthonormal", generator=generator)
    shapes = fbconv.prunable(inter)
    masks = {name: random_mask(generator, shape, 0.4) for name, shape in shapes.items()}
    assert tuple(shapes["stem.values"]) == (8, 3, 25)
    sparse = fbconv.sparsify(inter, masks)
    assert torch.equal(sparse.stem.pattern.mask(), masks["stem.values"])
    assert sparse.body[2].basis is sparse.tail.basis, "pruning keeps shared bases shared"
    expected = copy.deepcopy(inter)
    with torch.no_grad():
        for name, mask in masks.items():
            parameter = expected.get_parameter(name)
            parameter.mul_(mask.flatten() if name.endswith("values") else mask)
    near(sparse(x), expected(x))


def test_freeze_an_interspace(model, x, generator):
    inter = fbconv.interspace(model, init="orthonormal", generator=generator)
    masks = {name: random_mask(generator, shape, 0.4) for name, shape in fbconv.prunable(inter).items()}
    frozen = fbconv.freeze(inter, masks)
    near(frozen(x), inter(x))
    near(fbconv.densify(frozen)(x), inter(x))
    assert frozen.stem.values.shape == (int(masks["stem.values"].sum()),)


@pytest.mark.parametrize("convert", [fbconv.sparsify, fbconv.freeze], ids=lambda f: f.__name__)
def test_densify_is_the_same_function_in_plain_modules(model, masks, x, convert):
    compressed = convert(model, masks)
    dense = fbconv.densify(compressed)
    near(dense(x), compressed(x))
    assert {type(module) for module in dense.modules()} == {type(module) for module in model.modules()}
    assert dense.state_dict().keys() == model.state_dict().keys()


def test_inplace(model, masks, x):
    expected = masked(model, masks)(x)
    assert fbconv.sparsify(model, masks, inplace=True) is model
    near(model(x), expected)
    assert fbconv.densify(model, inplace=True) is model
    near(model(x), expected)


def test_not_inplace_shares_no_memory(model, masks, x):
    sparse = fbconv.sparsify(model, masks)
    expected = sparse(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    near(sparse(x), expected)


def test_a_layer_used_twice_stays_one_layer(generator):
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    masks = {name: random_mask(generator, shape, 0.5) for name, shape in fbconv.prunable(model).items()}
    assert list(masks) == ["0.weight"]
    sparse = fbconv.sparsify(model, masks)
    assert sparse[0] is sparse[2]


def test_a_bare_layer_is_a_model(generator, x):
    conv = nn.Conv2d(3, 4, 3)
    ((name, shape),) = fbconv.prunable(conv).items()
    mask = random_mask(generator, shape, 0.5)
    sparse = fbconv.sparsify(conv, {name: mask})
    assert isinstance(sparse, fnn.SparseConv2d)
    near(sparse(x), nn.functional.conv2d(x, conv.weight * mask, conv.bias))
