"""``fbconv pack``, ``fbconv unpack`` and ``fbconv info FILE``."""

import json

import pytest
import torch
from command_line import run_main
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import fbconv
from fbconv import cli
from fbconv._files.entries import same_bits
from fbconv.models import build


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype, name
        assert same_bits(tensor, b[name]), name


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return fbconv.initialise(build("lenet5"), seed=7)


@pytest.fixture(scope="module")
def masks(network):
    return {name: torch.rand(shape) < 0.01 for name, shape in fbconv.prunable(network).items()}


def trained(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.fixture
def files(network, masks, tmp_path):
    """State dicts of a pruned and of a frozen network, dense, and their masks."""
    save_file(masks, tmp_path / "masks.safetensors")
    models = {"pruned": fbconv.sparsify(network, masks), "frozen": fbconv.freeze(network, masks, seed=7)}
    for name, model in models.items():
        save_file(fbconv.densify(trained(model)).state_dict(), tmp_path / f"{name}.safetensors")
    return tmp_path


@pytest.mark.parametrize("name", ["pack", "unpack", "info"])
def test_every_help_has_an_example(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert f"Example: fbconv {name}" in run(name, "--help").output


@pytest.mark.parametrize("masked", [False, True])
def test_pruned_weights_lose_their_zeros_and_nothing_else(files, masked, masks):
    options = ("--masks", files / "masks.safetensors") if masked else ()
    packed = json.loads(run("pack", files / "pruned.safetensors", files / "a.fbc", *options, "--json").stdout)
    assert packed["compressed_layers"] == 4
    assert packed["kept"] == sum(int(mask.sum()) for mask in masks.values())
    assert packed["bytes"] == (files / "a.fbc").stat().st_size < 30_000
    run("unpack", files / "a.fbc", files / "back.safetensors")
    assert_same_state(load_file(files / "pruned.safetensors"), load_file(files / "back.safetensors"))
    loaded = fbconv.load(files / "a.fbc", build("lenet5"))
    assert isinstance(loaded.fc1, fbconv.nn.SparseLinear)


def test_masks_keep_zeros_too(files, masks):
    state = load_file(files / "pruned.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in state.items()}, files / "zero.safetensors")
    run("pack", files / "zero.safetensors", files / "a.fbc", "--masks", files / "masks.safetensors")
    loaded = fbconv.load(files / "a.fbc", build("lenet5"))
    assert all(torch.equal(loaded.get_submodule(n[:-7]).pattern.mask(), mask) for n, mask in masks.items())


def test_frozen_weights_become_a_seed(files):
    options = ("--init", "xavier_normal", "--seed", 7)
    run("pack", files / "frozen.safetensors", files / "a.fbc", *options)
    run("pack", files / "pruned.safetensors", files / "b.fbc")
    assert (files / "a.fbc").stat().st_size - (files / "b.fbc").stat().st_size <= 100
    run("unpack", files / "a.fbc", files / "back.safetensors")
    assert_same_state(load_file(files / "frozen.safetensors"), load_file(files / "back.safetensors"))
    assert fbconv.load(files / "a.fbc", build("lenet5")).fc1.draw.seed == 7
    run("pack", files / "frozen.safetensors", files / "dense.fbc", "--init", "xavier_normal", "--seed", 8)
    assert (files / "dense.fbc").stat().st_size > 1_700_000
    assert json.loads(run("info", files / "dense.fbc", "--json").stdout)["layers"] == []


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "bin"])
def test_torch_files(files, suffix):
    state = load_file(files / "pruned.safetensors")
    sizes = set()
    for content in (state, {"state_dict": state, "epoch": 3}, {"model": state}):
        torch.save(content, files / f"a.{suffix}")
        run("pack", files / f"a.{suffix}", files / "a.fbc")
        sizes.add((files / "a.fbc").stat().st_size)
        run("unpack", files / "a.fbc", files / "back.safetensors")
        assert_same_state(state, load_file(files / "back.safetensors"))
    assert len(sizes) == 1


def test_packed_files_may_change_their_dtype(files):
    run("pack", files / "pruned.safetensors", files / "a.fbc")
    run("pack", files / "a.fbc", files / "b.fbc", "--dtype", "bfloat16")
    run("pack", files / "pruned.safetensors", files / "c.fbc", "--dtype", "bfloat16")
    assert (files / "b.fbc").read_bytes() == (files / "c.fbc").read_bytes()
    run("unpack", files / "b.fbc", files / "back.safetensors")
    state = load_file(files / "pruned.safetensors")
    assert_same_state({n: t.bfloat16() for n, t in state.items()}, load_file(files / "back.safetensors"))


def test_unpack_composes_filters_and_scales_frozen_weights(tmp_path):
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=2), nn.Linear(4, 4))
    masks = {"3.weight": torch.rand(4, 4) < 0.3}
    for change in (fbconv.freeze, lambda m, masks: fbconv.freeze(m, masks, seed=1)):
        made = change(fbconv.interspace(model, "in:2", init="orthonormal"), masks)
        fbconv.decay_frozen(made, torch.optim.SGD(made.parameters(), 0.1), 0.1)
        made[3].frozen_scale.fill_(0.25)
        fbconv.save(made, tmp_path / "a.fbc")
        run("unpack", tmp_path / "a.fbc", tmp_path / "b.safetensors")
        state, expected = load_file(tmp_path / "b.safetensors"), fbconv.densify(made).state_dict()
        assert state.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(state[name], tensor)
        assert same_bits(state["3.weight"], expected["3.weight"])


def test_weights_that_zeros_do_not_shrink_stay_dense(tmp_path):
    state = {"a.weight": torch.randn(30, 30), "b.weight": torch.randn(30, 30), "c.bias": torch.zeros(3)}
    state["b.weight"][0] = 0
    state["b.weight"][1, 1] = -0.0
    save_file(state, tmp_path / "a.safetensors")
    packed = json.loads(run("pack", tmp_path / "a.safetensors", tmp_path / "a.fbc", "--json").stdout)
    assert (packed["compressed_layers"], packed["kept"]) == (1, 870)
    run("unpack", tmp_path / "a.fbc", tmp_path / "b.safetensors")
    assert_same_state(state, load_file(tmp_path / "b.safetensors"))


def test_info_of_a_file(files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run("pack", files / "frozen.safetensors", files / "a.fbc", "--init", "xavier_normal", "--seed", 7)
    people, facts = run("info", files / "a.fbc"), json.loads(run("info", files / "a.fbc", "--json").stdout)
    assert (facts["seed"], facts["init"], facts["dtypes"]) == ("7", "xavier_normal", ["float32"])
    sizes = facts["bytes"]
    assert sizes["file"] == (files / "a.fbc").stat().st_size < sizes["with_csr"] < sizes["with_bitmap"]
    assert sizes["dense_float32"] == 4 * (430_500 + 580)
    assert facts["other_tensors"] == {"entries": 580, "bytes": 2320}
    for layer in facts["layers"]:
        position = layer["position"]
        assert layer["elsewhere"] == "drawn"
        assert position["bits"] <= position["bound_bits"] + 16 / layer["kept"]
        assert position["bits"] < position["csr_bits"]
        assert position["bits"] < position["bitmap_bits"] == pytest.approx(1 / layer["density"])
        assert layer["name"] in people.stdout
        assert f"{position['bits']:.3f}" in people.stdout
    assert f"{sizes['file']:,} bytes" in people.stdout
    assert "xavier_normal, seed 7" in people.stdout


def test_info_of_an_empty_layer(tmp_path):
    layer = fbconv.nn.SparseLinear(3, 2, mask=torch.zeros(2, 3, dtype=torch.bool))
    fbconv.save(layer, tmp_path / "a.fbc")
    assert "(model)" in run("info", tmp_path / "a.fbc").stdout
    assert json.loads(run("info", tmp_path / "a.fbc", "--json").stdout)["layers"][0]["position"]["bits"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "int8"], "dtype must be one of float32, bfloat16, float16, got 'int8'"),
        (["--init", "xavier_normal"], "init and seed belong together"),
        (["--seed", "7"], "init and seed belong together"),
        (["--init", "zeros", "--seed", "7"], "init must be one of xavier_normal"),
        (["--init", "xavier_normal", "--seed", "-1"], "--seed"),
    ],
)
def test_wrong_usage_is_exit_code_two(options, message, files, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert run_main(monkeypatch, "pack", files / "pruned.safetensors", files / "a.fbc", *options) == 2
    assert message in capsys.readouterr().err
    assert not (files / "a.fbc").exists()


def errors(monkeypatch, capsys, *arguments):
    assert run_main(monkeypatch, *arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("fbconv: ")
    assert "Traceback" not in captured.err
    return captured.err


def test_what_cannot_be_packed(files, masks, monkeypatch, capsys):
    out = files / "a.fbc"

    def message(source, *options):
        return errors(monkeypatch, capsys, "pack", files / source, out, *options)

    assert "nowhere.pt" in message("nowhere.pt")
    assert "nowhere.safetensors" in message("nowhere.safetensors")
    (files / "broken.pt").write_bytes(b"no such thing")
    assert "broken.pt: not a file of tensors" in message("broken.pt")
    (files / "broken.safetensors").write_bytes(b"no such thing")
    assert "broken.safetensors: not a whole safetensors file" in message("broken.safetensors")
    torch.save([1, 2], files / "list.pt")
    assert "must hold a state dict, got list" in message("list.pt")
    torch.save({"a": 3}, files / "number.pt")
    assert "a must be a tensor with data, got int" in message("number.pt")
    torch.save(fbconv.nn.SparseLinear(3, 2).state_dict(), files / "compressed.pt")
    assert "indices: the state dict is a compressed model's; write that with fbconv.save" in message("compressed.pt")
    given = ("--masks", files / "masks.safetensors")
    assert "conv1.weight has entries outside of its mask that are not zero" in message("frozen.safetensors", *given)
    seed = ("--init", "xavier_normal", "--seed", 8)
    assert "that are not zero or drawn" in message("frozen.safetensors", *given, *seed)
    save_file({"conv1.bias": torch.ones(20)}, files / "wrong.safetensors")
    given = ("--masks", files / "wrong.safetensors")
    assert "masks: conv1.bias is no weight of the state dict" in message("pruned.safetensors", *given)
    save_file({"conv1.weight": torch.ones(20)}, files / "wrong.safetensors")
    assert "must be bool of shape (20, 1, 5, 5), got torch.float32" in message("pruned.safetensors", *given)
    assert not out.exists()
    run("pack", files / "pruned.safetensors", out)
    assert "packed already" in message("a.fbc", *seed)


class Evil:
    def __reduce__(self):
        return open, ("executed", "w")


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Evil()}, "evil.pt")
    errors(monkeypatch, capsys, "pack", "evil.pt", "a.fbc")
    for command in (("info", "evil.pt"), ("unpack", "evil.pt", "b.safetensors")):
        assert "evil.pt: not a whole safetensors file" in errors(monkeypatch, capsys, *command)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


def test_shared_weights_are_stored_once(tmp_path):
    weight = torch.eye(40)
    torch.save({"a.weight": weight, "b.weight": weight}, tmp_path / "a.pt")
    run("pack", tmp_path / "a.pt", tmp_path / "a.fbc")
    run("unpack", tmp_path / "a.fbc", tmp_path / "a.safetensors")
    assert_same_state(load_file(tmp_path / "a.safetensors"), {"a.weight": weight, "b.weight": weight})
    assert (tmp_path / "a.fbc").stat().st_size < 1.5 * weight.nbytes


def test_another_dtype_does_not_bring_back_rounded_frozen_weights(network, masks, tmp_path):
    half, wide = tmp_path / "half.fbc", tmp_path / "wide.fbc"
    fbconv.save(fbconv.freeze(network, masks, seed=7), half, torch.bfloat16)
    run("pack", half, wide, "--dtype", "float32")
    for path in (half, wide):
        run("unpack", path, path.with_suffix(".safetensors"))
    rounded = {name: tensor.float() for name, tensor in load_file(half.with_suffix(".safetensors")).items()}
    assert_same_state(load_file(wide.with_suffix(".safetensors")), rounded)


def test_a_folder_that_cannot_be_written_is_a_message(files, monkeypatch, capsys):
    run("pack", files / "pruned.safetensors", files / "a.fbc")
    monkeypatch.setattr("safetensors.torch.serialize_file", unwritable)
    assert run_main(monkeypatch, "unpack", files / "a.fbc", files / "b.safetensors") == 1
    assert "b.safetensors: Error while serializing" in capsys.readouterr().err


def unwritable(*_, **__):
    raise SafetensorError("Error while serializing: I/O error: Permission denied")
