"""Compressed files: bit-exact round trips, sizes, and models that do not fit."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

import fbconv
from fbconv._files.container import write
from fbconv._files.entries import Plain, coded, same_bits
from fbconv._files.positions import decode_positions, encode_positions, entropy_bits
from fbconv.models import build
from fbconv.nn import Compressed, FrozenLinear, SparseConv2d


def net():
    """Every kind of layer and tensor that a file may hold."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 5, groups=8),
        nn.Conv2d(8, 16, 3, stride=2, groups=2),
        nn.Conv2d(16, 12, 1),
        nn.Flatten(),
        nn.Linear(12, 7),
        nn.Linear(7, 5, bias=False),
    )


def random_masks(model, density, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) < density for name, shape in fbconv.prunable(model).items()}


def scrambled(model):
    """All numbers changed, so that nothing survives by being at its initial value."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for b in model.buffers() if b.dtype == torch.int64)]:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 10)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(generator=generator)
    return model


def interspace(sharing, **options):
    return lambda: fbconv.interspace(net(), sharing, generator=torch.Generator().manual_seed(2), **options)


def compressed(change, density, make=net):
    def model():
        made = make()
        return scrambled(change(made, random_masks(made, density)))

    return model


def some_layers():
    made = net()
    masks = random_masks(made, 0.2)
    made = fbconv.sparsify(made, {name: masks[name] for name in ("0.weight", "6.weight")})
    return scrambled(fbconv.freeze(made, {"3.weight": masks["3.weight"]}))


def decayed():
    made = compressed(fbconv.freeze, 0.3)()
    fbconv.decay_frozen(made, torch.optim.SGD(made.parameters(), 0.1), 0.5)
    for module in made.modules():
        if isinstance(module, Compressed):
            module.frozen_scale.fill_(0.3)
    return made


def drawn(model, masks):
    return fbconv.freeze(model, masks, seed=7, init="kaiming_uniform")


def two_seeds():
    made = net()
    masks = random_masks(made, 0.3)
    made = fbconv.freeze(made, {name: masks[name] for name in ("0.weight", "3.weight")}, seed=3)
    return fbconv.freeze(made, {name: masks[name] for name in ("4.weight", "6.weight")}, seed=4, init="pm_sigma")


MODELS = {
    "dense": lambda: scrambled(net()),
    "pruned": compressed(fbconv.sparsify, 0.2),
    "nothing kept": compressed(fbconv.sparsify, -1),
    "all kept": compressed(fbconv.sparsify, 2),
    "frozen": compressed(fbconv.freeze, 0.2),
    "drawn": compressed(drawn, 0.2),
    "drawn, nothing kept": compressed(drawn, -1),
    "two seeds": two_seeds,
    "decayed": decayed,
    "some layers": some_layers,
    "coarse": compressed(fbconv.sparsify, 0.3, interspace("coarse")),
    "medium, few elements": compressed(fbconv.sparsify, 0.3, interspace("medium", n_elements=4)),
    "in:1": compressed(fbconv.sparsify, 0.3, interspace("in:1")),
    "out:2": compressed(fbconv.sparsify, 0.3, interspace("out:2", init="orthonormal")),
    "overcomplete": compressed(fbconv.sparsify, 0.3, interspace("fine", init="random", n_elements=30)),
    "frozen coefficients": compressed(fbconv.freeze, 0.3, interspace("coarse")),
    "drawn coefficients": compressed(drawn, 0.3, interspace("coarse")),
    "whole coefficients": interspace("coarse"),
}


def assert_same(a, b):
    """The same layers with the same bits, shared where they were."""
    assert repr(a) == repr(b)
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert same_bits(tensor, theirs[name]), name
    assert [getattr(m, "draw", None) for m in a.modules()] == [getattr(m, "draw", None) for m in b.modules()]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("into", ["dense", "frozen", "coarse"])
def test_round_trip_is_bit_exact(kind, into, tmp_path):
    model, other = MODELS[kind](), MODELS[into]()
    before = copy.deepcopy(other)
    state = torch.random.get_rng_state()
    size = fbconv.save(model, tmp_path / "a.fbc")
    loaded = fbconv.load(tmp_path / "a.fbc", other)
    assert_same(model, loaded)
    assert torch.equal(state, torch.random.get_rng_state())
    assert size == (tmp_path / "a.fbc").stat().st_size
    assert_same(other, before)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(model.eval()(images), loaded.eval()(images))
    fbconv.save(loaded, tmp_path / "b.fbc")
    assert (tmp_path / "a.fbc").read_bytes() == (tmp_path / "b.fbc").read_bytes()


@pytest.mark.parametrize("kind", ["pruned", "frozen", "drawn", "coarse", "decayed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_chosen_dtypes_round_and_nothing_else(kind, dtype, tmp_path):
    model = MODELS[kind]()
    fbconv.save(model, tmp_path / "a.fbc", dtype)
    loaded = fbconv.load(tmp_path / "a.fbc", net())
    for name, tensor in model.state_dict().items():
        rounded = tensor.to(dtype).to(tensor.dtype) if tensor.is_floating_point() else tensor
        assert torch.equal(loaded.state_dict()[name], rounded), name
    assert torch.equal(loaded[1].num_batches_tracked, model[1].num_batches_tracked)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_dtypes(dtype, tmp_path):
    for kind in ("pruned", "drawn", "dense"):
        model = MODELS[kind]().to(dtype)
        fbconv.save(model, tmp_path / "a.fbc")
        assert_same(model, fbconv.load(tmp_path / "a.fbc", net().to(dtype)))
    with safe_open(tmp_path / "a.fbc", "pt") as file:
        assert str(dtype).removeprefix("torch.") in file.keys()  # noqa: SIM118 (it is no mapping)


def test_decay_keeps_its_dtype(tmp_path):
    model = MODELS["decayed"]().double()
    model[0].frozen_scale.fill_(0.1)
    fbconv.save(model, tmp_path / "a.fbc")
    assert_same(model, fbconv.load(tmp_path / "a.fbc", net().double()))


def test_special_values_survive(tmp_path):
    model = MODELS["pruned"]()
    with torch.no_grad():
        model[0].values[:5] = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-42])
    fbconv.save(model, tmp_path / "a.fbc")
    assert_same(model, fbconv.load(tmp_path / "a.fbc", net()))
    fbconv.save(model, tmp_path / "a.fbc", torch.float16)  # infinity stays what it is


def test_too_large_for_the_dtype(tmp_path):
    model = net()
    model[6].bias.data[2] = 7e4
    with pytest.raises(ValueError, match=r"6.bias: torch.float16 cannot hold 70000"):
        fbconv.save(model, tmp_path / "a.fbc", torch.float16)
    assert not list(tmp_path.iterdir())
    fbconv.save(model, tmp_path / "a.fbc", torch.bfloat16)
    with pytest.raises(ValueError, match=r"dtype must be None, torch.float32, .* got torch.int8"):
        fbconv.save(model, tmp_path / "a.fbc", torch.int8)


def test_the_model_itself_may_be_the_layer(tmp_path):
    for dense in (nn.Conv2d(2, 3, 3), nn.Linear(4, 3)):
        mask = torch.rand(dense.weight.shape) < 0.5
        layer = (SparseConv2d if isinstance(dense, nn.Conv2d) else FrozenLinear).from_dense(dense, mask)
        fbconv.save(layer, tmp_path / "a.fbc")
        assert_same(layer, fbconv.load(tmp_path / "a.fbc", dense))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.first = nn.Linear(4, 4)
        self.second = self.first
        self.head = nn.Linear(4, 6)
        self.head.weight = self.embedding.weight


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path):
    tied = Tied()
    pruned = fbconv.sparsify(tied, {"first.weight": torch.rand(4, 4) < 0.5})
    for model in (tied, pruned):
        size = fbconv.save(model, tmp_path / "a.fbc")
        loaded = fbconv.load(tmp_path / "a.fbc", Tied())
        assert_same(model, loaded)
        assert loaded.first is loaded.second
        assert loaded.head.weight is loaded.embedding.weight
        untied = fbconv.load(tmp_path / "a.fbc", _untied())
        assert_same(untied.second, model.second)
        assert fbconv.save(untied, tmp_path / "b.fbc") > size
    fbconv.save(_untied(), tmp_path / "b.fbc")
    with pytest.raises(ValueError, match="are one tensor in the model and two in the file"):
        fbconv.load(tmp_path / "b.fbc", tied)


def _untied():
    model = Tied()
    model.second = nn.Linear(4, 4)
    model.head.weight = nn.Parameter(torch.randn(6, 4))
    return model


def test_modes_backends_and_gradients_are_the_models(tmp_path):
    model = MODELS["pruned"]()
    fbconv.save(model, tmp_path / "a.fbc")
    other = MODELS["frozen"]().eval()
    other[0].backend = "dense"
    other[3].values.requires_grad_(False)
    loaded = fbconv.load(tmp_path / "a.fbc", other)
    assert not any(module.training for module in loaded.modules())
    assert (loaded[0].backend, loaded[3].backend) == ("dense", "auto")
    assert (loaded[0].values.requires_grad, loaded[3].values.requires_grad) == (True, False)


def test_changed_frozen_weights_are_stored_whole(tmp_path):
    model = MODELS["drawn"]()
    small = fbconv.save(model, tmp_path / "a.fbc")
    model[0].frozen[0, 0, 0, 0] += 1
    assert fbconv.save(model, tmp_path / "a.fbc") > small + 4 * model[0].frozen.numel()
    loaded = fbconv.load(tmp_path / "a.fbc", net())
    assert loaded[0].draw is None
    assert torch.equal(loaded[0].frozen, model[0].frozen)
    assert loaded[3].draw == model[3].draw


# Sizes.


@pytest.fixture(scope="module")
def lenets():
    """LeNet-5, pruned and frozen by SNIP at q = .995, with trained-looking numbers."""
    model = fbconv.initialise(build("lenet5"), seed=7)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(100, 1, 28, 28, generator=generator), torch.randint(10, (100,), generator=generator)
    masks = fbconv.prune_masks(model, "snip", 0.995, batches=[batch])
    assert sum(int(mask.sum()) for mask in masks.values()) in (2152, 2153)
    return {
        "pruned": scrambled(fbconv.sparsify(model, masks)),
        "frozen": scrambled(fbconv.freeze(model, masks, seed=7)),
    }


def test_lenet5_fits_the_limits(lenets, tmp_path):
    sizes = {
        (kind, dtype): fbconv.save(model, tmp_path / "a.fbc", dtype)
        for kind, model in lenets.items()
        for dtype in (torch.float32, torch.bfloat16)
    }
    for dtype, limit in ((torch.float32, 14_000), (torch.bfloat16, 9_000)):
        assert sizes["pruned", dtype] < limit
        assert sizes["frozen", dtype] < limit
        # The seed, and what generator, distribution and checksum are called.
        assert sizes["frozen", dtype] - sizes["pruned", dtype] <= 100


def test_lenet5_fits_with_the_worst_mask(tmp_path):
    """A mask spread evenly over all layers has the most entropy."""
    model = fbconv.initialise(build("lenet5"), seed=7)
    masks = fbconv.select({n: torch.rand(s) for n, s in fbconv.prunable(model).items()}, 0.995)
    model = scrambled(fbconv.freeze(model, masks, seed=7))
    assert fbconv.save(model, tmp_path / "a.fbc") < 14_000
    assert fbconv.save(model, tmp_path / "a.fbc", torch.bfloat16) < 9_000


@pytest.mark.parametrize("sparsity", [0.9, 0.99, 0.999])
def test_positions_reach_the_bound(sparsity):
    size = 400_000
    kept = round(size * (1 - sparsity))
    positions = torch.randperm(size, generator=torch.Generator().manual_seed(3))[:kept].sort().values
    code = encode_positions(positions, size)
    assert torch.equal(decode_positions(code, kept, size), positions)
    bound = math.log2(math.comb(size, kept)) / kept
    assert entropy_bits(kept, size) / kept == pytest.approx(bound, rel=1e-6)
    assert bound - 0.001 <= 8 * len(code) / kept <= bound * 1.0005 + 16 / kept
    assert 8 * len(code) < 32 * kept  # columns of CSR alone
    assert 8 * len(code) < size  # a bitmap


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_mask_round_trips(data):
    size = data.draw(st.integers(0, 500))
    kept = torch.tensor(sorted(data.draw(st.sets(st.integers(0, max(0, size - 1)), max_size=size))), dtype=torch.int64)
    kept = kept[kept < size]
    assert torch.equal(decode_positions(encode_positions(kept, size), kept.numel(), size), kept)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 300), st.integers(0, 300))
def test_any_bytes_give_positions_or_an_error(code, size, kept):
    kept = min(size, kept)
    try:
        positions = decode_positions(code, kept, size)
    except ValueError:
        return
    assert encode_positions(positions, size) == code


@pytest.mark.parametrize(
    ("positions", "size", "message"),
    [
        ([3, 3], 10, "rise strictly"),
        ([3, 2], 10, "rise strictly"),
        ([-1, 2], 10, "rise strictly"),
        ([3, 10], 10, "rise strictly"),
        ([1, 2], 1, r"kept must be in \[0, 1\], got 2"),
        ([], -1, "size must be in"),
        ([], 2**31, "size must be in"),
    ],
)
def test_positions_are_checked(positions, size, message):
    with pytest.raises(ValueError, match=message):
        encode_positions(torch.tensor(positions, dtype=torch.int64), size)


# Files and models that do not fit each other.


def _lacking():
    model = net()
    del model[7]
    return model


@pytest.mark.parametrize(
    ("kind", "other", "message"),
    [
        (
            "pruned",
            lambda: nn.Sequential(nn.Conv2d(3, 9, 3)),
            r"layer '0'.* file has shape \(8, .* model \(9, 3, 3, 3\)",
        ),
        ("pruned", lambda: nn.Sequential(nn.ReLU()), "layer '0' of shape .* the model has ReLU"),
        ("pruned", nn.Sequential, "the model has nothing of that name"),
        ("dense", _lacking, "the file has 7.weight, unlike the model"),
        ("dense", lambda: nn.Sequential(*net(), nn.Linear(5, 5)), "the file lacks 8.bias, 8.weight, unlike the model"),
        ("dense", lambda: net()[:4].append(nn.Conv2d(16, 13, 1)), "unlike the model"),
        ("coarse", lambda: nn.Sequential(nn.Linear(8, 3)), "must be a Conv2d"),
        ("coarse", lambda: nn.Sequential(nn.Conv2d(3, 8, 5)), r"filters \(8, 3, 3, 3\) in 1 .* \(8, 3, 5, 5\) in 1"),
    ],
)
def test_models_that_do_not_fit(kind, other, message, tmp_path):
    path = tmp_path / "a.fbc"
    fbconv.save(MODELS[kind](), path)
    with pytest.raises(ValueError, match=message) as caught:
        fbconv.load(path, other())
    assert str(caught.value).startswith(str(path))


def test_shapes_and_dtypes_of_plain_tensors_are_checked(tmp_path):
    path = tmp_path / "a.fbc"
    fbconv.save(nn.BatchNorm1d(3), path)
    with pytest.raises(ValueError, match=r"weight: the file has shape \(3,\), the model \(4,\)"):
        fbconv.load(path, nn.BatchNorm1d(4))
    other = nn.BatchNorm1d(3)
    other.num_batches_tracked = torch.tensor(0.0)
    with pytest.raises(ValueError, match=r"num_batches_tracked: the file has torch.int64, the model torch.float32"):
        fbconv.load(path, other)


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"anything": 1}

    def set_extra_state(self, state):
        pass


def test_what_no_file_can_hold(tmp_path):
    with pytest.raises(ValueError, match="_extra_state must be a tensor with data, got dict"):
        fbconv.save(Extra(2, 2), tmp_path / "a.fbc")
    with pytest.raises(ValueError, match="weight must be a tensor with data, got one on the meta device"):
        fbconv.save(nn.Linear(2, 2, device="meta"), tmp_path / "a.fbc")
    model = nn.Linear(2, 2)
    model.register_buffer("phases", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"phases: a file holds dense tensors of float64, .* got torch.complex64"):
        fbconv.save(model, tmp_path / "a.fbc")


def test_a_weight_of_a_layer_without_compressed_form_is_loaded_densely(tmp_path):
    """As state dicts are packed without knowing their modules."""
    write(tmp_path / "a.fbc", [coded("", (6, 4), torch.tensor([2, 5]), torch.tensor([1.0, 2.0]))])
    loaded = fbconv.load(tmp_path / "a.fbc", nn.Embedding(6, 4))
    assert loaded.weight.reshape(-1).nonzero().flatten().tolist() == [2, 5]
    write(tmp_path / "a.fbc", [Plain("weight", torch.ones(6, 4))])
    assert fbconv.load(tmp_path / "a.fbc", nn.Embedding(6, 4)).weight.sum() == 24


class Borrowed(nn.Module):
    """A filter basis that is also a module of its own, under a name that comes first."""

    def __init__(self):
        super().__init__()
        conv = fbconv.interspace(nn.Sequential(nn.Conv2d(2, 3, 3)))[0]
        self.basis, self.conv = conv.basis, conv


def test_a_basis_with_other_names(tmp_path):
    model = scrambled(Borrowed())
    fbconv.save(model, tmp_path / "a.fbc")
    loaded = fbconv.load(tmp_path / "a.fbc", Borrowed())
    assert_same(model, loaded)
    assert loaded.basis is loaded.conv.basis


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_loaded_file_may_be_written_again(dtype, tmp_path):
    """Its rounded frozen weights are those of the seed in its own dtype, and in no wider one."""
    fbconv.save(MODELS["drawn"](), tmp_path / "a.fbc", dtype)
    loaded = fbconv.load(tmp_path / "a.fbc", net())
    fbconv.save(loaded, tmp_path / "b.fbc", dtype)
    assert (tmp_path / "b.fbc").read_bytes() == (tmp_path / "a.fbc").read_bytes()
    fbconv.save(loaded, tmp_path / "b.fbc")
    assert_same_numbers(loaded, fbconv.load(tmp_path / "b.fbc", net()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_rounded_model_in_another_dtype(dtype, tmp_path):
    model = MODELS["drawn"]().bfloat16()
    fbconv.save(model, tmp_path / "a.fbc", dtype)
    assert_same_numbers(model.to(dtype).float(), fbconv.load(tmp_path / "a.fbc", net()))


def assert_same_numbers(a, b):
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name


def test_models_without_memory_are_refused(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3))
    fbconv.save(fbconv.sparsify(model, random_masks(model, 0.5)), tmp_path / "m.fbc")
    with pytest.raises(ValueError, match=r"0\.weight: the model must have memory .*, got a tensor on the meta device"):
        fbconv.load(tmp_path / "m.fbc", copy.deepcopy(model).to("meta"))
