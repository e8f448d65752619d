"""Fuzzes the file decoder: whatever the bytes are, a file is read or a ValueError says what is wrong with it.

    python tests/trust/fuzz_files.py [--seconds 60] [--runs 0] [--seed 1] [--kept FOLDER]

With atheris (``pip install atheris``) the search is guided by the decoder's coverage, else it changes files at random.
An input that breaks the promise is written to ``--kept`` and raised; tests replay what lies in ``corpus/files``.

Inputs are files opened up, so that changes go deeper than a checksum or a deflated stream::

    init|seed|generator|drawn
    positions 2 float32 5
    {"dtype":"float32","frozen":null,"entries":[...]}
    the bytes of positions and vectors

The layout is deflated unless it begins like a deflated stream. An input that begins with a zero byte is a file as it
is, whose checksum is made to fit if it has one.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None
if atheris is not None and __name__ == "__main__":
    with atheris.instrument_imports(include=["fbconv._files"]):
        import fbconv._files.container
        import fbconv._files.sizes
        import fbconv._files.sources
        import fbconv._files.state_dicts
        import fbconv._files.to_model

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

import fbconv
from fbconv._files import state_dicts
from fbconv._files.container import _header, _sealed, parse_file, write
from fbconv._files.layout import DTYPES
from fbconv._files.sizes import describe
from fbconv._files.to_model import model_of_file

CORPUS = Path(__file__).parent / "corpus" / "files"
_ORIGIN = ("init", "seed", "generator", "drawn")
_MOST = 4096  # entries of a vector: more are no different, but slower
_LONGEST = 4096  # bytes of an input


def net() -> nn.Module:
    """What files are loaded into."""
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def whole_files() -> Iterator[bytes]:
    """Files of the three kinds of layers, for that network."""
    torch.manual_seed(0)
    made = net()
    masks = {name: torch.rand(shape) < 0.4 for name, shape in fbconv.prunable(made).items()}
    coefficients = {"0.values": torch.rand(4, 2, 9) < 0.3}
    models = (
        fbconv.sparsify(made, masks),
        fbconv.freeze(made, masks, seed=9),
        fbconv.sparsify(fbconv.interspace(made), coefficients),
        fbconv.freeze(made, masks, seed=9).half(),
    )
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            fbconv.save(model, path := Path(folder) / "a.fbc")
            yield path.read_bytes()


def seeds() -> list[bytes]:
    """Inputs that are files."""
    files = list(whole_files())
    return [opened(data) for data in files] + [b"\0" + data for data in files]


def opened(data: bytes) -> bytes:
    """The input that stands for a file."""
    content, metadata = load_tensors(data), _header(data)["__metadata__"]
    layout = zlib.decompress(content.pop("layout").numpy().tobytes())
    origin = "|".join(metadata.get(key, "") for key in _ORIGIN)
    sizes = " ".join(f"{name} {vector.numel()}" for name, vector in content.items())
    rest = b"".join(vector.view(torch.uint8).numpy().tobytes() for vector in content.values())
    return f"{origin}\n{sizes}\n".encode() + layout + b"\n" + rest


def closed(data: bytes) -> bytes | None:
    """The file that an input stands for, with a checksum that fits; None if it is none."""
    if data[:1] == b"\0":
        return _resealed(data[1:])
    origin, sizes, layout, rest = [*data.split(b"\n", 3), b"", b"", b""][:4]
    texts = dict(zip(_ORIGIN, origin.decode("latin-1").split("|"), strict=False))
    metadata = {"format": "fbconv", "version": "1", "checksum": "0" * 32} | {k: v for k, v in texts.items() if v}
    layout = layout if layout[:1] == b"\x78" else zlib.compress(layout, 1)
    tensors = {"layout": _tensor(layout, "uint8", len(layout))} if layout else {}
    words = sizes.decode("latin-1").split()
    for name, text in zip(words[::2], words[1::2], strict=False):
        dtype = name if name in DTYPES else "uint8"
        count = min(_MOST, int(text)) if re.fullmatch("[0-9]{1,9}", text) else 0
        tensors[name] = _tensor(rest, dtype, count)
        rest = rest[tensors[name].nbytes :]
    return _sealed(save_tensors(tensors, metadata))


def _tensor(data: bytes, dtype: str, count: int) -> torch.Tensor:
    """So many numbers; what is missing at the end is zero."""
    size = DTYPES[dtype].itemsize * count
    raw = torch.frombuffer(bytearray(data[:size].ljust(size, b"\0")), dtype=torch.uint8) if size else torch.empty(0)
    return (raw != 0) if dtype == "bool" else raw.to(torch.uint8).view(DTYPES[dtype])


def _resealed(data: bytes) -> bytes:
    try:
        checksum = _header(data)["__metadata__"]["checksum"].encode()
        return _sealed(data.replace(checksum, b"0" * 32, 1)) if len(checksum) == 32 else data
    except Exception:  # no header, or one of another kind: a file all the same
        return data


def decode(data: bytes) -> bool:
    """Does to the file of an input what fbconv does to files; whether it could be read."""
    found = closed(data)
    try:
        file = parse_file(Path("a.fbc"), found)
    except ValueError as error:
        if not str(error).startswith("a.fbc: "):
            raise AssertionError(f"an error that does not name the file: {error}") from error
        return False
    json.dumps(describe(file))
    for use in (lambda: model_of_file(file, net()), lambda: state_dicts.dense_state(file), lambda: _rewritten(file)):
        with contextlib.suppress(ValueError):  # fits no model, or is as large as no sensible file
            use()
    return True


def _rewritten(file: fbconv._files.container.File) -> None:
    """What was read can be written, and read again."""
    state_dicts.require_sensible_size(file)
    with tempfile.TemporaryDirectory() as folder:
        write(path := Path(folder) / "b.fbc", file.entries)
        again = parse_file(path, path.read_bytes())
    if [entry.name for entry in again.entries] != [entry.name for entry in file.entries]:
        raise AssertionError("a file that was read is not what is written of it")


class Mutator:
    """Changes inputs at random, the same way for the same seed."""

    _NUMBERS = (b"0", b"1", b"-1", b"2", b"1.5", b"1e999", b"null", b"true", b"[]", b"{}", b'""', b"2147483647",
                b"2147483648", b"4611686018427387904", b"9" * 50)  # fmt: skip
    _WORDS = (b'"same":"0"', b'"layer":"0"', b'"kept":0', b'"frozen":0', b'"frozen":"stored"', b'"basis":"0"',
              b'"axis":"out"', b'"groups":2', b'"linear":true', b'"init":"dct"', b'"shape":[]', b',', b'"', b"}",
              b"[", b"int8", b"float16", b"bfloat16", b"bool", b"\n", b"|", b" ", b"\x78\x9c")  # fmt: skip

    def __init__(self, inputs: list[bytes], seed: int) -> None:
        self.inputs, self.random = inputs, random.Random(seed)

    def next(self) -> bytes:
        data = self.random.choice(self.inputs)
        for _ in range(self.random.randint(1, 4)):
            data = self.changed(data)
        return data[:_LONGEST]

    def changed(self, data: bytes) -> bytes:
        at = self.random.randrange(len(data) + 1)
        end = min(len(data), at + self.random.randint(1, 8))
        kind = self.random.randrange(6)
        if kind == 0:
            return data[:at] + self.random.randbytes(end - at) + data[end:]
        if kind == 1:
            return data[:at] + data[end:]
        if kind == 2:
            return data[:at] + self.random.choice(self._WORDS) + data[at:]
        if kind == 3:
            other = self.random.choice(self.inputs)
            start = self.random.randrange(len(other) + 1)
            return data[:at] + other[start : start + 40] + data[end:]
        numbers = list(re.finditer(rb"\d+", data[:2000]))
        if not numbers:
            return data
        number = self.random.choice(numbers)
        near = str(int(number[0][:18]) + self.random.randint(-2, 2)).encode()
        new = near if kind == 4 else self.random.choice(self._NUMBERS)
        return data[: number.start()] + new + data[number.end() :]


def tried(data: bytes, kept: Path) -> bool:
    """As :func:`decode`; keeps an input that breaks the promise."""
    try:
        return decode(data)
    except BaseException:
        kept.mkdir(parents=True, exist_ok=True)
        path = kept / hashlib.blake2b(data, digest_size=6).hexdigest()
        path.write_bytes(data)
        print(f"the input is in {path}", file=sys.stderr)
        raise


def _search(options: argparse.Namespace, inputs: list[bytes]) -> None:
    mutator = Mutator(inputs, options.seed)
    end, executions, read = time.monotonic() + options.seconds, 0, 0
    while executions < options.runs or (options.runs == 0 and time.monotonic() < end):
        data = inputs[executions] if executions < len(inputs) else mutator.next()
        read += tried(data, options.kept)
        executions += 1
    print(f"{read} of them were files")
    print(f"stat::number_of_executed_units: {executions}")


def _guided_search(options: argparse.Namespace, inputs: list[bytes]) -> None:
    """Ends the process."""
    with tempfile.TemporaryDirectory() as folder:
        for i, data in enumerate(inputs):
            (Path(folder) / str(i)).write_bytes(data)
        limits = [f"-max_total_time={options.seconds}", f"-runs={options.runs or -1}", f"-max_len={_LONGEST}"]
        arguments = [sys.argv[0], *limits, f"-seed={options.seed}", "-print_final_stats=1", "-timeout=60", folder]
        atheris.Setup(arguments, lambda data: tried(data, options.kept) and None, custom_mutator=_mutated(inputs))
        atheris.Fuzz()


def _mutated(inputs: list[bytes]) -> Callable[[bytes, int, int], bytes]:
    """Changes that know JSON, and libFuzzer's, which know what the decoder compares with: in turn."""

    def change(data: bytes, most: int, seed: int) -> bytes:
        return Mutator(inputs, seed).changed(data)[:most] if seed % 2 else atheris.Mutate(data, most)

    return change


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=0, help="inputs to try, instead of seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kept", type=Path, default=Path("build/fuzz/files"), help="where broken promises are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    state_dicts._ROOM = 1 << 16  # what it allows beyond takes time and finds nothing
    inputs = [*seeds(), *(path.read_bytes() for path in sorted(CORPUS.glob("*")))]
    print("guided by coverage" if atheris else "without atheris: changed at random, blind to coverage")
    (_guided_search if atheris else _search)(options, inputs)


if __name__ == "__main__":
    main()
