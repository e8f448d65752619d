"""Compressed files that are truncated, altered or lie: a ValueError that names the file, and nothing else."""

import json
import pickle
import re
import tracemalloc
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_tensors
from torch import nn

import fbconv
from fbconv._files import layout as layouts
from fbconv._files.container import _sealed, parse_file, read
from fbconv._files.positions import encode_positions
from fbconv._files.sources import entries_of_source
from fbconv._files.state_dicts import dense_state


def net():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def models():
    made = net()
    masks = {name: torch.rand(shape) < 0.4 for name, shape in fbconv.prunable(made).items()}
    yield fbconv.sparsify(made, masks)
    yield fbconv.freeze(made, masks, seed=9)
    yield fbconv.sparsify(fbconv.interspace(made), {"0.values": torch.rand(4, 2, 9) < 0.3})


@pytest.fixture(scope="module", params=range(3), ids=["pruned", "drawn", "interspace"])
def data(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("whole") / "a.fbc"
    fbconv.save(list(models())[request.param], path)
    return path.read_bytes()


def rejected(data, path, model=None):
    """The message of the error that loading these bytes ends with."""
    path.write_bytes(data)
    with pytest.raises(ValueError, match=".") as caught:
        fbconv.load(path, net() if model is None else model)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_every_truncation_is_refused(data, tmp_path):
    for length in range(0, len(data), 3):
        rejected(data[:length], tmp_path / "a.fbc")
    rejected(data[:-1], tmp_path / "a.fbc")


def test_anything_appended_is_refused(data, tmp_path):
    for more in (b"\0", b" ", data):
        rejected(data + more, tmp_path / "a.fbc")


def test_flipped_bytes_are_refused(data, tmp_path):
    for i in [*range(9), *range(9, len(data), 2)]:
        altered = bytearray(data)
        altered[i] ^= 0xFF if i % 3 else 1 << i % 8
        rejected(bytes(altered), tmp_path / "a.fbc")


def test_white_space_of_the_header_is_no_hiding_place(data, tmp_path):
    i = data.rindex(b"}", 0, 8 + int.from_bytes(data[:8], "little")) + 1
    if data[i : i + 1] == b" ":
        rejected(data[:i] + b"\n" + data[i + 1 :], tmp_path / "a.fbc")


def sealed(data):
    """As a forger would: with a checksum that fits."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    checksum = header["__metadata__"]["checksum"].encode()
    return _sealed(data.replace(checksum, b"0" * 32, 1))


@settings(max_examples=300, deadline=None, database=None)
@given(st.data())
def test_altered_content_under_a_fitting_checksum_is_a_model_or_an_error(whole_files, given):
    data = bytearray(given.draw(st.sampled_from(whole_files)))
    start = 8 + int.from_bytes(data[:8], "little")
    for _ in range(given.draw(st.integers(1, 4))):
        data[given.draw(st.integers(start, len(data) - 1))] = given.draw(st.integers(0, 255))
    data = sealed(bytes(data))
    try:
        file = parse_file("a.fbc", data)
        fbconv.checkpoint.model_of_file(file, net())
        dense_state(file)
    except ValueError:
        pass


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for i, model in enumerate(models()):
        fbconv.save(model, folder / f"{i}.fbc")
    return [path.read_bytes() for path in folder.iterdir()]


# Forged files: a linear layer with two weights kept of twelve, and its bias.

CODE = encode_positions(torch.tensor([1, 7]), 12)
LAYER = {"layer": "", "shape": [3, 4], "kept": 2, "code": len(CODE)}
BIAS = {"name": "bias", "shape": [3]}


def forged(entries=(LAYER, BIAS), common=None, layout=None, positions=CODE, vectors=None, metadata=None):
    if layout is None:
        content = {"dtype": "float32", "frozen": None, "entries": list(entries)} if common is None else common
        layout = zlib.compress(json.dumps(content).encode())
    tensors = {"layout": layout, "positions": positions}
    tensors = {n: torch.frombuffer(bytearray(d), dtype=torch.uint8) for n, d in tensors.items() if d}
    tensors |= {"float32": torch.ones(5)} if vectors is None else vectors
    known = {"format": "fbconv", "version": "1", "checksum": "0" * 32}
    return _sealed(save_tensors(tensors, known | (metadata or {})))


def layer(**changes):
    return [{**LAYER, **changes}, BIAS]


def bias(**changes):
    return [LAYER, {**BIAS, **changes}]


def test_an_honest_forgery_is_a_file(tmp_path):
    path = tmp_path / "a.fbc"
    path.write_bytes(forged())
    loaded = fbconv.load(path, nn.Linear(4, 3))
    assert loaded.pattern.positions.tolist() == [1, 7]
    assert loaded.bias.tolist() == [1, 1, 1]


HUGE = 10**400
BOMB = zlib.compress(b"[" * (1 << 26), 9)
DEEP = zlib.compress(b"[" * 100_000 + b"]" * 100_000)
SEED = {"seed": "7", "init": "pm_sigma", "generator": "philox4x32-10/1", "drawn": "00000000"}
TEXT = zlib.compress(b'{"dtype":"float32","frozen":null,"entries":[' + json.dumps(LAYER).encode() + b",NaN]}")

FORGERIES = {
    "negative size": (layer(shape=[3, -4]), "shape must have"),
    "negative sizes": (layer(shape=[-3, -4]), "shape must have"),
    "huge sizes": (layer(shape=[2**31 - 1, 2**31 - 1]), "shape must have"),
    "huge number": (layer(shape=[HUGE, 1]), "shape must have"),
    "huge layer": (layer(shape=[2**30, 1]), r"the file has shape \(1073741824, 1\), the model \(3, 4\)"),
    "no shape": (layer(shape=None), "shape must be of type list, got None"),
    "empty shape": (layer(shape=[]), "shape must have"),
    "three sizes": (layer(shape=[3, 4, 1]), "shape must have"),
    "float size": (layer(shape=[3, 4.0]), "shape must have"),
    "bool size": (layer(shape=[True, 12]), "shape must have"),
    "text size": (layer(shape="34"), "shape must be of type list"),
    "more kept": (layer(kept=3), "3 entries of float32 expected|2 are left"),
    "fewer kept": (layer(kept=1), "1 entries of float32 belong to nothing"),
    "kept beyond the shape": (layer(kept=13), r"kept must be in \[0, 12\], got 13"),
    "negative kept": (layer(kept=-1), r"kept must be in \[0, 12\], got -1"),
    "huge kept": (layer(kept=HUGE), r"kept must be in \[0, 12\], got a huge number"),
    "bool kept": (layer(kept=True), "kept must be of type int, got True"),
    "NaN kept": (layer(kept=float("nan")), "layout|kept must be of type int"),
    "infinite kept": (layer(kept=float("inf")), "kept must be of type int"),
    "text kept": (layer(kept="2"), "kept must be of type int, got '2'"),
    "longer code": (layer(code=len(CODE) + 1), r"code must be in \[0, 1\], got 2"),
    "shorter code": (layer(code=len(CODE) - 1), "1 entries of positions belong to nothing"),
    "negative code": (layer(code=-1), "code must be in"),
    "other shape, same size": (layer(shape=[4, 3]), r"the file has shape \(4, 3\), the model \(3, 4\)"),
    "no code": (layer(code=None), "code must be of type int"),
    "unknown dtype": (layer(dtype="complex64"), "dtype must be one of"),
    "list as dtype": (layer(dtype=["float32"]), "dtype must be one of"),
    "absent dtype": (layer(dtype="float16"), "2 entries of float16 expected, 0 are left"),
    "integer values": (layer(dtype="int64"), "2 entries of int64 expected, 0 are left"),
    "unknown frozen": (layer(frozen="drawn"), "frozen must be null"),
    "absent seed": (layer(frozen=0), "frozen must be null, 'stored' or the number of a seed, got 0"),
    "bool seed": (layer(frozen=False), "frozen must be null"),
    "frozen that is not there": (layer(frozen="stored"), "12 entries of float32 expected, 3 are left"),
    "list as frozen": (layer(frozen=[]), "frozen must be null"),
    "unknown basis": (layer(shape=[3, 4, 1], basis="bias", axis="in", groups=1), "needs a filter basis that fits"),
    "unknown init of a basis": (
        [
            {**LAYER, "layer": "0", "shape": [3, 4, 1], "basis": "b", "axis": "in", "groups": 1},
            {"name": "b", "shape": [1, 1, 1], "init": "eval"},
            {"name": "0.bias", "shape": [2]},
        ],
        "the model has nothing of that name",
    ),
    "bad axis": (layer(shape=[3, 4, 1], basis="bias", axis=3, groups=1), "axis must be of type str"),
    "no groups": (layer(shape=[3, 4, 1], basis="bias", axis="in", groups=0), r"groups must be in \[1"),
    "unknown field": (layer(pickle="x"), "unknown field 'pickle'"),
    "number as name": (layer(layer=3), "layer must be of type str, got 3"),
    "other name": (layer(layer="a"), "the model has nothing of that name"),
    "twice": ([LAYER, LAYER, BIAS], "the name occurs twice"),
    "bias twice": ([LAYER, BIAS, BIAS], "the name occurs twice"),
    "layer and weight": ([LAYER, {"name": "weight", "shape": [3]}], "'weight' occurs twice"),
    "layer and values": ([LAYER, {"name": "values", "shape": [3]}], "'values' occurs twice"),
    "same as nothing": (bias(same="x"), "unknown field|same must be an earlier name"),
    "same as itself": ([LAYER, BIAS, {"name": "b", "same": "b"}], "same must be an earlier name"),
    "chain of sames": (
        [LAYER, BIAS, {"name": "b", "same": "bias"}, {"name": "c", "same": "b"}],
        "same must be an earlier name, got 'b'",
    ),
    "list as same": ([LAYER, BIAS, {"name": "b", "same": []}], "same must be of type str"),
    "65 dimensions": (bias(shape=[1] * 65), "shape must have"),
    "empty but huge": (bias(shape=[0, *[2**31 - 1] * 63]), "shape must have"),
    "larger bias": (bias(shape=[4]), "4 entries of float32 expected, 3 are left"),
    "huge bias": (bias(shape=[2**31 - 1]), "2147483647 entries of float32 expected, 3 are left"),
    "unknown init": (bias(init="eval"), "filter basis 'bias' belongs to no layer"),
    "list as init": (bias(init=[]), "init must be of type str"),
    "text as entry": ([LAYER, "bias"], "entry 1 must be an object, got str"),
    "empty entry": ([LAYER, {}], "name must be of type str"),
}


@pytest.mark.parametrize("lie", FORGERIES)
def test_lying_entries(lie, tmp_path):
    entries, message = FORGERIES[lie]
    tracemalloc.start()
    said = rejected(forged(entries), tmp_path / "a.fbc", nn.Linear(4, 3))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert re.search(message, said), said
    assert len(said) < 1000
    assert peak < 1 << 22


def scaled(shape, dtype="float32", **changes):
    """With a number for frozen weights."""
    scale = {"name": "frozen_scale", "shape": shape, "dtype": dtype}
    count = 5 + 12 * len(changes)
    scales = torch.ones(shape, dtype=getattr(torch, dtype)).flatten()
    vectors = {"float32": torch.ones(count + scales.numel())} if dtype == "float32" else {
        "float32": torch.ones(count), dtype: scales
    }  # fmt: skip
    return {"entries": [*layer(**changes), scale], "vectors": vectors}


LAYOUTS = {
    "bomb": ({"layout": BOMB}, "not one deflated stream of at most"),
    "deep": ({"layout": DEEP}, "layout: "),
    "not deflated": ({"layout": b"{}"}, "layout: "),
    "truncated": ({"layout": zlib.compress(b"{}" * 99)[:-1]}, "layout: "),
    "appended": ({"layout": zlib.compress(b"{}") + b"x"}, "layout: not one deflated stream"),
    "pickle": ({"layout": zlib.compress(pickle.dumps({"entries": []}))}, "layout: "),
    "no JSON": ({"layout": zlib.compress(b"nonsense")}, "layout: "),
    "NaN": ({"layout": TEXT}, "entry 1 must be an object, got float"),
    "list": ({"layout": zlib.compress(b"[]")}, "layout must be an object, got list"),
    "no entries": ({"common": {}}, "entries must be of type list"),
    "unknown field": ({"common": {"entries": [], "code": "x"}}, "unknown field 'code'"),
    "nothing": ({"entries": []}, "belong to nothing"),
    "no layout": ({"layout": b""}, "no layout"),
    "positions with a zero": (
        {"positions": CODE + b"\0", "entries": layer(code=len(CODE) + 1)},
        "are not the code of 2 positions of 12",
    ),
    "no positions": ({"positions": b""}, "code must be in"),
    "too few numbers": ({"vectors": {"float32": torch.ones(4)}}, "3 entries of float32 expected, 2 are left"),
    "too many numbers": ({"vectors": {"float32": torch.ones(6)}}, "1 entries of float32 belong to nothing"),
    "another vector": (
        {"vectors": {"float32": torch.ones(5), "int8": torch.ones(1, dtype=torch.int8)}},
        "1 entries of int8 belong to nothing",
    ),
    "matrix": ({"vectors": {"float32": torch.ones(5, 1)}}, "unexpected tensor 'float32'"),
    "another dtype": ({"vectors": {"float32": torch.ones(5).half()}}, "unexpected tensor 'float32'"),
    "unknown tensor": ({"vectors": {"float32": torch.ones(5), "weight": torch.ones(5)}}, "unexpected tensor 'weight'"),
    "format": ({"metadata": {"format": "pt"}}, "not a file of fbconv: its format is 'pt'"),
    "version": ({"metadata": {"version": "2"}}, "version must be 1, got '2'"),
    "generator": ({"metadata": {**SEED, "generator": "mt19937"}}, "generator must be philox4x32-10/1, got 'mt19937'"),
    "init": ({"metadata": {**SEED, "init": "zeros"}}, "init 'zeros' and seed '7' do not name draws"),
    "negative seed": ({"metadata": {**SEED, "seed": "-1"}}, "do not name draws"),
    "wide seed": ({"metadata": {**SEED, "seed": "4294967296"}}, "do not name draws"),
    "long seed": ({"metadata": {**SEED, "seed": "1" * 9999}}, "do not name draws"),
    "two seeds, one init": ({"metadata": {**SEED, "seed": "1 2"}}, "do not name draws"),
    "other bits": (
        {"metadata": SEED, "entries": layer(frozen=0)},
        "the frozen weights that seed 7 gives here have checksum .* those of the file 00000000",
    ),
    "key": ({"metadata": SEED, "entries": layer(frozen=0, key=7)}, "key must be of type str"),
    "seed without checksum": (
        {"metadata": {k: v for k, v in SEED.items() if k != "drawn"}, "entries": layer(frozen=0)},
        "seed 7 gives here have checksum .* those of the file None",
    ),
    "scale of nothing": (scaled([]), "frozen_scale: must belong to frozen weights, got a layer without"),
    "scales": (
        scaled([2, 1, 1], frozen="stored"),
        r"frozen_scale: must be one floating-point number, got torch.float32 of shape \(2, 1, 1\)",
    ),
    "integer scale": (scaled([], dtype="int8", frozen="stored"), "one floating-point number, got torch.int8"),
}


@pytest.mark.parametrize("lie", LAYOUTS)
def test_lying_layouts_and_metadata(lie, tmp_path):
    changes, message = LAYOUTS[lie]
    assert re.search(message, rejected(forged(**changes), tmp_path / "a.fbc", nn.Linear(4, 3)))


def test_a_checksum_of_draws_without_a_seed_means_nothing(tmp_path):
    path = tmp_path / "a.fbc"
    path.write_bytes(forged(metadata={"drawn": "12345678"}))
    assert fbconv.load(path, nn.Linear(4, 3)).pattern.positions.tolist() == [1, 7]


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fbconv.load(tmp_path / "nowhere.fbc", net())


def test_files_of_others(tmp_path):
    assert "not a file of fbconv: its format is None" in rejected(save_tensors({"a": torch.ones(1)}), tmp_path / "a")
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    assert "not a whole safetensors file" in rejected((tmp_path / "a.pt").read_bytes(), tmp_path / "a")
    assert "not a whole safetensors file" in rejected(b"", tmp_path / "a")


def test_small_files_do_not_unpack_into_large_ones(tmp_path):
    empty = {"layer": "", "shape": [2**31 - 1, 1], "kept": 0, "code": 0}
    path = tmp_path / "a.fbc"
    path.write_bytes(forged([empty, {"name": "bias", "shape": [5]}], positions=b""))
    with pytest.raises(ValueError, match="bytes stand for 2,147,483,647 weights"):
        dense_state(read(path))


def test_layouts_are_not_written_that_could_not_be_read(monkeypatch, tmp_path):
    monkeypatch.setattr(layouts, "_LIMIT", 100)
    with pytest.raises(ValueError, match=r"need \d+ bytes of layout, at most 100 fit"):
        fbconv.save(net(), tmp_path / "a.fbc")
    assert not list(tmp_path.iterdir())


def test_small_files_are_not_packed_again_as_large_ones(tmp_path):
    """Packing draws frozen weights, for their checksum."""
    drawn = {"layer": "", "shape": [2**31 - 1, 1], "kept": 0, "code": 0, "frozen": 0}
    path = tmp_path / "a.fbc"
    path.write_bytes(forged([drawn, {"name": "bias", "shape": [5]}], positions=b"", metadata=SEED))
    with pytest.raises(ValueError, match=r"a.fbc: \d+ bytes stand for 2,147,483,647 weights"):
        entries_of_source(path)
