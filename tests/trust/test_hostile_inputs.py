"""Files that are damaged by chance or made to harm: an error of the documented type, or what the file held before.

None crashes the process, takes memory beyond what a file of its size can stand for, or runs anything. Files with a
checksum (compressed models, checkpoints, masks, gzip) give their very content or an error. IDX, CIFAR and SQLite files
and TOML have none: a flipped bit of a pixel or of a text is another pixel or text, and what has to hold is the shape
and the type of what comes out.
"""

import dataclasses
import gzip
import os
import pickle
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bounded_memory import forget_peak, limited, peak
from mutations import mutated
from safetensors.torch import save
from test_data import Attack, idx, python2_pickle, random_bytes
from test_hostile_files import models, net
from torch import Tensor

import fbconv
from fbconv import data
from fbconv._files.container import sealed
from fbconv._files.sources import entries_of_source, load_masks
from fbconv._files.state_dicts import dense_state
from fbconv.experiment import Config, load_checkpoint, save_checkpoint
from fbconv.results import Record, Results
from fbconv.sweep import read_sweep

CONFIG = Config(epochs=1)
ROOM = 96 << 20  # of addresses; the files are of kilobytes, the largest of half a megabyte
HELD = 48 << 20  # and of these held: what a decompressor or an unpickler needs, with a wide margin


@dataclass
class Kind:
    """A kind of file: whole ones, how it is read, and what a reader may make of a damaged one.

    ``legitimate`` says whether other content is content of the declared type; without it, there is none.
    """

    files: list[bytes]
    read: Callable[[Path], Any]
    suffix: str = ""
    legitimate: Callable[[Any], bool] | None = None


def plain(value: Any) -> Any:
    """Nested, comparable bits of whatever a reader returns."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().contiguous().reshape(-1).view(torch.uint8).tolist()
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return repr(value)


def compressed_models(folder: Path) -> Kind:
    def read(path: Path) -> Any:
        return fbconv.load(path, net()).state_dict(), [type(layer).__name__ for layer in fbconv.load(path, net())]

    torch.manual_seed(0)
    for i, model in enumerate(models()):
        fbconv.save(model, folder / f"{i}.fbc")
    return Kind([(folder / f"{i}.fbc").read_bytes() for i in range(3)], read, ".fbc")


def unpacked_models(folder: Path) -> Kind:
    kind = compressed_models(folder)
    return dataclasses.replace(kind, read=lambda path: dense_state(fbconv.checkpoint.read(path)))


def training_state(seed: int) -> dict[str, object]:
    model = torch.nn.Linear(5, 4)
    torch.nn.init.constant_(model.weight, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    state = {"config": dataclasses.asdict(CONFIG), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return state | {"history": [{"epoch": 1, "lr": 0.1}], "best": {}, "seconds": 1.5, "training_seconds": 1.0}


def checkpoints(folder: Path) -> Kind:
    for seed in range(2):
        save_checkpoint(folder / f"{seed}.ckpt", training_state(seed))
    whole = [(folder / f"{seed}.ckpt").read_bytes() for seed in range(2)]
    return Kind(whole, lambda path: load_checkpoint(path, CONFIG), ".ckpt")


def state_dicts(folder: Path) -> Kind:
    kind = checkpoints(folder)
    return dataclasses.replace(kind, read=entries_of_source, suffix=".pt")


def masks(folder: Path) -> Kind:
    def made(seed: int) -> bytes:
        generator = torch.Generator().manual_seed(seed)
        drawn = {f"{i}.weight": torch.rand(9, 5 + i, generator=generator) < 0.3 for i in range(3)}
        return sealed(drawn, {"score": '"snip"', "sparsity": "0.7"})

    return Kind([made(seed) for seed in range(2)], load_masks, ".safetensors")


def bytes_of_any_shape(value: Tensor) -> bool:
    return value.dtype == torch.uint8 and 1 <= value.dim() <= 4


def idx_files(folder: Path) -> Kind:
    whole = [idx(random_bytes(0, 12, 28, 28)), idx(random_bytes(1, 40, high=10))]
    return Kind(whole, data.read_idx, legitimate=bytes_of_any_shape)


def gzipped_idx_files(folder: Path) -> Kind:
    whole = [gzip.compress(file, mtime=0) for file in idx_files(folder).files]
    # Without its first two bytes a gzip file may be another file.
    return Kind(whole, data.read_idx, ".gz", legitimate=bytes_of_any_shape)


def images(split: data.Split) -> bool:
    shaped = split.images.dtype == torch.uint8 and split.images.shape[1:] == (3, 32, 32)
    return shaped and split.labels.shape == split.images.shape[:1] and bool((split.labels <= 9).all())


def cifar_binary(folder: Path) -> Kind:
    whole = [np.hstack([random_bytes(i, 4, 1, high=10), random_bytes(i, 4, 3072)]).tobytes() for i in range(2)]
    return Kind(whole, data._cifar_binary, ".bin", legitimate=images)


def cifar_pickles(folder: Path) -> Kind:
    pixels, labels = random_bytes(0, 3, 3072), random_bytes(1, 3, high=10)
    whole = [python2_pickle(pixels, labels), pickle.dumps({b"data": pixels, b"labels": labels.tolist()}, 4)]
    return Kind(whole, data._cifar_python, legitimate=images)


def results(folder: Path) -> Kind:
    def read(path: Path) -> list[Record]:
        return Results(path).records()

    for i in range(2):
        written = Results(folder / f"{i}.sqlite")
        written.add({f"group {i}": [Config(seed=seed, epochs=1 + i) for seed in range(3)]})
        for record in written.records()[: 1 + i]:
            written.finish(record.id, {"accuracy": 0.5, "history": [1, 2, 3]})
    whole = [(folder / f"{i}.sqlite").read_bytes() for i in range(2)]
    return Kind(whole, read, ".sqlite", legitimate=lambda records: all(type(r.config) is Config for r in records))


SWEEP = """[options]
model = "lenet300"
epochs = 5
seed = [0, 1, 2]

[[runs]]
mode = "dense"

[[runs]]
name = "{score} on {init}"
score = ["snip", "synflow", "snip/magnitude"]
sparsity = [0.9, 0.99, 0.995]
"""


def sweeps(folder: Path) -> Kind:
    def typed(runs: dict[str, list[Config]]) -> bool:
        return all(isinstance(name, str) and type(run) is Config for name, group in runs.items() for run in group)

    return Kind(
        [SWEEP.encode(), b"[[runs]]\nlr = 0.5\nspace = ['interspace']\n"], read_sweep, ".toml", legitimate=typed
    )


KINDS = {
    "compressed models": (compressed_models, 900),
    "compressed models, unpacked": (unpacked_models, 300),
    "training checkpoints": (checkpoints, 900),
    "state dicts to pack": (state_dicts, 300),
    "masks": (masks, 600),
    "IDX files": (idx_files, 400),
    "gzipped IDX files": (gzipped_idx_files, 400),
    "CIFAR binaries": (cifar_binary, 300),
    "CIFAR pickles": (cifar_pickles, 500),
    "results": (results, 200),
    "sweeps": (sweeps, 200),
}


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files(name, tmp_path, cases, tried, one_thread):
    make, full = KINDS[name]
    kind, count = make(tmp_path), cases(20, full)
    path = tmp_path / f"damaged{kind.suffix}"
    whole = [written(path, file) and plain(kind.read(path)) for file in kind.files]
    with limited(ROOM):
        wrong = list(filter(None, (complaint(kind, whole, path, seed) for seed in range(count))))
    assert not wrong, "\n".join(wrong[:20])
    tried(f"damaged {name}", count)


def written(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    return True


def complaint(kind: Kind, whole: list[Any], path: Path, seed: int) -> str | None:
    rng = random.Random(seed)
    how, content = mutated(rng.choice(kind.files), kind.files, rng)
    path.write_bytes(content)
    before, about = forget_peak(), f"seed {seed}, {how}"
    try:
        value = kind.read(path)
    except ValueError as error:
        if str(path) not in str(error):
            return f"{about}: an error that does not name the file: {error!r:.300}"
        if out_of_memory(error):
            return f"{about}: wanted memory: {error!r:.300}"
    except BaseException:
        return f"{about}: {traceback.format_exc()[-600:]}"
    else:
        if plain(value) not in whole and not (kind.legitimate and kind.legitimate(value)):
            return f"{about}: something else, without an error: {value!r:.300}"
    grown = peak() - before
    return f"{about}: held {grown:,} bytes more" if grown > HELD else None


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was made of, is the limit's: readers turn all sorts of errors into one."""
    if error is None:
        return False
    text = f"{error!r}".lower()
    return "memoryerror" in text or "allocate" in text or out_of_memory(error.__cause__ or error.__context__)


# Files that are made to harm.


@dataclass
class Opener:
    """Unpickled by what calls what it is told to, it makes a file."""

    path: str

    def __reduce__(self):
        return open, (self.path, "w")


LOADERS = {
    "checkpoint": lambda path: load_checkpoint(path, CONFIG),
    "state dict": lambda path: entries_of_source(path.rename(path.with_suffix(".pt"))),
    "compressed model": lambda path: fbconv.load(path, net()),
    "masks": load_masks,
    "IDX": data.read_idx,
    "CIFAR batch": data._cifar_python,
}


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("attack", [Attack, Opener])
@pytest.mark.parametrize("how", ["bare", "in torch's archive", "of protocol 0"])
def test_nothing_of_a_file_is_run(loader, attack, how, tmp_path):
    path, target = tmp_path / "file", tmp_path / "made-by-the-attack"
    payload = attack(str(target))
    if how == "in torch's archive":
        torch.save(training_state(0) | {"history": payload}, path)
    else:
        path.write_bytes(pickle.dumps({b"data": payload}, 0 if how == "of protocol 0" else 2))
    with pytest.raises(ValueError, match=r"file|\.pt"):
        loader(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(payload))
    assert target.exists(), "the attack itself works"
    assert os.listdir(tmp_path)


def nested(depth: int) -> list:
    """Two to the power of ``depth`` numbers in a few bytes of pickle."""
    content: Any = 1
    for _ in range(depth):
        content = [content, content]
    return content


BOMBS = {
    "labels": pickle.dumps({b"data": random_bytes(0, 4, 3072), b"labels": nested(40)}, 2),
    "a byte array": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x.",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_small_pickles_stay_small(bomb, tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(bomb)
    with limited(ROOM), pytest.raises(ValueError, match="not a CIFAR-10 batch") as caught:
        data._cifar_python(path)
    assert not out_of_memory(caught.value)


def test_a_flipped_bit_of_a_weight_is_no_checkpoint(tmp_path):
    """torch itself does not read the checksums that it writes."""
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, training_state(3))
    content = path.read_bytes()
    weight = torch.load(path, weights_only=True)["model"]["weight"].numpy().tobytes()
    path.write_bytes(content.replace(weight[:4], bytes([weight[0] ^ 1]) + weight[1:4], 1))
    assert path.read_bytes() != content
    torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match="last.ckpt: not a checkpoint of a run: .*the file was altered"):
        load_checkpoint(path, CONFIG)


def test_sweeps_of_absurd_size_are_refused(tmp_path):
    path = tmp_path / "sweep.toml"
    axes = ("seed", "epochs", "rounds", "shots", "interval", "rewind")
    path.write_text("[[runs]]\n" + "".join(f"{axis} = {list(range(1, 200))}\n" for axis in axes))
    with limited(ROOM), pytest.raises(ValueError, match=r"sweep.toml: a group may hold up to 100,000 runs, got 62,"):
        read_sweep(path)


@pytest.mark.parametrize("name", ["{seed:999999999}", "{seed.__class__}", "{score!r}", "{nothing}", "{", "{0}"])
def test_names_of_sweeps_hold_options_and_nothing_else(name, tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(f'[[runs]]\nname = "{name}"\n')
    with limited(ROOM), pytest.raises(ValueError, match="name may hold options like"):
        read_sweep(path)


def test_masks_of_others_hold_zeros_and_ones(tmp_path):
    path = tmp_path / "masks.safetensors"
    content = bytearray(save({"weight": torch.ones(3, dtype=torch.bool)}, {"format": "pt"}))
    path.write_bytes(content)
    assert load_masks(path)["weight"].all()
    content[-1] = 7
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"masks.safetensors: masks: weight must hold only 0 and 1"):
        load_masks(path)
