"""What a conversion takes over from plain torch.nn models, what it leaves dense, and what it says of that."""

import pytest
import torch
from conversions import CONVERSIONS, frozen, interspace, masked, masks_of, near, pruned
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, prune

import fbconv
import fbconv.nn as fnn
from fbconv.interop import dense_state_dict, load_dense_state_dict

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


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


# --- odd layers and wrappers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Linear(4, 0), nn.Linear(0, 4)], ids=str)
def test_layers_without_entries_stay_dense(layer):
    model = nn.Sequential(nn.Linear(4, 4), layer)
    assert list(fbconv.prunable(model)) == ["0.weight"]
    assert fbconv.convertible(model).dense == {"1.weight": "it has no entries"}


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
