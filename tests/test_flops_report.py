"""``fbconv info --flops``: counts of a model by name, of one's own, and with the masks of a file; times beside them."""

import json

import pytest
import torch
from command_line import check_wrong_usage, run_main
from torch import nn
from typer.testing import CliRunner

import fbconv
from fbconv import cli
from fbconv.measuring import measure
from fbconv.models import build

NET = """
import torch
import fbconv

def make():
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1))
    return fbconv.interspace(model)

def pruned():
    model = make()
    return fbconv.sparsify(model, {name: torch.rand(shape) < 0.3 for name, shape in fbconv.prunable(model).items()})

def choosy():
    class Choosy(torch.nn.Linear):
        def forward(self, x):
            return x if x.sum() > 0 else -x
    return torch.nn.Sequential(torch.nn.Linear(2, 2), Choosy(2, 2))

def broken():
    class Broken(torch.nn.Linear):
        def forward(self, x):
            raise KeyError("lost")
    return torch.nn.Sequential(torch.nn.Linear(2, 2), Broken(2, 2))

def number():
    return 7
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


def run(*arguments):
    result = CliRunner().invoke(cli.app, ["info", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_network_of_the_registry():
    facts = json.loads(run("--flops", "lenet5", "--input-shape", "1,28,28", "--json"))
    counts = fbconv.count(build("lenet5"), (1, 1, 28, 28))
    assert facts["model"] == "lenet5"
    assert facts["input_shape"] == [1, 28, 28]
    assert [layer["name"] for layer in facts["layers"]] == ["conv1", "conv2", "fc1", "fc2"]
    assert facts["layers"][0]["output"] == [1, 20, 24, 24]
    assert facts["totals"]["weights"] == counts.weights == 430_500
    assert facts["totals"]["dense_flops"] == counts.dense_flops
    assert facts["totals"]["interspace_sparsity"] == 0
    assert "environment" not in facts
    assert "speedup" not in facts["layers"][0]


def test_a_model_of_ones_own(net):
    facts = json.loads(run("--flops", f"{net}:make", "--input-shape", "2,5,5", "--json"))
    first, second = facts["layers"]
    assert first["kind"] == "FBConv2d"
    assert (first["basis"], second["basis"]) == (81, 0)
    assert first["theory_flops"] == first["exact_flops"] == 2 * (72 + 2 * 81) * 25
    assert first["composed_flops"] == 2 * 72 * 25 + 2 * 72 * 9
    assert first["flop_ratio"] == pytest.approx(72 / (72 + 2 * 81))
    assert facts["totals"]["interspace_sparsity"] == pytest.approx(-81 / 216)
    assert facts["totals"]["exact_flops"] == first["exact_flops"] + second["exact_flops"]


def test_random_masks_are_the_same_in_every_call(net):
    arguments = ("--flops", f"{net}:pruned", "--input-shape", "2,5,5", "--json")
    first = run(*arguments)
    assert json.loads(first)["totals"]["sparsity"] > 0.5
    assert run(*arguments) == first


def test_the_masks_of_a_file(net, tmp_path, generator):
    model = build("lenet5")
    masks = {name: torch.rand(shape, generator=generator) < 0.1 for name, shape in fbconv.prunable(model).items()}
    fbconv.save(fbconv.sparsify(model, masks), tmp_path / "m.fbc")
    facts = json.loads(run(tmp_path / "m.fbc", "--flops", "lenet5", "--input-shape", "1,28,28", "--json"))
    kept = {name.removesuffix(".weight"): int(mask.sum()) for name, mask in masks.items()}
    assert facts["file"] == str(tmp_path / "m.fbc")
    assert {layer["name"]: layer["trained"] for layer in facts["layers"]} == kept
    assert facts["totals"]["sparsity"] == 1 - sum(kept.values()) / 430_500


def test_tables_for_people(net, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    printed = run("--flops", f"{net}:make", "--input-shape", "2,5,5")
    for text in ("FBConv2d", "4x5x5", "theory", "composed", "11.7 k", "81", "q 0.0000, with filter bases -0.3750"):
        assert text in printed
    assert "speed-up" not in printed


def test_times_beside_the_counts(net, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ("--flops", f"{net}:pruned", "--input-shape", "2,5,5", "--measure")
    facts = json.loads(run(*arguments, "--json"))
    for of in (*facts["layers"], facts["totals"]):
        assert of["dense_seconds"] > 0
        assert of["speedup"] == of["dense_seconds"] / of["seconds"]
    assert facts["totals"]["seconds"] == sum(layer["seconds"] for layer in facts["layers"])
    assert facts["environment"]["threads"] == torch.get_num_threads()
    assert "speed-up" in run(*arguments)


def test_plain_layers_are_their_own_dense_layers_and_idle_ones_have_no_time():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.idle, self.fc = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(x)

    model = Net()
    counts = fbconv.count(model, (1, 3))
    called, idle = measure(model, counts.layers, rounds=1)
    assert called.dense_seconds == called.seconds > 0
    assert idle is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--flops", "alexnet", "--input-shape", "3,32,32"],
            "flops must be FILE.py:FACTORY or one of lenet300",
        ),
        (["--flops", "lenet5"], "flops needs --input-shape"),
        (["--flops", "lenet5", "--input-shape", "1,28"], "input-shape must be C,H,W with H = W for lenet5, got 1,28"),
        (["--flops", "lenet5", "--input-shape", "1,28,32"], "input-shape must be C,H,W with H = W for lenet5"),
        (["--flops", "lenet5", "--input-shape", "1,8,8"], "image_size must be at least 16 for lenet5, got 8"),
        (["--flops", "lenet5", "--input-shape", "1,x,8"], "input-shape must be positive numbers"),
        (["--input-shape", "1,28,28"], "input-shape and measure need --flops"),
        (["--measure"], "input-shape and measure need --flops"),
    ],
)
def test_wrong_usage_is_exit_code_two(arguments, message, monkeypatch, capsys):
    check_wrong_usage(monkeypatch, capsys, ["info", *arguments], message)


@pytest.mark.parametrize(
    ("factory", "shape", "message"),
    [
        ("choosy", "2", "choosy: counting raised RuntimeError: count: model must have a forward pass that does not"),
        ("broken", "2", "broken: counting raised KeyError: 'lost'"),
        ("make", "3,5,5", "make: counting raised RuntimeError: fb_conv2d: input must have 2 channels"),
        ("number", "2", "number() must return a torch.nn.Module, got int"),
        ("missing", "2", "there must be a function missing"),
    ],
)
def test_what_a_model_raises_is_exit_code_one(factory, shape, message, net, monkeypatch, capsys):
    assert run_main(monkeypatch, "info", "--flops", f"{net}:{factory}", "--input-shape", shape) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


def test_a_file_of_another_model_is_exit_code_one(tmp_path, monkeypatch, capsys):
    fbconv.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "m.fbc")
    assert run_main(monkeypatch, "info", tmp_path / "m.fbc", "--flops", "lenet5", "--input-shape", "1,28,28") == 1
    assert "unlike the model" in capsys.readouterr().err
