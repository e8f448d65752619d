"""The callback in Lightning's trainer: as a loop of one's own, through checkpoints, accumulation and bfloat16."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from own_loop import PLANS, started, train
from ranks import torchrun
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import fbconv
from fbconv.integrations.conversion import load_state
from fbconv.nn.compressed import compressed_layers

lightning = pytest.importorskip("lightning", reason="without fbconv[lightning]")

from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

from fbconv.integrations import lightning as adapter  # noqa: E402
from fbconv.integrations.lightning import SparseTraining  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches"),
    pytest.mark.filterwarnings(
        "ignore:.*LeafSpec", "ignore:.*litlogger", "ignore:Be aware that when using `ckpt_path`"
    ),
]
WEIGHTS = 8 * 9 + 8 * 8 * 9 + 128 * 4


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(128, 4))  # fmt: skip


def data(shuffle=False):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (64,), generator=generator)
    images = torch.randn(64, 1, 8, 8, generator=generator) + labels[:, None, None, None]
    return DataLoader(TensorDataset(images, labels), 8, shuffle=shuffle)


class Module(lightning.LightningModule):
    def __init__(self, net=None):
        super().__init__()
        self.net = network() if net is None else net

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, index):
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer, scheduler = optimizer_of(self)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def optimizer_of(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)


def fit(module, folder, *callbacks, loader=None, ckpt_path=None, **options):
    quiet = {"logger": False, "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
             "enable_progress_bar": False, "enable_model_summary": False}  # fmt: skip
    options = {"max_epochs": 4, "accelerator": "cpu", "default_root_dir": folder} | quiet | options
    trainer = lightning.Trainer(callbacks=list(callbacks), **options)
    trainer.fit(module, data() if loader is None else loader, ckpt_path=ckpt_path)
    return trainer


def plan(name, **options):
    return SparseTraining(**{"sparsity": 0.8, "interval": 4} | PLANS[name] | options)


def kept(model):
    return [layer.values.numel() for layer in compressed_layers(model).values()]


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def accuracy(model):
    images, labels = data().dataset.tensors
    with torch.no_grad():
        return (model.eval()(images).argmax(1) == labels).float().mean().item()


class Stream:
    """Batches that do not come from a DataLoader."""

    def __iter__(self):
        return iter(data())

    def __len__(self):
        return 8


class Counts(lightning.Callback):
    """What the layers keep before the first step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 0:
            self.first = kept(pl_module)
            self.masks = [layer.pattern.mask() for layer in compressed_layers(pl_module).values()]


@pytest.mark.parametrize("space", ["spatial", "interspace"])
@pytest.mark.parametrize("name", PLANS)
def test_networks_learn_with_exactly_the_weights_that_were_asked_for(tmp_path, name, space):
    net = network() if space == "spatial" else fbconv.interspace(network())
    module, counts = Module(net), Counts()
    fit(module, tmp_path, plan(name), counts, max_epochs=12)
    assert sum(counts.first) == (WEIGHTS if name == "gmp" else WEIGHTS // 5)
    assert sum(kept(module)) == WEIGHTS // 5
    assert accuracy(module) > 0.6  # of four classes
    layers = compressed_layers(module).values()
    assert all((layer.frozen is not None) == ("fr" in name) for layer in layers)
    assert next(type(layer).__name__ for layer in layers) == (
        "FBConv2d" if space == "interspace" else "FrozenConv2d" if "fr" in name else "SparseConv2d"
    )
    masks = [layer.pattern.mask() for layer in layers]
    moved = not all(map(torch.equal, masks, counts.masks))
    assert moved == (PLANS[name].get("dynamic") is not None)


@pytest.mark.parametrize("name", [name for name in PLANS if name != "freeze"])
def test_a_trainer_does_what_a_loop_of_ones_own_does(tmp_path, name):
    """With accumulated gradients, clipping and a learning rate that falls with every step."""
    module, dynamic = Module(), PLANS[name].get("dynamic", "none")
    trainer = fit(module, tmp_path, plan(name), accumulate_grad_batches=2, gradient_clip_val=1.0)
    assert trainer.global_step == 16
    batches = list(data()) * 4
    masks = fbconv.prune_masks(network(), "snip", 0.8, 1, batches=batches[:1])
    expected = started(network(), masks, PLANS[name].get("mode"), dynamic)
    optimizer, scheduler = optimizer_of(expected)
    loss = lambda model, batch: cross_entropy(model(batch[0]), batch[1])  # noqa: E731
    changes = train(expected, loss, batches, optimizer, scheduler, dynamic, 0.8, 4, 2, 1.0)
    assert changes == {"none": 0, "gmp": 4}.get(dynamic, 2)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(module.net.state_dict()[key], value, rtol=1e-5, atol=1e-7)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05 * 0.98**16)


def test_scoring_leaves_the_order_of_the_data_alone(tmp_path):
    """Shuffled data, and the same training as that of a model pruned beforehand, bit for bit."""
    pruned, before = Module(), Module()
    torch.manual_seed(1)
    counts = Counts()
    fit(pruned, tmp_path, SparseTraining(sparsity=0.8), counts, loader=data(shuffle=True))
    masks = dict(zip(fbconv.prunable(network()), counts.masks, strict=True))
    before.net = fbconv.sparsify(network(), masks)
    torch.manual_seed(1)
    fit(before, tmp_path, loader=data(shuffle=True))
    assert same(pruned, before)


def test_masks_are_those_of_the_score_on_the_first_batches(tmp_path):
    counts, batches = Counts(), list(data())[:2]
    options = {"score": "grasp", "control": "snip", "alpha": 0.3, "rounds": 2, "exclude": ["net.6"]}
    module = Module()
    fit(module, tmp_path, SparseTraining(sparsity=0.7, batches=2, **options), counts, max_steps=1)
    options |= {"exclude": ["6"]}
    expected = fbconv.prune_masks(network(), options.pop("score"), 0.7, batches=batches, **options)
    assert len(counts.masks) == 2
    assert all(map(torch.equal, counts.masks, expected.values()))
    assert type(module.net[6]) is nn.Linear
    assert fbconv.prunable(module) == {"net.0.values": (8, 1, 3, 3), "net.3.values": (8, 8, 3, 3),
                                       "net.6.weight": (4, 128)}  # fmt: skip


def test_a_loss_of_ones_own_is_what_the_score_differentiates(tmp_path):
    counts = Counts()
    loss = lambda module, batch: nn.functional.mse_loss(module(batch[0])[:, 0], batch[1].float())  # noqa: E731
    fit(Module(), tmp_path, SparseTraining(loss, sparsity=0.8), counts, max_steps=1)
    expected = fbconv.prune_masks(
        network(),
        "snip",
        0.8,
        1,
        batches=list(data())[:1],
        loss_fn=lambda outputs, labels: nn.functional.mse_loss(outputs[:, 0], labels.float()),
    )
    assert all(map(torch.equal, counts.masks, expected.values()))


@pytest.mark.parametrize("name", PLANS)
def test_a_resumed_training_ends_bit_identical(tmp_path, name):
    """In a module with other weights, from the end of an epoch, as Lightning does, between two changes of masks."""
    checkpoint = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1)
    whole = Module()
    fit(whole, tmp_path, plan(name, interval=3), checkpoint)
    path = tmp_path / "step=8.ckpt"
    resumed, counts = Module(network(seed=7)), Counts()
    trainer = fit(resumed, tmp_path, plan(name, interval=3), counts, ckpt_path=path)
    assert trainer.global_step == 32
    assert not hasattr(counts, "first")
    assert same(whole, resumed)
    assert sum(kept(resumed)) == WEIGHTS // 5
    then = torch.load(path, weights_only=True)["state_dict"]
    assert not all(torch.equal(then[n], v) for n, v in whole.state_dict().items() if n in then and "values" in n)


@pytest.mark.parametrize("name", ["prune", "freeze", "rigl"])
@pytest.mark.parametrize("space", ["spatial", "interspace"])
def test_what_was_trained_loads_without_a_trainer(tmp_path, name, space):
    placed = (lambda net: net) if space == "spatial" else fbconv.interspace
    module = Module(placed(network()))
    fit(module, tmp_path, plan(name), max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert same(load_state(Module(placed(network(7))), state), module)
    fbconv.save(module, tmp_path / "module.fbc")
    again = fbconv.load(tmp_path / "module.fbc", Module(network(7)))
    assert same(again, module)
    if name == "freeze":
        assert again.net[0].draw.seed == 3


def test_bfloat16_trains_float32_values(tmp_path):
    module = Module()
    fit(module, tmp_path, plan("rigl"), precision="bf16-mixed", max_epochs=12)
    assert {layer.values.dtype for layer in compressed_layers(module).values()} == {torch.float32}
    assert sum(kept(module)) == WEIGHTS // 5
    assert accuracy(module) > 0.6


RANKS = """
import sys
sys.path.insert(0, sys.argv[2])
import torch, lightning
from test_lightning import Module, fit, network, plan
torch.set_num_threads(1)
rank = int(__import__("os").environ["LOCAL_RANK"])
results = {}


class Sent(lightning.Callback):
    def on_train_end(self, trainer, pl_module):
        self.buffers = list(trainer.strategy.model.named_module_buffers)


for name in ("gmp", "rigl", "frozen rigl", "set"):
    module, sent = Module(network(seed=rank)), Sent()
    trainer = fit(module, sys.argv[1], plan(name), sent, devices=2, strategy="ddp", max_epochs=4)
    results[name] = {"state": module.state_dict(), "steps": trainer.global_step, "buffers": sent.buffers}
torch.save(results, f"{sys.argv[1]}/{rank}.pt")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_ranks_with_other_weights_and_data_end_with_the_same_bits(tmp_path):
    ours, theirs = torchrun(RANKS, tmp_path, str(Path(__file__).parent))
    for name, result in ours.items():
        assert result["steps"] == 16
        assert result["buffers"] == [f"net.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
        assert sum(v.numel() for n, v in result["state"].items() if n.endswith("values")) == WEIGHTS // 5
        for key, value in result["state"].items():
            if "running" not in key:  # batch norm sees one rank's examples
                assert torch.equal(value, theirs[name]["state"][key]), f"{name} {key}"


def test_errors(tmp_path):
    class Manual(Module):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    class Two(Module):
        def configure_optimizers(self):
            return [optimizer_of(self.net[0])[0], optimizer_of(self.net[3])[0]], []

    class Earlier(Module):
        def __init__(self):
            super().__init__()
            self.optimizer = optimizer_of(self)[0]

        def configure_optimizers(self):
            return self.optimizer

    for module, callback, message in (
        (Manual(), plan("prune"), "must have one optimizer and automatic optimization, got 1 and False"),
        (Earlier(), plan("prune"), "must be made of the converted model's parameters, got none of net.0.values"),
        (Module(nn.ReLU()), plan("prune"), "must have Conv2d or Linear layers within it, got Module"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(module, tmp_path, callback)
    with pytest.raises(ValueError, match="batches must be given where the training data is not one DataLoader"):
        fit(Module(), tmp_path, plan("prune"), loader=Stream())
    fit(Module(), tmp_path, plan("prune", batches=list(data())[:1]), loader=Stream())
    with pytest.raises(ValueError, match="number of steps must be known with dynamic 'set', got inf"):
        fit(Module(), tmp_path, plan("set"), max_epochs=-1)


def test_without_lightning_the_module_is_there_and_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    spec = importlib.util.spec_from_file_location("fbconv.integrations.without", adapter.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(ImportError, match=r"needs lightning, .*: pip install fbconv\[lightning\]"):
        module.SparseTraining()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "dense"}, "mode must be one of prune, freeze, got 'dense'"),
        ({"dynamic": "lth"}, "dynamic must be one of none, set, rigl, gmp, got 'lth'"),
        ({"sparsity": 1.5}, r"sparsity must be in \[0, 1\], got 1.5"),
        ({"sparsity": None, "dynamic": "gmp"}, "sparsity must be a number with gmp, got None"),
        ({"seed": 1}, "seed must be None unless mode is freeze, got 1"),
        ({"batches": 0}, "batches must be at least 1, got 0"),
        ({"interval": 0}, "interval must be at least 1, got 0"),
        ({"until": 0}, r"until must be in \(0, 1\], got 0"),
        ({"drop_fraction": 0}, r"drop_fraction must be in \(0, 1\], got 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SparseTraining(**options)


def test_a_callback_prunes_every_module_it_is_given(tmp_path):
    callback = plan("prune")
    for seed in range(2):
        module = Module(network(seed))
        fit(module, tmp_path, callback)
        assert sum(kept(module)) < WEIGHTS / 2
