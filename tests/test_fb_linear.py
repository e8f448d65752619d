"""Linear layers in the interspace: blocks of rows over a shared basis, alone and in a small transformer."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import fbconv
from fbconv import cli
from fbconv.dynamic import RegrowingMasks
from fbconv.nn import FBLinear, FilterBasis

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def linear(generator):
    layer = nn.Linear(24, 10).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(10, 24, generator=generator))
    return layer


def expected(layer, x):
    """By the definition: each block of a row is a combination of the basis."""
    coefficients = layer.dense_values()
    basis = layer.basis.elements[:, 0]
    weight = torch.einsum("abn,nk->abk", coefficients, basis).flatten(1)
    return nn.functional.linear(x, weight, layer.bias)


@pytest.mark.parametrize("init", ["standard", "orthonormal"])
@pytest.mark.parametrize("block", [1, 4, 8, 24])
def test_full_bases_start_from_the_same_function(linear, block, init):
    basis = FilterBasis((1, block), init=init, dtype=torch.float64)
    layer = FBLinear.from_dense(linear, basis)
    x = torch.randn(2, 3, 24, dtype=torch.float64)
    torch.testing.assert_close(layer(x), linear(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.to_dense()(x), linear(x), rtol=1e-6, atol=1e-6)
    assert layer.pattern.shape == (10, 24 // block, block)


@pytest.mark.parametrize("backend", ["auto", "basis_first", "mix_first", "composed"])
@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24), (0, 24), (2, 0, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_definition(backend, shape, bias):
    torch.manual_seed(0)
    dense = nn.Linear(24, 10, bias=bias).double()
    mask = torch.rand(10, 3, 5) < 0.3
    basis = FilterBasis((1, 8), 5, "orthonormal", dtype=torch.float64)
    layer = FBLinear.from_dense(dense, basis, mask)
    layer.backend = backend
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    other = copy.deepcopy(layer)
    y = x.detach().clone().requires_grad_()
    ours, theirs = layer(x), expected(other, y)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn_like(ours)
    ours.backward(upstream)
    theirs.backward(upstream)
    torch.testing.assert_close(x.grad, y.grad)
    for (name, one), two in zip(layer.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=name)


def test_gradcheck():
    torch.manual_seed(0)
    layer = FBLinear(6, 4, block=3, mask=torch.rand(4, 2, 3) < 0.5, dtype=torch.float64)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.named_parameters())

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *[p.detach().requires_grad_() for p in parameters.values()]))


class Block(nn.Module):
    """A transformer's block."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.project(mixed)
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, tokens=11, width=16, length=12):
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.place = nn.Parameter(0.1 * torch.randn(length, width))
        self.blocks = nn.Sequential(Block(width, 2), Block(width, 2))
        self.head = nn.Linear(width, tokens)

    def forward(self, ids):
        return self.head(self.blocks(self.embed(ids) + self.place))


def shifted(count, generator):
    """Letters, and those three places on in the alphabet."""
    ids = torch.randint(11, (count, 12), generator=generator)
    return ids, (ids + 3) % 11


def loss_of(model, batch):
    ids, wanted = batch
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), wanted.flatten())


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    return Transformer()


def test_a_transformer_in_the_interspace_is_the_same_function(transformer, generator):
    model = fbconv.interspace(transformer, linear_block=8)
    layers = [module for module in model.modules() if isinstance(module, FBLinear)]
    assert len(layers) == 9
    assert len({id(layer.basis) for layer in layers}) == 1  # one basis for the whole network
    ids, _ = shifted(4, generator)
    torch.testing.assert_close(model(ids), transformer(ids), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fbconv.densify(model)(ids), transformer(ids), rtol=1e-4, atol=1e-5)
    assert type(fbconv.densify(model).head) is nn.Linear


def test_a_pruned_transformer_learns_in_the_interspace(transformer, generator):
    """Every method on top: scores, masks, regrowing; here on shifting letters."""
    model = fbconv.interspace(transformer, linear_block=8)
    scores = fbconv.score(model, "snip", [shifted(64, generator)], lambda o, t: nn.functional.cross_entropy(
        o.flatten(0, 1), t.flatten()))  # fmt: skip
    masks = fbconv.select(scores, 0.7)
    model = fbconv.sparsify(model, masks)
    optimizer = torch.optim.Adam(fbconv.parameter_groups(model, 0.0), lr=5e-3)
    regrowing = RegrowingMasks(model, optimizer, interval=20, end=100)
    before = sum(int(mask.sum()) for mask in masks.values())
    losses = []
    for step in range(120):
        optimizer.zero_grad()
        loss = loss_of(model, shifted(64, generator))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if regrowing.due(step):
            regrowing.update(step)
    assert losses[-1] < 0.5 * losses[0]
    kept = [m.values.numel() for m in model.modules() if isinstance(m, FBLinear)]
    assert sum(kept) == before
    ids, _ = shifted(4, generator)
    torch.testing.assert_close(fbconv.densify(model)(ids), model(ids), rtol=1e-3, atol=1e-4)


def test_sharing_for_linear_layers():
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(6, 8), nn.Conv2d(4, 3, 3))
    coarse = fbconv.interspace(model, linear_block=4)
    assert coarse[0].basis is coarse[1].basis
    assert type(coarse[2]) is nn.Linear  # 4 does not divide 6
    assert coarse[3].basis is not coarse[0].basis
    fine = fbconv.interspace(model, "fine", linear_block=4)
    assert fine[0].basis is not fine[1].basis
    assert fbconv.interspace(model, "in:2", linear_block=4)[0].basis.n_bases == 2
    assert [type(layer) for layer in fbconv.interspace(model)[:3]] == [nn.Linear] * 3


def test_frozen_coefficients_and_state(generator):
    model = fbconv.interspace(nn.Sequential(nn.Linear(16, 8)), linear_block=4)
    masks = {"0.values": torch.rand(8, 4, 4, generator=generator) < 0.3}
    frozen = fbconv.freeze(model, masks, seed=3)
    x = torch.randn(5, 16, generator=generator)
    torch.testing.assert_close(frozen(x), fbconv.densify(frozen)(x))
    other = fbconv.freeze(model, masks, seed=4)
    other.load_state_dict(frozen.state_dict())
    assert torch.equal(other(x), frozen(x))


@pytest.mark.parametrize("frozen", [False, True])
def test_files_hold_linear_layers_too(tmp_path, frozen):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 6, bias=False))
    model = fbconv.interspace(dense, linear_block=4)
    masks = {name: torch.rand(shape) < 0.3 for name, shape in fbconv.prunable(model).items()}
    model = fbconv.freeze(model, masks, seed=1) if frozen else fbconv.sparsify(model, masks)
    fbconv.save(model, tmp_path / "m.fbc")
    loaded = fbconv.load(tmp_path / "m.fbc", dense)
    assert loaded[0].basis is loaded[2].basis
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    result = CliRunner().invoke(cli.app, ["unpack", str(tmp_path / "m.fbc"), str(tmp_path / "m.safetensors")])
    assert result.exit_code == 0, result.output
    dense.load_state_dict(load_file(tmp_path / "m.safetensors"))
    x = torch.randn(4, 16)
    torch.testing.assert_close(dense(x), model(x))
    other = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(12, 6, bias=False))
    with pytest.raises(ValueError, match=r"the file has filters \(6, 8\) in 1 groups, the model \(6, 12\)"):
        fbconv.load(tmp_path / "m.fbc", other)


def test_it_compiles_and_exports():
    layer = FBLinear(16, 8, block=4)
    x = torch.randn(3, 16)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x))
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FBLinear(10, 4, block=3), ValueError, "block must divide the 10 input features, got 3"),
        (lambda: FBLinear(10, 4, block=0), ValueError, "block must divide the 10 input features, got 0"),
        (lambda: FBLinear(8, 4, basis=FilterBasis((2, 4))), ValueError, r"kernel size \(1, 4\), got \(2, 4\)"),
        (lambda: FBLinear.from_dense(nn.Conv2d(1, 1, 1)), TypeError, "must be an nn.Linear, got Conv2d"),
        (lambda: FBLinear(8, 4, mask=torch.ones(4, 8)), ValueError, r"mask must be a tensor of shape \(4, 1, 8\)"),
        (lambda: FBLinear(8, 4)(torch.ones(2, 9)), RuntimeError, r"must have 8 features .* got shape \(2, 9\)"),
        (lambda: FBLinear(8, 4)(torch.tensor(1.0)), RuntimeError, r"must have 8 features .* got shape \(\)"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
