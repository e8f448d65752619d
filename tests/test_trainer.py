"""The callback in Hugging Face's Trainer: as a loop of one's own, through checkpoints, accumulation and bfloat16."""

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is loaded

import pytest
import torch
from own_loop import PLANS, started, train
from ranks import torchrun
from torch import nn

import fbconv
from fbconv.integrations.conversion import load_state
from fbconv.nn.compressed import compressed_layers

transformers = pytest.importorskip("transformers", reason="without fbconv[transformers]")
pytest.importorskip("accelerate", reason="without fbconv[transformers]")

from safetensors.torch import load_file  # noqa: E402

from fbconv.integrations import transformers as adapter  # noqa: E402
from fbconv.integrations.plan import Plan  # noqa: E402
from fbconv.integrations.training import MaskedTraining  # noqa: E402
from fbconv.integrations.transformers import SparseTraining  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHTS = {
    "bert": 2 * (4 * 16 * 16 + 2 * 16 * 32) + 16 * 16,
    "resnet": 8 * 49 + 2 * 8 * 8 * 9 + (8 + 16) * 16 * 9 + 8 * 16,
}


def bert(seed=0, dropout=0.1):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32, "max_position_embeddings": 8}  # fmt: skip
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, **rates, num_labels=2))


def resnet(seed=0):
    torch.manual_seed(seed)
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4
        )
    )


def interspace_resnet(seed=0):
    """Its 3x3 convolutions share a basis."""
    return fbconv.interspace(resnet(seed))


def texts():
    tokens = torch.randint(20, (64, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": ids, "labels": ((ids > 9).sum() > 4).long()} for ids in tokens]


def images():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (64,), generator=generator)
    pixels = torch.randn(64, 1, 16, 16, generator=generator) + labels[:, None, None, None]
    return [{"pixel_values": image, "labels": label} for image, label in zip(pixels, labels, strict=True)]


def trainer_of(model, folder, *callbacks, **options):
    options = {
        "num_train_epochs": 4, "per_device_train_batch_size": 8, "learning_rate": 5e-3, "save_strategy": "no",
        "logging_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True, "optim": "adamw_torch",
    } | options  # fmt: skip
    data = texts() if isinstance(model, transformers.BertForSequenceClassification) else images()
    arguments = transformers.TrainingArguments(str(folder), **options)
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=list(callbacks))
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    return trainer


def plan(name, **options):
    return SparseTraining(**{"sparsity": 0.8, "interval": 4, "exclude": ["classifier*"]} | PLANS[name] | options)


def kept(model):
    return sum(layer.values.numel() for layer in compressed_layers(model).values())


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def accuracy(model, data):
    batch = transformers.default_data_collator(data)
    with torch.no_grad():
        return (model.eval()(**batch).logits.argmax(1) == batch["labels"]).float().mean().item()


class Counts(transformers.TrainerCallback):
    """What the layers keep before the first step."""

    def on_step_begin(self, args, state, control, model, **_):
        if state.global_step == 0:
            self.first = kept(model)
            self.masks = [layer.pattern.mask() for layer in compressed_layers(model).values()]


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("make", [resnet, interspace_resnet])
def test_networks_learn_with_exactly_the_weights_that_were_asked_for(tmp_path, make, name):
    model, counts = make(), Counts()
    weights = sum(shape.numel() for name, shape in fbconv.prunable(model).items() if "classifier" not in name)
    trainer_of(model, tmp_path, plan(name), counts, num_train_epochs=8).train()
    assert weights == WEIGHTS["resnet"] or make is interspace_resnet
    assert counts.first == (weights if name == "gmp" else int(0.2 * weights))
    assert kept(model) == int(0.2 * weights)
    assert accuracy(model, images()) > 0.6  # of four classes
    layers = compressed_layers(model).values()
    assert all((layer.frozen is not None) == ("fr" in name) for layer in layers)
    moved = not all(torch.equal(layer.pattern.mask(), mask) for layer, mask in zip(layers, counts.masks, strict=True))
    assert moved == ("dynamic" in PLANS[name])
    assert type(model.classifier[1]) is nn.Linear


@pytest.mark.parametrize("name", ["prune", "rigl"])
def test_transformers_learn_too(tmp_path, name):
    model, counts = bert(dropout=0.0), Counts()
    options = {"num_train_epochs": 20, "learning_rate": 1e-2}
    trainer_of(model, tmp_path, plan(name, score="magnitude"), counts, **options).train()
    assert counts.first == kept(model) == int(0.2 * WEIGHTS["bert"])
    assert accuracy(model, texts()) > 0.85  # of two classes


@pytest.mark.parametrize("name", [name for name in PLANS if name != "freeze"])
def test_a_trainer_does_what_a_loop_of_ones_own_does(tmp_path, name):
    """With accumulated gradients, clipping and a learning rate that falls with every step."""
    model, dynamic, counts = resnet(), PLANS[name].get("dynamic", "none"), Counts()
    options = {"gradient_accumulation_steps": 2, "max_grad_norm": 1.0, "optim": "sgd", "learning_rate": 0.05}
    trainer = trainer_of(model, tmp_path, plan(name), counts, train_sampling_strategy="sequential", **options)
    trainer.train()
    assert trainer.state.global_step == 16
    batches = [transformers.default_data_collator(images()[8 * i : 8 * i + 8]) for i in range(8)] * 4
    expected = resnet()
    masks = dict(zip([n for n in fbconv.prunable(expected) if "classifier" not in n], counts.masks, strict=True))
    expected = started(expected, masks, PLANS[name].get("mode"), dynamic)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 16)
    loss = lambda model, batch: model(**batch).loss  # noqa: E731
    changes = train(expected, loss, batches, optimizer, scheduler, dynamic, 0.8, 4, 2, 1.0, ["classifier*"])
    assert changes == {"none": 0, "gmp": 4}.get(dynamic, 2)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-3, atol=5e-5)
    assert trainer.lr_scheduler.get_last_lr() == [0.0, 0.0]  # decayed parameters, and others


@pytest.mark.filterwarnings("ignore::fbconv.LayerCollapseWarning")
def test_masks_are_those_of_the_score_on_the_first_batches(tmp_path):
    counts, model = Counts(), bert(dropout=0.0)
    options = {"score": "snip", "control": "magnitude", "alpha": 0.3, "rounds": 2, "batches": 2}
    trainer_of(
        model, tmp_path, plan("prune", **options), counts, train_sampling_strategy="sequential", max_steps=1
    ).train()

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = bert(dropout=0.0)

        def forward(self, tokens):
            return self.model(input_ids=tokens).logits

    batches = [transformers.default_data_collator(texts()[8 * i : 8 * i + 8]) for i in range(2)]
    pairs = [(batch["input_ids"], batch["labels"]) for batch in batches]
    options |= {"batches": pairs, "exclude": ["model.classifier"]}
    expected = fbconv.prune_masks(Logits(), options.pop("score"), 0.8, **options)
    assert all(map(torch.equal, counts.masks, expected.values()))


@pytest.mark.filterwarnings("ignore::fbconv.LayerCollapseWarning")
def test_scoring_leaves_the_order_of_the_data_alone(tmp_path):
    """Shuffled data and dropout, and the same training as that of a model pruned beforehand, bit for bit."""
    pruned, counts = bert(), Counts()
    trainer_of(pruned, tmp_path, plan("prune"), counts).train()
    names = [name for name in fbconv.prunable(bert()) if "classifier" not in name]
    before = fbconv.sparsify(bert(), dict(zip(names, counts.masks, strict=True)))
    trainer_of(before, tmp_path).train()
    assert same(pruned, before)


@pytest.mark.filterwarnings("ignore::fbconv.LayerCollapseWarning")
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("make", [bert, interspace_resnet])
def test_a_resumed_training_ends_bit_identical(tmp_path, make, name):
    """From the middle of an epoch, between two changes of masks, in a model with other weights."""
    whole, options = make(), {"save_strategy": "steps", "save_steps": 10, "save_total_limit": 9}
    trainer_of(whole, tmp_path, plan(name), **options).train()
    resumed, counts = make(seed=7), Counts()
    trainer = trainer_of(resumed, tmp_path, plan(name), counts, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert trainer.state.global_step == 32
    assert not hasattr(counts, "first")
    assert same(whole, resumed)
    then = load_file(tmp_path / "checkpoint-10" / "model.safetensors")
    assert not all(torch.equal(then[n], v) for n, v in whole.state_dict().items() if "values" in n)


@pytest.mark.filterwarnings("ignore::fbconv.LayerCollapseWarning")
@pytest.mark.parametrize("name", ["prune", "freeze", "rigl"])
@pytest.mark.parametrize("make", [bert, interspace_resnet])
def test_what_was_trained_loads_without_a_trainer(tmp_path, make, name):
    model = make()
    trainer = trainer_of(model, tmp_path, plan(name), num_train_epochs=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert same(load_state(make(7), load_file(tmp_path / "final" / "model.safetensors")), model)
    fbconv.save(model, tmp_path / "model.fbc")
    assert same(fbconv.load(tmp_path / "model.fbc", make(7)), model)


def test_bfloat16_trains_float32_values(tmp_path):
    model = resnet()
    trainer_of(model, tmp_path, plan("rigl"), bf16=True, num_train_epochs=8).train()
    assert {layer.values.dtype for layer in compressed_layers(model).values()} == {torch.float32}
    assert kept(model) == int(0.2 * WEIGHTS["resnet"])
    assert accuracy(model, images()) > 0.6


RANKS = """
import sys
sys.path.insert(0, sys.argv[2])
import torch, transformers
from test_trainer import bert, plan, texts, trainer_of
torch.set_num_threads(1)
rank = int(__import__("os").environ["LOCAL_RANK"])
results = {}
batches = [transformers.default_data_collator(texts()[8 * rank:8 * rank + 8])]
for name in ("rigl", "frozen rigl", "set"):
    model = bert(seed=rank)
    trainer = trainer_of(model, sys.argv[1], plan(name, batches=batches), ddp_backend="gloo")
    trainer.train()
    results[name] = {"state": model.state_dict(), "steps": trainer.state.global_step}
try:
    trainer_of(bert(), sys.argv[1], plan("gmp"), ddp_backend="gloo")
except ValueError as error:
    results["refused"] = str(error)
torch.save(results, f"{sys.argv[1]}/{rank}.pt")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_ranks_with_other_weights_and_data_end_with_the_same_bits(tmp_path):
    ours, theirs = torchrun(RANKS, tmp_path, str(Path(__file__).parent))
    assert "must not be gmp in several processes" in ours.pop("refused")
    for name, result in ours.items():
        assert result["steps"] == 16
        values = [value for key, value in result["state"].items() if key.endswith("values")]
        assert sum(value.numel() for value in values) == int(0.2 * WEIGHTS["bert"])
        for key, value in result["state"].items():
            assert torch.equal(value, theirs[name]["state"][key]), f"{name} {key}"


def test_a_callback_that_comes_too_late_is_an_error(tmp_path):
    trainer = trainer_of(resnet(), tmp_path)
    trainer.add_callback(plan("prune"))
    with pytest.raises(ValueError, match="must be one of those that Trainer is made with"):
        trainer.train()


def test_an_optimizer_that_was_made_too_early_is_an_error(tmp_path):
    model = resnet()
    arguments = transformers.TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True)
    optimizer = torch.optim.SGD([p for n, p in model.named_parameters()], lr=0.1)
    trainer = transformers.Trainer(
        model, arguments, train_dataset=images(), optimizers=(optimizer, None), callbacks=[plan("prune")]
    )
    with pytest.raises(ValueError, match="must be made of the converted model's parameters, got none of resnet"):
        trainer.train()


def test_several_processes_need_batches_of_their_own():
    several, model = SimpleNamespace(world_size=2), resnet()
    with pytest.raises(ValueError, match="batches must be given in several processes"):
        plan("prune").on_init_end(several, None, None, model=model)


def test_without_transformers_the_module_is_there_and_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    spec = importlib.util.spec_from_file_location("fbconv.integrations.without", adapter.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(ImportError, match=r"needs transformers, .*: pip install fbconv\[transformers\]"):
        module.SparseTraining()


def test_a_callback_prunes_every_model_it_is_given(tmp_path):
    callback = plan("prune")
    for seed in range(2):
        model = resnet(seed)
        trainer_of(model, tmp_path / str(seed), callback).train()
        assert kept(model) < WEIGHTS["resnet"] / 2


@pytest.mark.parametrize("kept", [0, 3, 20])
def test_an_optimizer_that_was_resumed_without_its_model_is_an_error(kept):
    model = fbconv.sparsify(nn.Sequential(nn.Linear(4, 4)), {"0.weight": torch.ones(4, 4)})
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    optimizer.state[model[0].values] = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(kept)}
    with pytest.raises(ValueError, match=rf"exp_avg of 0\.values must have 16 entries, got {kept}: the trainer"):
        MaskedTraining(Plan(sparsity=None)).begin(model, optimizer, 10)
