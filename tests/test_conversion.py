"""What a conversion takes over from plain torch.nn models, what it leaves dense, and what it says of that."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from cases import random_mask
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, prune

import fbconv
import fbconv.nn as fnn
from fbconv.integrations.conversion import load_state
from fbconv.interop import dense_state_dict, load_dense_state_dict

pytestmark = pytest.mark.usefixtures("one_thread")


def near(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def masks_of(model, density=0.5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {name: random_mask(generator, shape, density) for name, shape in fbconv.prunable(model).items()}


def masked(model, masks):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            twin.get_parameter(name).mul_(mask)
    return twin


def pruned(model):
    return fbconv.sparsify(model, masks_of(model))


def frozen(model):
    return fbconv.freeze(model, masks_of(model))


def interspace(model):
    return fbconv.interspace(model, linear_block=2)


CONVERSIONS = [pruned, frozen, interspace]


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        yield


# --- what stays dense, and why ----------------------------------------------------------------------------------------


class OwnForward(nn.Linear):
    """A kind of Linear that computes something else."""

    def forward(self, x):
        return super().forward(x).relu()


def replaced_forward():
    conv = nn.Conv2d(2, 2, 1)
    conv.forward = lambda x: x
    return conv


def with_buffer():
    linear = nn.Linear(2, 2)
    linear.register_buffer("scale", torch.ones(2, 2))
    return linear


STAYS = {
    "transposed": (lambda: nn.ConvTranspose2d(2, 2, 3), "weight", "transposed convolutions"),
    "conv1d": (lambda: nn.Conv1d(2, 2, 3), "weight", r"1-d convolutions .* kernel size \(1, K\)"),
    "conv3d": (lambda: nn.Conv3d(2, 2, 3), "weight", "3-d convolutions"),
    "embedding": (lambda: nn.Embedding(4, 2), "weight", "embeddings"),
    "recurrent": (lambda: nn.GRU(2, 2), "weight_hh_l0", "recurrent layers"),
    "attention": (lambda: nn.MultiheadAttention(4, 2), "in_proj_weight", "reads its projections itself"),
    "projection": (lambda: nn.MultiheadAttention(4, 2), "out_proj.weight", "is a kind of Linear"),
    "subclass": (lambda: OwnForward(2, 2), "weight", "OwnForward is a kind of Linear"),
    "lazy": (lambda: nn.LazyConv2d(2, 3), "weight", "it is lazy: give the model an input first"),
    "parametrized": (lambda: parametrizations.weight_norm(nn.Conv2d(2, 2, 3)), "weight", "remove_parametrizations"),
    "spectral": (lambda: parametrizations.spectral_norm(nn.Linear(2, 2)), "weight", "remove_parametrizations"),
    "pruned": (lambda: prune.l1_unstructured(nn.Linear(2, 2), "weight", 0.5), "weight", "prune.remove"),
    "forward": (replaced_forward, "weight", "forward was replaced"),
    "buffer": (with_buffer, "weight", "also holds scale"),
    "unknown": (lambda: nn.Bilinear(2, 2, 2), "weight", "Bilinear is neither Conv2d nor Linear"),
}


@pytest.mark.parametrize("kind", STAYS)
def test_what_stays_dense_says_why(kind):
    make, name, reason = STAYS[kind]
    model = nn.Sequential(nn.Linear(2, 2), make())
    name = f"1.{name}"
    found = fbconv.convertible(model)
    assert list(found.weights) == list(fbconv.prunable(model)) == ["0.weight"]
    with pytest.raises(KeyError, match=rf"masks: '{name}' is not prunable: .*{reason}"):
        fbconv.sparsify(model, {name: torch.ones(2, 2)})
    assert f"{name}: stays dense, {found.dense[name]}" in str(found)


@pytest.mark.parametrize("kind", sorted(STAYS.keys() - {"lazy", "forward"}))
@pytest.mark.parametrize("convert", CONVERSIONS)
def test_what_stays_dense_is_left_alone(convert, kind):
    model = nn.ModuleList([nn.Linear(2, 2), STAYS[kind][0]()])
    before = {name: tensor.clone() for name, tensor in model[1].state_dict().items()}
    converted = convert(model)
    assert isinstance(converted[0], fnn.Compressed)
    assert [type(module) for module in converted[1].modules()] == [type(module) for module in model[1].modules()]
    state = converted[1].state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def test_conversions_are_silent(recwarn):
    fbconv.densify(fbconv.interspace(pruned(nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv1d(2, 2, 1)))))
    assert not recwarn.list


def test_a_model_of_layers_that_stay_dense_cannot_be_scored():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"got none; 0\.weight: it is parametrized"):
        fbconv.score(model, "magnitude")


def test_lazy_layers_convert_once_they_have_weights():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))
    x = torch.randn(2, 2, 5, 5)
    assert not fbconv.prunable(model)
    expected = model(x)
    near(frozen(model)(x), expected)
    assert fbconv.prunable(model).keys() == {"0.weight", "2.weight"}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "wrap", [nn.utils.weight_norm, nn.utils.spectral_norm, lambda layer: prune.random_unstructured(layer, "weight", 2)]
)
def test_weights_that_hooks_compute_train_on_beside_converted_ones(wrap):
    model = nn.Sequential(nn.Linear(2, 2), wrap(nn.Linear(2, 2)))
    x = torch.randn(3, 2)
    model(x)
    model.eval()
    converted = frozen(model)
    near(converted(x), model(x))
    before = converted[1].weight_orig if hasattr(converted[1], "weight_orig") else converted[1].weight_v
    before = before.detach().clone()
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.1)
    converted(x).square().sum().backward()
    optimizer.step()
    after = converted[1].weight_orig if hasattr(converted[1], "weight_orig") else converted[1].weight_v
    assert not torch.equal(after, before)
    assert not torch.equal(converted(x), model(x))


# --- layers of torch.nn that are converted ----------------------------------------------------------------------------


@pytest.mark.parametrize("convert", CONVERSIONS)
@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"groups": 4},  # depthwise
        {"padding": "same", "dilation": 2},
        *({"padding": 1, "padding_mode": mode} for mode in ("reflect", "replicate", "circular")),
    ],
    ids=str,
)
def test_convolutions(convert, options):
    model = nn.Sequential(nn.Conv2d(4, 8, 3, **options), nn.ReLU(), nn.Conv2d(8, 8, (1, 3), groups=8))
    x = torch.randn(2, 4, 6, 7)
    converted = convert(model)
    near(converted(x), (masked(model, masks_of(model)) if convert is pruned else model)(x))
    dense = fbconv.densify(converted)
    near(dense(x), converted(x))
    assert str(dense) == str(model)


READ = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
        "in_features", "out_features")  # fmt: skip


@pytest.mark.parametrize("convert", CONVERSIONS)
@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 6, (3, 2), (1, 2), "valid", 2, groups=2, padding_mode="zeros"), nn.Linear(4, 3)]
)
def test_code_around_a_layer_reads_its_attributes(convert, layer):
    converted = convert(nn.Sequential(layer))[0]
    for name in READ:
        if hasattr(layer, name):
            assert getattr(converted, name) == getattr(layer, name), name


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("convert", CONVERSIONS)
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("padding", [None, torch.tensor([[False] * 5, [False, False, False, True, True]])])
def test_the_fast_path_of_transformer_encoders(convert, norm_first, padding):
    """In evaluation mode it runs on ``linear1.weight``, without calling the layer."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).eval()
    assert set(fbconv.prunable(model)) == {f"layers.{i}.linear{j}.weight" for i in (0, 1) for j in (1, 2)}
    x = torch.randn(2, 5, 8)
    converted = convert(model)
    slow = converted(x, src_key_padding_mask=padding)  # with gradients there is no fast path
    expected = fbconv.densify(converted)(x, src_key_padding_mask=padding)
    with torch.no_grad():
        fast = converted(x, src_key_padding_mask=padding)
    there = slice(None) if padding is None else ~padding
    near(slow[there], expected[there])
    near(fast[there], expected[there])


def test_attention_around_converted_layers():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

        def forward(self, x):
            return self.mlp(x + self.attention(x, x, x)[0])

    model, x = Block(), torch.randn(2, 3, 8)
    near(pruned(model)(x), masked(model, masks_of(model))(x))


@pytest.mark.parametrize("convert", CONVERSIONS)
def test_flags_dtype_and_gradients_survive(convert):
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Linear(4, 2)).to(torch.bfloat16)
    model[0].weight.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    model[2].eval()
    converted = convert(model)
    for old, new in zip(model, converted, strict=True):
        assert new.training == old.training
        assert new.values.requires_grad == old.weight.requires_grad
        assert new.bias.requires_grad == old.bias.requires_grad
        assert all(parameter.dtype == torch.bfloat16 for parameter in new.parameters())
    for old, back in zip(model, fbconv.densify(converted), strict=True):
        assert back.training == old.training
        assert {n: p.requires_grad for n, p in back.named_parameters()} == {
            n: p.requires_grad for n, p in old.named_parameters()
        }


def test_filters_that_do_not_train_have_a_basis_that_does_not():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)).requires_grad_(False)
    model[2].requires_grad_(True)
    converted = fbconv.interspace(model)
    assert converted[0].basis is converted[1].basis
    before = [layer.weight.detach().clone() for layer in converted]
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.1)
    converted(torch.randn(1, 2, 8, 8)).sum().backward()
    optimizer.step()
    assert [torch.equal(layer.weight, old) for layer, old in zip(converted, before, strict=True)] == [True, True, False]
    assert not fnn.FBConv2d.from_dense(model[0]).basis.elements.requires_grad


def test_the_meta_device_survives():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Linear(3, 3))
    for converted in (fbconv.sparsify(model, masks_of(model)), fbconv.interspace(model)):
        assert all(parameter.is_meta for parameter in converted.parameters())
        assert converted(torch.empty(1, 2, 5, 5, device="meta")).shape == (1, 2, 3, 3)


# --- tied weights -----------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Convolutions with one weight and one bias, linear layers with one weight, an embedding with a head."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(36, 16)
        self.one, self.two = (nn.Conv2d(4, 4, 3, padding=1, stride=stride) for stride in (1, 2))
        self.two.weight, self.two.bias = self.one.weight, self.one.bias
        self.three, self.four = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.four.weight = self.three.weight
        self.head = nn.Linear(16, 36)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens).view(-1, 4, 4, 4)
        x = self.two(self.one(x)).flatten(1)
        return self.head(self.four(self.three(x)))


TOKENS = torch.arange(8).view(2, 4)
ONCE = ["one.weight", "three.weight"]


def tie_names(model):
    """Sets of names that are one parameter."""
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return sorted(sorted(group) for group in names.values() if len(group) > 1)


def test_a_shared_weight_is_prunable_once():
    model = Tied()
    found = fbconv.convertible(model)
    assert list(fbconv.prunable(model)) == list(found.weights) == ONCE
    assert found.tied == {"two.weight": "one.weight", "four.weight": "three.weight"}
    assert "'embedding.weight' too" in found.dense["head.weight"]
    assert "two.weight: is one.weight" in str(found)
    with pytest.raises(KeyError, match=r"'two\.weight' is not prunable: it is 'one\.weight'"):
        fbconv.sparsify(model, {"two.weight": torch.ones(4, 4, 3, 3)})
    with pytest.raises(KeyError, match=r"'head\.weight' is not prunable: it is 'embedding\.weight' too"):
        fbconv.freeze(model, {"head.weight": torch.ones(36, 16)})


@pytest.mark.parametrize("sharing", ["coarse", "fine", "in:2"])
@pytest.mark.parametrize("convert", CONVERSIONS)
def test_tied_weights_stay_tied(convert, sharing, tmp_path):
    model = Tied()
    converted = fbconv.interspace(model, sharing, linear_block=4) if convert is interspace else convert(model)
    names = [["embedding.weight", "head.weight"], ["four.values", "three.values"], ["one.bias", "two.bias"],
             ["one.values", "two.values"]]  # fmt: skip
    kept = [group for group in tie_names(converted) if "basis" not in group[0]]
    assert kept == names
    expected = masked(model, masks_of(model)) if convert is pruned else model
    near(converted(TOKENS), expected(TOKENS))
    converted(TOKENS).square().sum().backward()
    torch.optim.SGD(converted.parameters(), lr=1e-3).step()
    dense = fbconv.densify(converted)
    assert tie_names(dense) == tie_names(model)
    near(dense(TOKENS), converted(TOKENS))
    fbconv.save(converted, tmp_path / "model.fbc")
    again = fbconv.load(tmp_path / "model.fbc", Tied())
    assert tie_names(again) == tie_names(converted)
    assert torch.equal(again(TOKENS), converted(TOKENS))


def test_the_gradient_of_a_tied_weight_is_the_dense_ones():
    model = Tied()
    sparse, dense = pruned(model), masked(model, masks_of(model))
    for each in (sparse, dense):
        each(TOKENS).square().sum().backward()
    for layer in ("one", "three"):
        near(sparse.get_submodule(layer).values.grad, sparse.get_submodule(layer).pattern.gather(
            dense.get_submodule(layer).weight.grad))  # fmt: skip


def test_tied_weights_are_stored_once(tmp_path):
    model = Tied()
    tied = fbconv.save(pruned(model), tmp_path / "tied.fbc")
    model.two.weight = nn.Parameter(model.one.weight.detach().clone())
    model.four.weight = nn.Parameter(model.three.weight.detach().clone())
    apart = fbconv.save(pruned(model), tmp_path / "apart.fbc")
    assert apart - tied > 4 * int(sum(mask.sum() for mask in masks_of(Tied()).values())) / 2
    with pytest.raises(ValueError, match=r"'one\.weight' and 'two\.weight' are one parameter"):
        fbconv.load(tmp_path / "apart.fbc", Tied())


@pytest.mark.parametrize("seed", [None, 3])
def test_drawn_weights_of_tied_layers(seed):
    model = fbconv.initialise(Tied(), seed=3)
    frozen = fbconv.freeze(model, masks_of(model), seed)
    near(frozen(TOKENS), model(TOKENS))
    assert frozen.one.values is frozen.two.values
    assert torch.equal(frozen.one.frozen, frozen.two.frozen)


def test_masks_of_tied_layers_change_together():
    model = pruned(Tied())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(TOKENS).square().sum().backward()
    optimizer.step()
    expected = fbconv.densify(model)
    masks = masks_of(model, 0.3, seed=9)
    fbconv.dynamic.set_masks(model, masks, optimizer)
    assert model.one.values is model.two.values
    assert model.three.values is model.four.values
    parameters = {id(parameter) for parameter in model.parameters()}
    assert parameters == {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    masks = {name.replace("values", "weight"): mask & old for (name, mask), old in zip(
        masks.items(), masks_of(Tied()).values(), strict=True)}  # fmt: skip
    near(model(TOKENS), masked(expected, masks)(TOKENS))
    other = pruned(Tied())
    other.load_state_dict(model.state_dict())
    assert tie_names(other) == tie_names(model)
    assert torch.equal(other(TOKENS), model(TOKENS))


def test_dense_gradients_of_tied_layers():
    model = pruned(Tied())
    dense = fbconv.densify(model)
    dense(TOKENS).square().sum().backward()
    with fbconv.dynamic.dense_gradients(model) as weights:
        model(TOKENS).square().sum().backward()
    assert list(weights) == ["one.values", "three.values"]
    near(weights["one.values"].grad, dense.one.weight.grad)
    near(weights["three.values"].grad, dense.three.weight.grad)


def test_tied_filters_over_different_bases_are_refused():
    names = dict.fromkeys(["stem", *(f"layer{i}" for i in range(1, 5))])
    model = nn.Sequential()
    for name in names:
        model.add_module(name, nn.Conv2d(2, 2, 3))
    model.layer2.weight = model.layer1.weight
    with pytest.raises(ValueError, match=r"'layer1\.weight' and 'layer2\.weight' are one parameter.*over one basis"):
        fbconv.interspace(model, "medium")


@pytest.mark.parametrize("convert", CONVERSIONS)
def test_a_bias_shared_with_a_layer_that_stays_dense_stays_shared(convert):
    model = nn.ModuleList([nn.Linear(2, 2), nn.Bilinear(2, 2, 2)])
    model[0].bias = model[1].bias
    converted = convert(model)
    assert isinstance(converted[0], fnn.Compressed)
    assert converted[0].bias is converted[1].bias
    assert converted[0].bias is not model[0].bias
    assert fbconv.densify(converted)[0].bias is not converted[1].bias


def test_a_module_with_two_names_keeps_both():
    layer = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer, nn.ReLU())})
    sparse = pruned(model)
    assert sparse["a"] is sparse["b"][0]
    assert fbconv.convertible(model).weights.keys() == {"a.weight"}


# --- hooks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [*CONVERSIONS, lambda model: fbconv.densify(pruned(model))])
def test_hooks_go_with_the_layer(convert):
    model = nn.Sequential(nn.Linear(4, 4))
    calls = []
    model[0].register_forward_hook(lambda module, args, kwargs, output: calls.append("kwargs"), with_kwargs=True)
    model[0].register_forward_hook(lambda module, args, output: output + 1)
    model[0].register_forward_hook(lambda module, args, output: calls.append("first"), prepend=True)
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model[0].register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
    model[0].register_full_backward_hook(lambda module, inputs, outputs: calls.append("backward"))
    model[0].register_full_backward_pre_hook(lambda module, outputs: (outputs[0] * 3,))
    x = torch.randn(2, 4, requires_grad=True)
    converted = convert(model)
    converted(x).sum().backward()
    assert calls == [{}, "first", "kwargs", "backward"]
    plain = nn.functional.linear(x * 2, converted[0].weight, converted[0].bias) + 1
    near(converted(x), plain)
    near(x.grad, torch.autograd.grad(plain.sum() * 3, x)[0])


def test_hooks_that_always_run():
    model, calls = nn.Sequential(nn.Linear(4, 4)), []
    model[0].register_forward_hook(lambda *_: calls.append("always"), always_call=True)
    with pytest.raises(RuntimeError):
        pruned(model)(torch.randn(2, 3))
    assert calls == ["always"]


def test_handles_still_remove_their_hooks():
    model, calls = nn.Sequential(nn.Linear(4, 4)), []
    handles = [
        model[0].register_forward_hook(lambda *_: calls.append("forward")),
        model[0].register_forward_pre_hook(lambda *_: calls.append("before")),
    ]
    fbconv.sparsify(model, masks_of(model), inplace=True)
    model(torch.randn(1, 4))
    for handle in handles:
        handle.remove()
    model(torch.randn(1, 4))
    assert calls == ["before", "forward"]


REGISTER = {
    "state_dict hook": lambda module: module.register_state_dict_post_hook(lambda *_: None),
    "state_dict pre-hook": lambda module: module.register_state_dict_pre_hook(lambda *_: None),
    "load_state_dict pre-hook": lambda module: module.register_load_state_dict_pre_hook(lambda *_: None),
    "load_state_dict post-hook": lambda module: module.register_load_state_dict_post_hook(lambda *_: None),
}


@pytest.mark.parametrize("what", REGISTER)
def test_hooks_on_the_state_dict_are_refused(what):
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
    handle = REGISTER[what](model[1])
    for convert in CONVERSIONS:
        with pytest.raises(ValueError, match=rf"layer '1' \(Linear\) has a {what}"):
            convert(model)
    assert type(model[1]) is nn.Linear
    handle.remove()
    assert isinstance(pruned(model)[1], fnn.SparseLinear)


# --- models as objects ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("convert", CONVERSIONS)
def test_copies_of_whole_models(convert, copied):
    model = convert(Tied())
    twin = copied(model)
    expected = model(TOKENS)
    assert tie_names(twin) == tie_names(model)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(twin(TOKENS), expected)
    fbconv.dynamic.set_masks(twin, masks_of(twin, 0.2))
    assert twin.one.values is twin.two.values
    assert model.one.values.numel() != twin.one.values.numel()


def test_old_values_are_not_kept_alive():
    layer = fnn.SparseLinear(8, 8)
    old = weakref.ref(layer.values)
    layer.set_mask(torch.eye(8, dtype=torch.bool))
    gc.collect()
    assert old() is None


@pytest.mark.parametrize("layer", [nn.Linear(4, 0), nn.Linear(0, 4)], ids=str)
def test_layers_without_entries_stay_dense(layer):
    model = nn.Sequential(nn.Linear(4, 4), layer)
    assert list(fbconv.prunable(model)) == ["0.weight"]
    assert fbconv.convertible(model).dense == {"1.weight": "it has no entries"}


@pytest.mark.parametrize("convert", [fbconv.sparsify, fbconv.freeze])
@pytest.mark.parametrize("shared", ["layer", "weight", "nothing, the model is the layer"])
def test_saved_states_of_shared_layers_load(shared, convert):
    def make():
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        second.weight = first.weight
        return {"layer": nn.Sequential(first, first), "weight": nn.Sequential(first, second)}.get(shared, first)

    model = make()
    trained = convert(model, {name: torch.rand(shape) < 0.5 for name, shape in fbconv.prunable(model).items()})
    loaded = load_state(make(), trained.state_dict())
    inputs = torch.randn(3, 4)
    assert torch.equal(loaded(inputs), trained(inputs))
    assert len(list(loaded.parameters())) == len(list(trained.parameters()))


@pytest.mark.parametrize("convert", [pruned, frozen, interspace])
def test_wrappers_that_hide_their_names(convert, tmp_path):
    def plain():
        return nn.Sequential(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), nn.Conv2d(4, 4, 3))

    model = convert(nn.Sequential(*map(checkpoint_wrapper, plain())))
    images = torch.randn(2, 2, 8, 8)
    dense = plain()
    dense.load_state_dict(dense_state_dict(model))
    near(dense(images), model(images))
    fbconv.save(model, tmp_path / "model.fbc")
    assert torch.equal(fbconv.load(tmp_path / "model.fbc", plain())(images), model(images))
    before = {key: tensor.clone() for key, tensor in dense_state_dict(model).items()}
    load_dense_state_dict(model, before)
    near(dense_state_dict(model), before)
