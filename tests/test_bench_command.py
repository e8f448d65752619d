"""``fbconv bench``: what it runs, prints and writes, on layers so small that times mean nothing."""

import json
import shlex
import sys

import pytest
import torch
from command_line import run_main
from typer.testing import CliRunner

from fbconv import bench_command, cli
from fbconv.benchmark import DIRECTIONS, LAYERS, OPS, VGG, Layer
from fbconv.benchmark.peers import installed_peers

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """A layer of that name, and a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(LAYERS, "tiny", Layer("tiny", 4, 6, 7))
    monkeypatch.setattr(bench_command, "_PEAK_SECONDS", 0.01)


@pytest.fixture
def grids(monkeypatch):
    """Collects the grids that would be run."""
    seen = []
    monkeypatch.setattr(bench_command, "run", lambda grid, *_: seen.append(grid) or [])
    return seen


def run(*arguments):
    return CliRunner().invoke(cli.app, ["bench", *map(str, arguments)])


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


def test_table_json_and_pictures(tmp_path):
    result = run("--quick", "--layers", "tiny,linear-512", "--rounds", 2, "--out", "out")
    assert result.exit_code == 0, result.output
    stored = json.loads((tmp_path / "out/layers-1core.json").read_text())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "layers-1core-linear-512.png", "layers-1core-tiny.png", "layers-1core.json"
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "out").glob("*.png"))
    lines = result.stdout.splitlines()
    for row in stored["rows"]:
        cells = [row["layer"], str(row["batch"]), f"{row['sparsity']:g}", row["op"], row["pass"]]
        (line,) = [line for line in lines if line.split()[:5] == cells]
        assert line.split()[7] == f"{row['speed_up']:.2f}x"
    expected = [(layer, q, direction, op) for layer, ops in (("tiny", OPS), ("linear-512", ("masked", "frozen")))
                for q in (0.9, 0.99) for direction in DIRECTIONS for op in ops]  # fmt: skip
    assert [(row["layer"], row["sparsity"], row["pass"], row["op"]) for row in stored["rows"]] == expected


def test_json_is_only_json_and_says_all():
    arguments = ("--layers", "tiny", "--batch", "2,1", "--sparsity", ".5", "--ops", "masked", "--passes",
                 "forward,grad-values", "--rounds", 1, "--threads", 1, "--json")  # fmt: skip
    result = run(*arguments)
    printed = json.loads(result.stdout)
    with open("runs/bench/layers-1core.json") as file:
        assert json.load(file) == printed
    environment = {"processor", "capability", "torch", "threads", "commit", "command", "build"}
    assert environment <= set(printed["environment"])
    assert printed["environment"]["threads"] == 1
    assert printed["cores"] >= 1
    assert printed["fma_gflops_per_core"] > 0
    assert printed["peers"] == installed_peers()
    assert printed["geometric_means"] == []
    assert [(row["batch"], row["pass"]) for row in printed["rows"]] == [
        (2, "forward"), (2, "grad-values"), (1, "forward"), (1, "grad-values")
    ]  # fmt: skip
    for row in printed["rows"]:
        assert row["nnz"] == 108
        assert row["dense"].keys() == {"contiguous", "channels_last"}
        assert row["dense_ms"] == min(timed["ms"] for timed in row["dense"].values())
        assert row["speed_up"] == pytest.approx(row["dense_ms"] / row["ours_ms"])
        assert row["ours"] == {"ms": row["ours_ms"], "rounds": 1}
        assert row["over_peers"].keys() == row["peers"].keys() <= set(installed_peers())
        assert row["useful_gflops"] == pytest.approx(2 * 108 * 49 * row["batch"] / row["ours_ms"] / 1e6)
        assert row["peak_share"] == pytest.approx(row["useful_gflops"] / printed["fma_gflops_per_core"])


def test_no_peers():
    result = run("--layers", "tiny", "--no-peers", "--rounds", 1, "--quick", "--json")
    printed = json.loads(result.stdout)
    assert printed["peers"] == []
    assert all(row["peers"] == {} for row in printed["rows"])


def test_threads_are_put_back(grids):
    assert run("--threads", 2).exit_code == 0
    assert torch.get_num_threads() == 1
    with open("runs/bench/layers-2core.json") as file:
        assert json.load(file)["environment"]["threads"] == 2


def test_presets(grids):
    for arguments in ((), ("--quick",), ("--all",), ("--all", "--batch", "3", "--layers", "tiny")):
        assert run(*arguments).exit_code == 0
    default, quick, everything, some = grids
    assert tuple(default.layers) == tuple(quick.layers) == VGG
    assert (tuple(default.batches), tuple(quick.batches)) == ((1, 32), (1,))
    assert tuple(default.sparsities) == tuple(quick.sparsities) == (0.9, 0.99)
    assert {layer.name for layer in everything.layers} == set(LAYERS) - {"tiny"}
    assert tuple(everything.batches) == (1, 32, 128)
    assert tuple(everything.sparsities) == (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
    assert ([layer.name for layer in some.layers], some.batches) == (["tiny"], [3])
    assert all(grid.rounds == 15 and tuple(grid.ops) == OPS for grid in grids)


def test_help_has_an_example_that_parses(grids, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    result = run("--help")
    _, _, example = result.output.partition("Example: fbconv bench")
    assert run(*shlex.split(example)).exit_code == 0
    (grid,) = grids
    assert [layer.name for layer in grid.layers] == ["vgg-64x32", "vgg-512x4"]
    assert (grid.sparsities, grid.directions) == ([0.9, 0.95, 0.99], ["forward", "backward"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "vgg-64x32,alexnet"], f"layers must be of {', '.join(LAYERS)}, tiny, got 'alexnet'"),
        (["--ops", "dense"], "ops must be of masked, filter-basis, frozen, got 'dense'"),
        (["--passes", "sideways"], f"passes must be of {', '.join(DIRECTIONS)}, got 'sideways'"),
        (["--sparsity", ".9,1"], "sparsity must be numbers in [0, 1) with commas between, got '1'"),
        (["--sparsity", "-.1"], "sparsity must be numbers in [0, 1) with commas between, got '-.1'"),
        (["--sparsity", "nan"], "sparsity must be numbers in [0, 1) with commas between, got 'nan'"),
        (["--batch", "0"], "batch must be numbers from 1 with commas between, got '0'"),
        (["--batch", "1,,2"], "batch must be numbers from 1 with commas between, got ''"),
        (["--rounds", "0"], "--rounds"),
        (["--threads", "0"], "--threads"),
        (["--quick", "--all"], "at most one of --quick and --all can be given"),
        (
            ["--ops", "filter-basis", "--layers", "linear-512"],
            "filter-basis needs a layer with filters larger",
        ),
    ],
)
def test_wrong_usage_is_exit_code_two(arguments, message, grids, monkeypatch, capsys):
    assert run_main(monkeypatch, "bench", *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out
    assert not grids


def test_out_is_checked_before_anything_is_measured(grids, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert run_main(monkeypatch, "bench", "--out", tmp_path / "file" / "out") == 2
    assert "out must be a folder that can be written to, got" in capsys.readouterr().err
    assert not grids


def test_peers_that_cannot_be_imported_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    result = run("--layers", "tiny", "--rounds", 1, "--ops", "masked", "--passes", "forward", "--batch", 1)
    assert result.exit_code == 0, result.output
    assert "cannot be imported: scipy" in result.stderr
