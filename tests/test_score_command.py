"""``fbconv score``: masks of a user's own model, by every way to give it data."""

import json
import sys
from pathlib import Path

import pytest
import torch
from command_line import run_main
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

import fbconv
from fbconv import cli, data
from fbconv.experiment import stream
from fbconv.masks import kept_count

pytestmark = pytest.mark.usefixtures("one_thread")

NET = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 6, 5, stride=3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2),
                         nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))

def batches():
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randn(20, 1, 28, 28, generator=generator), torch.randint(10, (20,), generator=generator)

def not_a_model():
    return 3

def broken():
    raise RuntimeError("no weights today")

def broken_batches():
    yield from []
    raise IndexError("out of pictures")

def wrong_labels():
    return [(torch.randn(20, 1, 28, 28), torch.full((20,), 10))]

def loss(outputs, targets):
    return (outputs.sum(1) - targets).square().mean()

def first(model, weights, batches, loss_fn, generator):
    return {name: -torch.arange(weight.numel()).view_as(weight) for name, weight in weights.items()}

class Unhelpful:
    def __call__(self, *_):
        raise KeyError("key")

unhelpful = Unhelpful()
"""
TOTAL = 6 * 25 + 8 * 6 * 9 + 720


@pytest.fixture
def net(tmp_path, monkeypatch):
    """``net.py`` in the working folder, and digits cut down to a hundred images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    whole, test = data.DATA_SETS["digits"](Path())
    cut = whole.subset(torch.arange(100)), test.subset(torch.arange(20))
    monkeypatch.setitem(data.DATA_SETS, "digits", lambda _: cut)
    (tmp_path / "net.py").write_text(NET)


def run(*arguments):
    return CliRunner().invoke(cli.app, ["score", *map(str, arguments)])


def model(seed=0):
    torch.manual_seed(seed)
    space = {}
    exec(NET, space)
    return space["make"]()


def equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_masks_table_and_picture(net):
    result = run("net.py:make", "--sparsity", 0.9, "--data", "digits", "--out", "out")
    assert result.exit_code == 0, result.output
    masks = load_file("out/masks.safetensors")
    assert all(mask.dtype == torch.bool for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == kept_count(TOTAL, 0.9)
    for name, mask in masks.items():
        assert name in result.stdout
        assert f"{int(mask.sum()):,}" in result.stdout
    assert "6x1x5x5" in result.stdout
    assert Path("out/densities.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in Path("out").iterdir()) == ["densities.png", "masks.safetensors", "score.json"]
    weights = fbconv.densify(fbconv.sparsify(model(), masks)).state_dict()
    assert all(torch.equal(weights[name], model().state_dict()[name] * mask) for name, mask in masks.items())


def test_masks_are_those_of_the_call(net):
    arguments = ("--score", "snip", "--control", "grasp", "--alpha", 0.7, "--sparsity", 0.8, "--seed", 3, "--rounds", 2)
    source = ("--data", "digits", "--batch-size", 30, "--batches", 2)
    assert run("net.py:make", *arguments, *source, "--out", "out", "--json").exit_code == 0
    batches = list(data.load("digits", seed=3).training_batches(30, stream(3, "batches")))[:2]
    expected = fbconv.prune_masks(
        model(3), "snip", 0.8, 2, batches=batches, control="grasp", alpha=0.7, generator=stream(3, "score")
    )
    masks = load_file("out/masks.safetensors")
    assert all(torch.equal(masks[name], mask) for name, mask in expected.items())
    with safe_open("out/masks.safetensors", "pt") as file:
        assert json.loads(file.metadata()["alpha"]) == 0.7


def test_json_is_only_json_and_is_what_is_written(net):
    result = run("net.py:make", "--score", "magnitude", "--sparsity", 0.5, "--exclude", "6", "--json")
    printed = json.loads(result.stdout)
    assert printed == json.loads(Path("masks/score.json").read_text())
    assert [layer["name"] for layer in printed["layers"]] == ["0.weight", "3.weight", "6.weight"]
    assert [layer["excluded"] for layer in printed["layers"]] == [False, False, True]
    assert printed["weights"] == TOTAL - 720
    assert printed["kept"] == sum(layer["kept"] for layer in printed["layers"][:2]) == (TOTAL - 720) // 2
    assert printed["settings"]["control"] is None
    assert {"commit", "command", "processor"} <= set(printed["environment"])
    assert list(load_file("masks/masks.safetensors")) == ["0.weight", "3.weight"]


def test_batches_of_ones_own(net):
    """An endless generator: only as many batches as asked for are taken."""
    assert run("net.py:make", "--data", "net.py:batches", "--batches", 3, "--out", "three").exit_code == 0
    assert run("net.py:make", "--data", "net.py:batches", "--out", "one").exit_code == 0
    three, one = load_file("three/masks.safetensors"), load_file("one/masks.safetensors")
    assert not equal(three, one)


def test_a_loss_and_a_score_of_ones_own(net):
    arguments = ["net.py:make", "--score", "snip", "--data", "net.py:batches", "--sparsity", ".9", "--seed", 3]
    assert run(*arguments, "--loss", "net.py:loss", "--out", "own").exit_code == 0
    assert run(*arguments, "--out", "cross-entropy").exit_code == 0
    space = {}
    exec(NET, space)
    scores = fbconv.score(model(3), "snip", [next(space["batches"]())], space["loss"])
    assert equal(load_file("own/masks.safetensors"), dict(sorted(fbconv.select(scores, 0.9).items())))
    assert not equal(load_file("own/masks.safetensors"), load_file("cross-entropy/masks.safetensors"))
    assert run("net.py:make", "--score", "net.py:first", "--sparsity", ".99").exit_code == 0
    masks = load_file("masks/masks.safetensors")
    kept = kept_count(TOTAL, 0.99)
    assert [int(mask.sum()) for mask in masks.values()] == [kept // 3 + (k < kept % 3) for k in range(3)]
    assert all(mask.flatten()[: int(mask.sum())].all() for mask in masks.values())


def test_synflow_needs_a_shape_only(net):
    arguments = ("--score", "synflow", "--rounds", 20, "--sparsity", 0.98)
    assert run("net.py:make", *arguments, "--input-shape", "1,28,28", "--out", "shape").exit_code == 0
    assert run("net.py:make", *arguments, "--data", "digits", "--out", "digits").exit_code == 0
    assert equal(load_file("shape/masks.safetensors"), load_file("digits/masks.safetensors"))
    control = ("--score", "magnitude", "--control", "synflow", "--input-shape", "1,28,28")
    assert run("net.py:make", *control, "--out", "control").exit_code == 0


def test_the_seed_makes_the_model(net):
    for seed, out in ((1, "a"), (1, "b"), (2, "c")):
        assert run("net.py:make", "--score", "magnitude", "--seed", seed, "--out", out).exit_code == 0
    one, same, other = (load_file(f"{out}/masks.safetensors") for out in "abc")
    assert equal(one, same)
    assert not equal(one, other)


def test_densities_of_layers(net):
    run("net.py:make", "--score", "random", "--sparsity", 0.8, "--distribution", "erk", "--out", "erk")
    counts = {name: int(mask.sum()) for name, mask in load_file("erk/masks.safetensors").items()}
    shapes = fbconv.prunable(model())
    assert counts == fbconv.densities.layer_counts(shapes, kept_count(TOTAL, 0.8), "erk")


def test_collapse_is_one_line_on_standard_error(net, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fbconv", "score", "net.py:make", "--score", "magnitude", "--sparsity", ".999"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    captured = capsys.readouterr()
    assert "fbconv: warning: no weight of '6.weight' is kept\n" in captured.err
    assert "Warning" not in captured.err
    assert "0 %" in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.py"], "the model must be given as FILE.py:FACTORY, got 'net.py'"),
        (["net.py:make"], "score snip needs --data"),
        (["net.py:make", "--score", "magnitude", "--control", "grasp"], "control grasp needs --data"),
        (
            ["net.py:make", "--score", "snap"],
            "score must be one of random, magnitude, snip, usnip, grasp, synflow, or a",
        ),
        (["net.py:make", "--control", "snap"], "control must be one of random"),
        (["net.py:make", "--score", "random", "--distribution", "er2"], "distribution must be one of uniform, er, erk"),
        (["net.py:make", "--score", "random", "--scope", "net"], "scope must be one of global, layer, got 'net'"),
        (["net.py:make", "--score", "random", "--schedule", "now"], "schedule must be one of exponential, linear"),
        (["net.py:make", "--score", "random", "--sparsity", "2"], "sparsity must be in [0, 1], got 2.0"),
        (["net.py:make", "--data", "digits", "--control", "grasp", "--alpha", "1"], "alpha must be in [0, 1), got 1.0"),
        (["net.py:make", "--score", "synflow", "--input-shape", "3,x"], "input-shape must be positive numbers"),
        (["net.py:make", "--data", "digitz"], "data must be one of digits"),
        ([], "Missing argument"),
    ],
)
def test_wrong_usage_is_exit_code_two(net, arguments, message, monkeypatch, capsys):
    assert run_main(monkeypatch, "score", *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.py:make", "--score", "random"], "no.py: no such file"),
        (["net.py:nothing", "--score", "random"], "net.py: there must be a function nothing, got make, batches"),
        (["net.py:not_a_model", "--score", "random"], "net.py:not_a_model() must return a torch.nn.Module, got int"),
        (["net.py:broken", "--score", "random"], "net.py:broken() raised RuntimeError: no weights today"),
        (["net.py:make", "--data", "net.py:not_a_model"], "net.py:not_a_model() must return an iterable of batches"),
        (["net.py:make", "--data", "net.py:broken_batches"], "net.py:broken_batches: IndexError: out of pictures"),
        (["net.py:make", "--data", "net.py:wrong_labels"], "net.py:make: scoring raised IndexError: Target 10 is out"),
        (["net.py:make", "--score", "net.py:unhelpful"], "net.py:make: scoring raised KeyError: 'key'"),
        (["net.py:make", "--score", "net.py:none"], "net.py: there must be a function none, got make"),
        (["net.py:make", "--data", "net.py:batches", "--loss", "net.py:none"], "there must be a function none"),
        (["net.py:make", "--score", "synflow"], "synflow: input_shape, or batches"),
        (["net.py:make", "--score", "random", "--exclude", "7"], "exclude pattern '7' must match one of 0.weight"),
        (["net.py:make", "--score", "random", "--rounds", "0"], "rounds must be at least 1, got 0"),
    ],
)
def test_other_errors_are_exit_code_one_with_a_message(net, arguments, message, monkeypatch, capsys):
    assert run_main(monkeypatch, "score", *arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not Path("masks").exists()


def test_help_has_an_example_that_runs(net, monkeypatch):
    result = run("--help")
    assert result.exit_code == 0
    _, _, example = result.output.partition("Example: fbconv score ")
    example = example.replace("cifar10", "digits").replace("make_model", "make").split()
    assert CliRunner().invoke(cli.app, ["score", *example]).exit_code == 0
    assert Path("masks/masks.safetensors").exists()
