"""The table of contents: which part of the flat vectors is what. Deflated JSON, of which nothing is believed.

``{"dtype": ..., "frozen": ..., "entries": [...]}``; an entry without ``dtype`` or ``frozen`` has these. Entries are

- ``{"name", "shape"}``, perhaps ``"init"`` of a filter basis: a tensor;
- ``{"name", "same"}`` or ``{"layer", "same"}``: another name of an earlier tensor or layer;
- ``{"layer", "shape", "kept", "code"}``, for coefficients also ``"basis"``, ``"axis"``, ``"groups"`` and, of a linear
  layer, ``"linear"``: a compressed layer, ``code`` being the bytes of its positions. ``"frozen"`` is null (zeros),
  "stored" or the number of a draw, and ``"key"`` the draw's name if it is not the layer's.

Values, then stored frozen weights, lie in the vector of their dtype in the order of the entries.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from ..initialisation import Draw
from ..nn.compressed import key_of
from .entries import Entry, Layer, Plain, Same, tensors

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.bfloat16, torch.float16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LIMIT = 1 << 22  # bytes of JSON: a thousand networks' worth, and no burden to parse
_MOST = 2**31 - 1  # entries of a layer
_STORED = "stored"

Seeds = Sequence[tuple[str, int]]  # (init, seed) of each draw


def seeds_of(entries: Sequence[Entry]) -> list[tuple[str, int]]:
    """The different (init, seed) that the layers' frozen weights were drawn with."""
    draws = (entry.frozen for entry in entries if isinstance(entry, Layer) and isinstance(entry.frozen, Draw))
    return list(dict.fromkeys((draw.init, draw.seed) for draw in draws))


def dump(entries: Sequence[Entry]) -> bytes:
    """The layout of these entries.

    Raises:
        ValueError: a tensor that files cannot hold, or too many entries.
    """
    seeds = seeds_of(entries)
    records = [_record(entry, seeds) for entry in entries]
    layout = {key: _commonest(records, key) for key in ("dtype", "frozen")}
    for record in records:
        for key, value in layout.items():
            if key in record and record[key] == value:
                del record[key]
    text = json.dumps(layout | {"entries": records}, separators=(",", ":")).encode()
    if len(text) > _LIMIT:
        raise ValueError(f"{len(entries)} tensors and layers need {len(text)} bytes of layout, at most {_LIMIT} fit")
    return zlib.compress(text, 9)


def _record(entry: Entry, seeds: Seeds) -> dict[str, object]:
    for tensor in tensors(entry):
        if tensor.dtype not in _NAMES or tensor.layout != torch.strided:
            raise ValueError(f"{entry.name}: a file holds dense tensors of {', '.join(DTYPES)}, got {tensor.dtype}")
    if isinstance(entry, Same):
        return {"layer" if entry.layer else "name": entry.name, "same": entry.of}
    if isinstance(entry, Plain):
        record = {"name": entry.name, "shape": list(entry.tensor.shape), "dtype": _NAMES[entry.tensor.dtype]}
        return record if entry.init is None else record | {"init": entry.init}
    record = {"layer": entry.name, "shape": list(entry.shape), "kept": entry.kept, "code": len(entry.code)}
    record |= {"dtype": _NAMES[entry.values.dtype], "frozen": None if entry.frozen is None else _STORED}
    if isinstance(entry.frozen, Draw):
        record["frozen"] = seeds.index((entry.frozen.init, entry.frozen.seed))
        record |= {} if entry.frozen.name == entry.name else {"key": entry.frozen.name}
    if entry.basis is not None:
        record |= {"basis": entry.basis, "axis": entry.axis, "groups": entry.groups}
        record |= {"linear": True} if entry.linear else {}
    return record


def _commonest(records: Sequence[dict[str, object]], key: str) -> object:
    counts = Counter(record[key] for record in records if key in record)
    return counts.most_common(1)[0][0] if counts else None


def parse(layout: bytes, positions: bytes, vectors: Mapping[str, Tensor], seeds: Seeds) -> list[Entry]:
    """The entries of a file whose sizes all add up; positions stay coded.

    Raises:
        ValueError: naming the entry and what is wrong with it.
    """
    fields = _Fields("layout", _json(layout))
    common = {key: fields.content.get(key) for key in ("dtype", "frozen")}
    fields.only("dtype", "frozen", "entries")
    records = [_Fields(f"entry {i}", content) for i, content in enumerate(fields.get("entries", list))]
    reader = _Reader(common, positions, vectors, seeds)
    entries = [reader.entry(record) for record in records]
    reader.finish()
    _check_names(entries)
    _check_bases(entries)
    return entries


def _json(layout: bytes) -> object:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(layout, _LIMIT + 1)
        if len(text) > _LIMIT or not inflater.eof or inflater.unused_data:
            raise ValueError(f"not one deflated stream of at most {_LIMIT} bytes")
        return json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise ValueError(f"layout: {error}") from error


class _Fields:
    """The fields of a JSON object, of the types that are asked for."""

    def __init__(self, what: str, content: object) -> None:
        if type(content) is not dict:
            raise ValueError(f"{what} must be an object, got {type(content).__name__}")
        self.what, self.content = what, content

    def get(self, key: str, kind: type) -> object:
        value = self.content.get(key)
        if type(value) is not kind:  # bool is a kind of int
            raise ValueError(f"{self.what}: {key} must be of type {kind.__name__}, got {_short(value)}")
        return value

    def number(self, key: str, least: int, most: int) -> int:
        value = self.get(key, int)
        if not least <= value <= most:
            raise ValueError(f"{self.what}: {key} must be in [{least}, {most}], got {_short(value)}")
        return value

    def shape(self, dims: Sequence[int], least: int, most: int) -> tuple[int, ...]:
        sizes = self.get("shape", list)
        valid = len(sizes) in dims and all(type(size) is int and least <= size <= _MOST for size in sizes)
        if not valid or prod(max(1, size) for size in sizes) > most:
            raise ValueError(f"{self.what}: shape must have {_short(dims)} sizes from {least} and at most {most} "
                             f"entries, got {_short(sizes)}")  # fmt: skip
        return tuple(sizes)

    def only(self, *known: str) -> None:
        unknown = sorted(set(self.content) - set(known))
        if unknown:
            raise ValueError(f"{self.what}: unknown field {_short(unknown[0])}")


def _short(value: object) -> str:
    if type(value) is int and value.bit_length() > 200:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Reader:
    """Takes the entries' parts off the vectors and the codes, from front to back."""

    def __init__(
        self, common: dict[str, object], positions: bytes, vectors: Mapping[str, Tensor], seeds: Seeds
    ) -> None:
        self.common, self.positions, self.vectors, self.seeds = common, positions, vectors, seeds
        self.used = dict.fromkeys(vectors, 0)
        self.decoded = 0
        self.names: dict[tuple[str, bool], object] = {}  # (name, is a layer) -> whether it is itself stored

    def entry(self, record: _Fields) -> Entry:
        layer = "layer" in record.content
        name = record.get("layer" if layer else "name", str)
        record.what += f" ({_short(name)})"
        if (name, layer) in self.names:
            raise ValueError(f"{record.what}: the name occurs twice")
        if "same" in record.content:
            entry = self.same(record, name, layer)
        else:
            entry = self.layer(record, name) if layer else self.plain(record, name)
        self.names[name, layer] = not isinstance(entry, Same)
        return entry

    def same(self, record: _Fields, name: str, layer: bool) -> Same:
        record.only("layer" if layer else "name", "same")
        of = record.get("same", str)
        if not self.names.get((of, layer)):
            raise ValueError(f"{record.what}: same must be an earlier name, got {_short(of)}")
        return Same(name, of, layer)

    def plain(self, record: _Fields, name: str) -> Plain:
        record.only("name", "shape", "dtype", "init")
        tensor = self.take(record, record.shape(range(65), 0, 2**62))
        return Plain(name, tensor, record.get("init", str) if "init" in record.content else None)

    def layer(self, record: _Fields, name: str) -> Layer:
        record.only("layer", "shape", "kept", "code", "dtype", "frozen", "key", "basis", "axis", "groups", "linear")
        shape = record.shape((3,) if "basis" in record.content else (2, 4), 1, _MOST)
        kept = record.number("kept", 0, prod(shape))
        count = record.number("code", 0, len(self.positions) - self.decoded)
        code = self.positions[self.decoded : self.decoded + count]
        self.decoded += count
        values = self.take(record, (kept,))
        if not values.is_floating_point():
            raise ValueError(f"{record.what}: values must be floating-point numbers, got {values.dtype}")
        frozen = self.frozen(record, name, shape)
        if "basis" not in record.content:
            return Layer(name, shape, code, values, frozen)
        axis, groups = record.get("axis", str), record.number("groups", 1, _MOST)
        linear = "linear" in record.content and record.get("linear", bool)
        return Layer(name, shape, code, values, frozen, record.get("basis", str), axis, groups, linear)

    def frozen(self, record: _Fields, name: str, shape: tuple[int, ...]) -> Tensor | Draw | None:
        kind = record.content.get("frozen", self.common["frozen"])
        if kind is None:
            return None
        if kind == _STORED:
            return self.take(record, shape)
        if type(kind) is not int or not 0 <= kind < len(self.seeds):
            raise ValueError(f"{record.what}: frozen must be null, {_STORED!r} or the number of a seed, "
                             f"got {_short(kind)}")  # fmt: skip
        init, seed = self.seeds[kind]
        return Draw(init, seed, record.get("key", str) if "key" in record.content else name)

    def take(self, record: _Fields, shape: tuple[int, ...]) -> Tensor:
        dtype = record.content.get("dtype", self.common["dtype"])
        count, start = prod(shape), self.used.get(dtype, 0) if type(dtype) is str else 0
        if type(dtype) is not str or dtype not in DTYPES:
            raise ValueError(f"{record.what}: dtype must be one of {', '.join(DTYPES)}, got {_short(dtype)}")
        vector = self.vectors.get(dtype, torch.empty(0, dtype=DTYPES[dtype]))
        if count > vector.numel() - start:
            raise ValueError(f"{record.what}: {count} entries of {dtype} expected, {vector.numel() - start} are left")
        self.used[dtype] = start + count
        return vector[start : start + count].view(shape)

    def finish(self) -> None:
        left = {name: vector.numel() - self.used[name] for name, vector in self.vectors.items()}
        left["positions"] = len(self.positions) - self.decoded
        for name, count in left.items():
            if count:
                raise ValueError(f"layout: {count} entries of {name} belong to nothing")


def _check_names(entries: Sequence[Entry]) -> None:
    """No two entries may stand for one tensor of a state dict, be it a compressed or a plain model's."""
    names: set[str] = set()
    for entry in entries:
        layer = isinstance(entry, Layer) or (isinstance(entry, Same) and entry.layer)
        parts = ("weight", "values", "indices", "frozen") if layer else ()
        for name in [key_of(entry.name, part) for part in parts] or [entry.name]:
            if name in names:
                raise ValueError(f"layout: {_short(name)} occurs twice")
            names.add(name)


def _check_bases(entries: Sequence[Entry]) -> None:
    bases = {entry.name: entry.tensor for entry in entries if isinstance(entry, Plain) and entry.init is not None}
    idle = bases.keys() - {entry.basis for entry in entries if isinstance(entry, Layer)}
    if idle:
        raise ValueError(f"layout: filter basis {_short(min(idle))} belongs to no layer")
    for layer in entries:
        if isinstance(layer, Layer) and layer.basis is not None and not _fits(layer, bases.get(layer.basis)):
            got = tuple(bases[layer.basis].shape) if layer.basis in bases else "nothing"
            raise ValueError(
                f"layer {_short(layer.name)} of shape {layer.shape}, {layer.groups} groups and axis "
                f"{_short(layer.axis)} needs a filter basis that fits it, got {got}"
            )


def _fits(layer: Layer, elements: Tensor | None) -> bool:
    if elements is None or not elements.is_floating_point() or elements.dim() not in (3, 4) or 0 in elements.shape:
        return False
    n_bases = elements.shape[0] if elements.dim() == 4 else 1
    channels = {"in": layer.shape[1] * layer.groups, "out": layer.shape[0]}.get(layer.axis)
    divides = channels is not None and channels % n_bases == 0 and layer.shape[0] % layer.groups == 0
    rows = not layer.linear or (layer.groups == 1 and elements.shape[-2] == 1)
    return divides and rows and elements.shape[-3] == layer.shape[2]
