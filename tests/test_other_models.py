"""Models of transformers, built from configurations: score, convert, train, save, load and back to plain modules."""

import copy

import pytest
import torch
from torch import nn

import fbconv

transformers = pytest.importorskip("transformers", reason="the models come from transformers")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::fbconv.LayerCollapseWarning"),  # layers of 8 channels
]

SIZE = 32


def resnet():
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=3)
    return transformers.ResNetForImageClassification(config)


def convnextv2():
    config = transformers.ConvNextV2Config(
        hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=3, drop_path_rate=0.0
    )
    return transformers.ConvNextV2ForImageClassification(config)


def mobilenetv2():
    config = transformers.MobileNetV2Config(
        depth_multiplier=0.1, min_depth=4, depth_divisible_by=4, finegrained_output=False, num_labels=3,
        classifier_dropout_prob=0.0, image_size=SIZE,
    )  # fmt: skip
    return transformers.MobileNetV2ForImageClassification(config)


def regnet():
    config = transformers.RegNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4, num_labels=3
    )
    return transformers.RegNetForImageClassification(config)


def segformer():
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=8, num_labels=3,
        drop_path_rate=0.0, hidden_dropout_prob=0.0, classifier_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


def vit():
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=SIZE,
        patch_size=8, num_labels=3,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


FAMILIES = [resnet, convnextv2, mobilenetv2, regnet, segformer, vit]


def images(batch=4):
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def labels(model, x):
    with torch.no_grad():
        logits = model(x).logits
    return torch.randint(3, (len(x), *logits.shape[2:]), generator=torch.Generator().manual_seed(2))


def built(family):
    """A model in evaluation mode whose batch norms have seen images, so that numbers are of the order of 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = family()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        for _ in range(2):
            model(torch.randn(8, 3, SIZE, SIZE))
    return model.eval()


def loss_of(outputs, targets):
    return nn.functional.cross_entropy(outputs.logits, targets)


def near(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


def everything(model):
    return {name: torch.ones(shape, dtype=torch.bool) for name, shape in fbconv.prunable(model).items()}


def half(model, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) < 0.5 for name, shape in fbconv.prunable(model).items()}


def train(model, x, targets, steps=2):
    """A few steps; back in evaluation mode."""
    model.train()
    optimizer = torch.optim.AdamW(fbconv.parameter_groups(model, 1e-2), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model(x), targets).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def original(family):
    return built(family)


@pytest.fixture
def model(original):
    return copy.deepcopy(original)


@torch.no_grad()
def test_conversions_that_keep_everything_keep_the_function(model):
    x = images()
    expected = model(x).logits
    for convert in (
        lambda: fbconv.sparsify(model, everything(model)),
        lambda: fbconv.freeze(model, half(model)),
        lambda: fbconv.interspace(model),
        lambda: fbconv.interspace(model, "medium", linear_block=4),
        lambda: fbconv.interspace(model, "out:4", "orthonormal"),
    ):
        near(convert()(x).logits, expected)


def test_every_matrix_is_converted_or_has_a_reason(model):
    found = fbconv.convertible(model)
    matrices = {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
    assert found.weights.keys() | found.dense.keys() == matrices
    layers = {name for name, module in model.named_modules() if type(module) in (nn.Conv2d, nn.Linear)}
    assert found.weights.keys() == {f"{name}.weight" for name in layers}


def pruned(model):
    return fbconv.sparsify(model, half(model))


def frozen(model):
    return fbconv.freeze(model, half(model))


def seeded(model):
    return fbconv.freeze(model, half(model), seed=5, init="kaiming_normal")


def pruned_interspace(model):
    model = fbconv.interspace(model, linear_block=4)
    return fbconv.sparsify(model, half(model))


@pytest.mark.parametrize("convert", [pruned, frozen, seeded, pruned_interspace])
def test_train_save_load_and_densify(convert, family, model, tmp_path):
    x = images()
    targets = labels(model, x)
    compressed = convert(model)
    names = [name for name, _ in compressed.named_parameters() if name.endswith("values")]
    before = {name: compressed.get_parameter(name).detach().clone() for name in names}
    train(compressed, x, targets)
    assert all(not torch.equal(compressed.get_parameter(name), before[name]) for name in names[-2:])
    with torch.no_grad():
        expected = compressed(x).logits
        near(fbconv.densify(compressed)(x).logits, expected)
        fbconv.save(compressed, tmp_path / "model.fbc")
        again = fbconv.load(tmp_path / "model.fbc", family().eval())
        assert torch.equal(again(x).logits, expected)
    with torch.no_grad():
        twin = family().eval()
        twin.load_state_dict(fbconv.densify(compressed).state_dict())
        near(twin(x).logits, expected)


@pytest.mark.parametrize("name", ["magnitude", "snip", "grasp", "synflow"])
def test_scores_and_masks(name, model):
    x = images()
    batches = [(x, labels(model, x))]
    before = copy.deepcopy(model.state_dict())
    # One round of GraSP: ConvNeXt V2 takes norms of maps, which have no second derivative where a channel is dead.
    masks = fbconv.prune_masks(model, name, 0.8, rounds=1 if name == "grasp" else 2, batches=batches)
    assert masks.keys() == fbconv.prunable(model).keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    sparse = fbconv.sparsify(model, masks)
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(sparse.get_parameter(key).numel() for key in fbconv.prunable(sparse))
    assert kept == int(0.2 * total + 1e-6)


def test_the_default_loss_reads_the_logits(model):
    x = images()
    batches = [(x, labels(model, x))]
    own, default = (fbconv.score(model, "snip", batches, loss_fn) for loss_fn in (loss_of, None))
    assert all(torch.equal(own[name], default[name]) for name in own)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
@pytest.mark.parametrize("convert", [pruned, frozen, pruned_interspace])
def test_gradient_checkpointing_of_transformers(convert):
    compressed = convert(built(vit)).train()
    x = images()
    targets = labels(compressed, x)
    loss_of(compressed(x), targets).backward()
    expected = {name: parameter.grad.clone() for name, parameter in compressed.named_parameters()}
    for reentrant in (False, True):
        twin = copy.deepcopy(compressed)
        twin.gradient_checkpointing_enable({"use_reentrant": reentrant})
        twin.zero_grad()
        calls = []
        twin.vit.layers[0].attention.q_proj.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        loss_of(twin(x), targets).backward()
        assert len(calls) == 2, "run again in the backward pass"
        for name, parameter in twin.named_parameters():
            near(parameter.grad, expected[name])


def test_tied_heads_stay_with_their_embedding():
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertForMaskedLM(config).eval()
    embedding, head = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    assert model.get_parameter(embedding) is model.get_parameter(head)
    tokens = torch.arange(12).view(2, 6)
    sparse = fbconv.sparsify(model, everything(model))
    near(sparse(tokens).logits, model(tokens).logits)
    assert sparse.get_parameter(embedding) is sparse.get_parameter(head)
    assert embedding in fbconv.convertible(model).dense[head]
    with pytest.raises(KeyError, match=f"{head}.*{embedding}"):
        fbconv.sparsify(model, {head: torch.ones(20, 8)})
