"""Training runs: every combination of options, their arithmetic, and runs that are killed and resumed."""

import dataclasses
import itertools
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import fbconv
from fbconv import convert, data
from fbconv.experiment import Config, load_checkpoint, stream
from fbconv.masks import kept_count
from fbconv.models import build
from fbconv.train import WEIGHT_DECAY, evaluate, learning_rate, make_optimizer, prepare, train

COMBINATIONS = list(itertools.product(("spatial", "interspace"), ("dense", "prune", "freeze")))
LENET5 = 430_500
BASIS = 25 * 25


@pytest.fixture(scope="module")
def few_digits():
    whole, test = data.DATA_SETS["digits"](Path())
    return whole.subset(torch.arange(300)), test.subset(torch.arange(60))


@pytest.fixture(autouse=True)
def tiny(monkeypatch, few_digits):
    """Digits cut down to 270 training, 30 validation and 60 test images."""
    monkeypatch.setitem(data.DATA_SETS, "digits", lambda _: few_digits)


def loaded(config):
    return data.load(config.data, config.data_dir, config.seed)


def without_times(result):
    return {key: value for key, value in result.items() if key not in ("seconds", "steps_per_second", "environment")}


def identical(one, other):
    """Whether two nested containers hold the same bits, times aside."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        keys = [key for key in one if key not in ("seconds", "training_seconds")]
        return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in keys)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(itertools.starmap(identical, zip(one, other, strict=True)))
    return one == other


def test_learning_rate_falls_after_half_and_three_quarters():
    config = Config(lr=1.0, epochs=8)
    assert [learning_rate(config, epoch) for epoch in range(8)] == pytest.approx([1] * 4 + [0.1] * 2 + [0.01] * 2)
    assert learning_rate(Config(lr=1.0, epochs=1), 0) == 1


# --- the model of a configuration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.99])
@pytest.mark.parametrize(("space", "mode"), COMBINATIONS)
def test_exactly_the_budget_is_trained(space, mode, sparsity):
    config = Config(space=space, mode=mode, sparsity=sparsity)
    prepared = prepare(config, loaded(config))
    bases = BASIS if space == "interspace" else 0
    trained = LENET5 + bases if mode == "dense" else kept_count(LENET5, sparsity)
    assert prepared.weights == LENET5
    assert prepared.parameters == LENET5 + 580
    assert prepared.trained_weights == trained
    assert prepared.sparsity == pytest.approx(1 - trained / LENET5)
    assert prepared.real_sparsity == pytest.approx(1 - (trained + 580) / (LENET5 + 580))
    assert sum(p.numel() for p in prepared.model.parameters() if p.requires_grad) == trained + 580


def test_sharing_changes_the_bases_but_not_the_budget():
    configs = [Config(space="interspace", sharing=sharing, sparsity=0.98) for sharing in ("coarse", "fine", "out:10")]
    prepared = [prepare(config, loaded(config)) for config in configs]
    assert [p.trained_weights for p in prepared] == [kept_count(LENET5, 0.98)] * 3
    coefficients = [sum(p.model.get_parameter(name).numel() for name in convert.prunable(p.model)) for p in prepared]
    assert coefficients == [kept_count(LENET5, 0.98) - bases * BASIS for bases in (1, 2, 7)]


def test_bases_alone_may_exceed_the_budget():
    config = Config(space="interspace", sparsity=0.999)
    with pytest.raises(ValueError, match="leave room for the 625 entries of the filter bases, got 0.999 of 430500"):
        prepare(config, loaded(config))


def test_a_network_without_filters_has_no_interspace():
    config = Config(model="lenet300", space="interspace")
    with pytest.raises(ValueError, match="needs a convolution larger than 1x1, lenet300 has none"):
        prepare(config, loaded(config))


def test_all_modes_start_from_the_same_weights():
    dense, frozen, pruned = (
        prepare(config, loaded(config)).model for config in (Config(mode=m) for m in ("dense", "freeze", "prune"))
    )
    for name in ("conv1", "fc2"):
        weight = dense.get_submodule(name).weight
        assert torch.equal(frozen.get_submodule(name).weight, weight)
        mask = pruned.get_submodule(name).pattern.mask()
        assert torch.equal(pruned.get_submodule(name).weight, weight * mask)
        assert torch.equal(frozen.get_submodule(name).pattern.mask(), mask)


def test_backend_reaches_the_modules():
    config = Config(backend="sparse")
    model = prepare(config, loaded(config)).model
    assert {model.get_submodule(name).backend for name in ("conv1", "conv2", "fc1", "fc2")} == {"sparse"}


def test_weight_decay_is_for_weights_and_values_only(normed):
    for space, mode in COMBINATIONS:
        config = Config(model="normed", space=space, mode=mode, sparsity=0.5)
        model = prepare(config, loaded(config)).model
        decay = {
            id(p): group["weight_decay"] for group in make_optimizer(model, 0.1).param_groups for p in group["params"]
        }
        for name, parameter in model.named_parameters():
            is_weight = name.endswith("values") or (name.endswith("weight") and parameter.dim() > 1)
            assert decay.pop(id(parameter)) == (WEIGHT_DECAY if is_weight else 0), (space, mode, name)
        assert not decay


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("space", "mode"), COMBINATIONS)
def test_every_combination_trains_and_reports(tmp_path, space, mode):
    config = Config(space=space, mode=mode, sparsity=0.9, epochs=2, batch_size=90)
    result = train(config, tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert set(result) == {
        "test_accuracy", "test_images", "validation_accuracy", "best_epoch", "sparsity", "real_sparsity",
        "trained_weights", "weights", "frozen_size", "file_bytes", "seconds", "steps_per_second", "history", "config",
        "environment",
    }  # fmt: skip
    assert result["config"] == dataclasses.asdict(config)
    assert result["test_images"] == 60
    assert [entry["epoch"] for entry in result["history"]] == [1, 2]
    assert result["history"][1]["train_loss"] < result["history"][0]["train_loss"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_killed_processes_were_writing_goes(tmp_path):
    files = ["last.ckpt", "model.fbc", "result.json", "curves.png", "dense/last.ckpt"]
    (tmp_path / "dense").mkdir()
    for name in files:
        (tmp_path / name).with_name(f".{Path(name).name}.123").touch()
    theirs = tmp_path / ".last.ckpt.mine"
    theirs.touch()
    train(Config(model="lenet300", dynamic="ft", score="magnitude", epochs=1), tmp_path)
    assert list(tmp_path.rglob(".*")) == [theirs]


def test_training_learns(tmp_path):
    config = Config(model="lenet300", sparsity=0.9, epochs=15, batch_size=30)
    assert train(config, tmp_path)["test_accuracy"] > 0.8


def test_the_best_validation_epoch_is_tested(tmp_path):
    config = Config(model="lenet300", epochs=6, batch_size=45)
    result = train(config, tmp_path)
    entries = result["history"]
    best = max(entries, key=lambda entry: (entry["validation_accuracy"], -entry["validation_loss"]))
    assert result["best_epoch"] == best["epoch"]
    assert result["validation_accuracy"] == best["validation_accuracy"]
    digits = loaded(config)
    model = prepare(config, digits).model
    model.load_state_dict(load_checkpoint(tmp_path / "last.ckpt", config)["best"]["model"])
    assert evaluate(model, digits, digits.test)[1] == result["test_accuracy"]
    assert evaluate(model, digits, digits.validation) == (best["validation_loss"], best["validation_accuracy"])


def test_evaluation_is_the_mean_over_the_split(monkeypatch):
    monkeypatch.setattr("fbconv._training.run._EVALUATION_BATCH", 7)
    digits = loaded(Config())
    model = build("lenet5")
    outputs = model(digits.normalise(digits.test.images))
    loss, accuracy = evaluate(model.train(), digits, digits.test)
    assert loss == pytest.approx(F.cross_entropy(outputs, digits.test.labels).item(), rel=1e-5)
    assert accuracy == (outputs.argmax(1) == digits.test.labels).double().mean().item()
    assert not model.training


@pytest.mark.parametrize("space", ["spatial", "interspace"])
def test_frozen_weights_are_bit_identical_at_the_end(tmp_path, monkeypatch, space):
    trained = []

    def watched(model, lr):
        trained.append(model)
        return make_optimizer(model, lr)

    monkeypatch.setattr("fbconv._training.run.make_optimizer", watched)
    config = Config(space=space, mode="freeze", epochs=2, batch_size=90)
    before = prepare(config, loaded(config)).model
    train(config, tmp_path)
    for name in ("conv1", "conv2", "fc1", "fc2"):
        old, new = before.get_submodule(name), trained[0].get_submodule(name)
        mask = old.pattern.mask()
        assert torch.equal(new.pattern.mask(), mask)
        assert torch.equal(new.frozen, old.frozen)
        assert torch.equal(new.dense_values()[~mask], old.dense_values()[~mask])
        assert not torch.equal(new.values, old.values)


@pytest.mark.parametrize(("space", "mode"), COMBINATIONS)
def test_the_packed_model_is_the_tested_one(tmp_path, space, mode):
    config = Config(space=space, mode=mode, sparsity=0.95, epochs=2, batch_size=90)
    result = train(config, tmp_path)
    model = fbconv.load(tmp_path / "model.fbc", build("lenet5", seed=99))
    digits = loaded(config)
    assert evaluate(model, digits, digits.test)[1] == result["test_accuracy"]
    assert (tmp_path / "model.fbc").stat().st_size == result["file_bytes"]
    if mode != "dense":
        assert result["file_bytes"] < 4 * (kept_count(LENET5, 0.95) + 580) + kept_count(LENET5, 0.95) + 600


def test_vanished_weights_are_pruned_in_what_is_tested_and_packed(tmp_path, monkeypatch):
    monkeypatch.setattr("fbconv.train.VANISHED", 0.2)  # momentum takes its time
    config = Config(model="lenet300", mode="freeze", sparsity=0.9, frozen_decay=5.0, epochs=3, batch_size=30, lr=0.03)
    result = train(config, tmp_path)
    assert 0 < result["frozen_size"] < 0.2
    model = fbconv.load(tmp_path / "model.fbc", build("lenet300"))
    assert type(model.fc1) is fbconv.nn.SparseLinear
    digits = loaded(config)
    assert evaluate(model, digits, digits.test)[1] == result["test_accuracy"]
    short = train(dataclasses.replace(config, frozen_decay=1e-3), tmp_path / "short")
    assert short["frozen_size"] > 0.2
    assert type(fbconv.load(tmp_path / "short" / "model.fbc", build("lenet300")).fc1) is fbconv.nn.FrozenLinear


def test_checkpoints_leave_frozen_weights_to_the_seed(tmp_path):
    config = Config(mode="freeze", sparsity=0.99, epochs=1, batch_size=90)
    train(config, tmp_path)
    assert not [name for name in load_checkpoint(tmp_path / "last.ckpt", config)["model"] if name.endswith("frozen")]
    assert (tmp_path / "last.ckpt").stat().st_size < 4 * LENET5 / 4


def test_pruned_weights_stay_pruned(tmp_path):
    config = Config(epochs=2, batch_size=90)
    model = prepare(config, loaded(config)).model
    mask = model.conv2.pattern.mask()
    train(config, tmp_path)
    model.load_state_dict(load_checkpoint(tmp_path / "last.ckpt", config)["model"])
    dense = convert.densify(model)
    assert not dense.conv2.weight[~mask].any()
    assert dense.conv2.weight[mask].all()


def test_bases_are_trained(tmp_path):
    config = Config(space="interspace", epochs=1, batch_size=90)
    train(config, tmp_path)
    state = load_checkpoint(tmp_path / "last.ckpt", config)["model"]
    assert not torch.equal(state["conv1.basis.elements"], torch.eye(25).view(25, 5, 5))
    assert torch.equal(state["conv1.basis.elements"], state["conv2.basis.elements"])


@pytest.mark.parametrize(("space", "mode"), COMBINATIONS)
def test_gradient_norms_are_those_of_single_steps(tmp_path, space, mode):
    config = Config(space=space, mode=mode, sparsity=0.9, epochs=1, batch_size=270)  # one step an epoch
    history = train(config, tmp_path)["history"]
    digits = loaded(config)
    model = prepare(config, digits).model.train()
    images, labels = next(digits.training_batches(270, stream(config.seed, "epoch 0")))
    F.cross_entropy(model(images), labels).backward()
    bases = {id(p): p.grad for name, p in model.named_parameters() if name.endswith("basis.elements")}
    weights = [model.get_parameter(name).grad for name in convert.prunable(model)]
    assert history[0]["gradient_norm"] == pytest.approx(norm_of(weights), rel=1e-5)
    assert ("basis_gradient_norm" in history[0]) == (space == "interspace")
    if space == "interspace":
        assert history[0]["basis_gradient_norm"] == pytest.approx(norm_of(bases.values()), rel=1e-5)


def norm_of(gradients):
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))


def test_the_seed_decides_everything(tmp_path):
    config = Config(model="lenet300", epochs=2, batch_size=90)
    torch.manual_seed(1)
    first = without_times(train(config, tmp_path / "1"))
    torch.manual_seed(2)
    assert without_times(train(config, tmp_path / "2")) == first
    other = train(dataclasses.replace(config, seed=1), tmp_path / "3")
    assert other["history"] != first["history"]


def test_divergence_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"the loss is no longer finite in epoch \d; lower lr \(1e\+30\)"):
        train(Config(model="lenet300", mode="dense", lr=1e30, epochs=3), tmp_path)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("module", "message"), [("torch.utils.tensorboard", "TensorBoard"), ("matplotlib", "matplotlib")]
)
def test_missing_optional_packages_name_the_extra_before_training(tmp_path, monkeypatch, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf'{message}.*pip install "fbconv\[train\]"'):
        train(Config(model="lenet300", epochs=1), tmp_path, progress=lambda *_: pytest.fail("it trained"))


def test_tensorboard_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(Config(model="lenet300", epochs=3, batch_size=90), tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {
        "lr", "train/loss", "train/accuracy", "gradient/norm", "validation/loss", "validation/accuracy",
    }  # fmt: skip
    logged = [(event.step, event.value) for event in events.Scalars("validation/loss")]
    assert logged == [(e["epoch"], pytest.approx(e["validation_loss"], rel=1e-6)) for e in result["history"]]


# --- resuming --------------------------------------------------------------------------------------------------------


class KilledError(Exception):
    """Stands for whatever ends a run in the middle of an epoch."""


@pytest.mark.parametrize("steps", [1, 6, 8])
@pytest.mark.parametrize(
    ("model", "space", "mode"),
    [
        ("normed", "spatial", "dense"),
        ("normed", "spatial", "prune"),
        ("normed", "interspace", "prune"),
        ("normed", "interspace", "freeze"),
        ("lenet300", "spatial", "freeze"),
    ],
)
def test_an_interrupted_run_ends_bit_identical(tmp_path, monkeypatch, normed, model, space, mode, steps):
    monkeypatch.setattr("fbconv.train.plot_curves", lambda *_: None)  # takes longer than the training
    config = Config(model=model, space=space, mode=mode, sparsity=0.5, epochs=4, batch_size=90)
    whole = train(config, tmp_path / "whole")

    def kill(done, total, entry):
        assert total == 12
        if done == steps:
            raise KilledError

    with pytest.raises(KilledError):
        train(config, tmp_path / "killed", progress=kill)
    seen = []
    resumed = train(config, tmp_path / "killed", progress=lambda done, *_: seen.append(done))
    assert seen == list(range((steps - 1) // 3 * 3 + 1, 13))
    assert without_times(resumed) == without_times(whole)
    states = [load_checkpoint(tmp_path / name / "last.ckpt", config) for name in ("whole", "killed")]
    assert identical(*states)


def test_a_finished_run_is_not_trained_again(tmp_path):
    config = Config(model="lenet300", epochs=1)
    first = train(config, tmp_path)
    again = train(config, tmp_path, progress=lambda *_: pytest.fail("it trained"))
    assert without_times(again) == without_times(first)


def test_a_killed_process_resumes_bit_identical(tmp_path):
    """SIGKILL after the first checkpoint, the same command again, and the same ending as without."""
    options = {"model": "lenet300", "mode": "freeze", "sparsity": 0.9, "epochs": 8, "batch-size": 10}
    arguments = ["train", *(f"--{name}={value}" for name, value in options.items()), "--json", "--out"]
    source = Path(fbconv.__file__).parents[1]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])}

    def start(name):
        command = [sys.executable, "-m", "fbconv", *arguments, str(tmp_path / name)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)

    killed = start("killed")
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "last.ckpt").exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    results = []
    for name in ("killed", "whole"):
        process = start(name)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
        results.append(json.loads(output))
    assert without_times(results[0]) == without_times(results[1])
    config = Config(**results[0]["config"])
    assert identical(*(load_checkpoint(tmp_path / name / "last.ckpt", config) for name in ("killed", "whole")))


def test_another_configuration_in_the_same_folder_is_an_error(tmp_path):
    config = Config(model="lenet300", epochs=1)
    train(config, tmp_path)
    other = dataclasses.replace(config, epochs=2, seed=3)
    with pytest.raises(ValueError, match=r"another configuration: epochs 2 \(1 there\), seed 3 \(0 there\); choose"):
        train(other, tmp_path)


class Attack:
    """Unpickled by anything that calls what it is told to, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["garbage", "empty", "no run", "attack"])
def test_a_file_that_is_no_checkpoint(tmp_path, kind):
    path, target = tmp_path / "last.ckpt", tmp_path / "made-by-the-attack"
    if kind == "no run":
        torch.save({"model": {}}, path)
    elif kind == "attack":
        torch.save({"config": Attack(target)}, path)
    else:
        path.write_bytes(b"" if kind == "empty" else pickle.dumps("x" * 100, protocol=2))
    with pytest.raises(ValueError, match=r"last\.ckpt: not a checkpoint of a run"):
        train(Config(), tmp_path)
    assert not target.exists()
