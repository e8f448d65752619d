"""The file itself: a safetensors file with a layout, the coded positions and one vector for each dtype."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..experiment import replacing
from ..initialisation import GENERATOR, INITS, Draw
from .entries import Entry, Layer, Plain, Same, tensors
from .layout import DTYPES, dump, parse, seeds_of

FORMAT, VERSION = "fbconv", "1"
_UNKNOWN = "0" * 32  # in the place of the checksum while it is computed


@dataclass(frozen=True)
class File:
    """A file as it was read.

    Attributes:
        entries: what it holds.
        size: its bytes.
        metadata: format, version, checksum and, if frozen weights were drawn, seed, init, generator and drawn.
    """

    entries: list[Entry]
    size: int
    metadata: Mapping[str, str]

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor outside of compressed layers; shared ones under each of their names."""
        found: dict[str, Tensor] = {}
        for entry in self.entries:
            if isinstance(entry, Plain):
                found[entry.name] = entry.tensor
            elif isinstance(entry, Same) and not entry.layer:
                found[entry.name] = found[entry.of]
        return found

    def layers(self) -> dict[str, Layer]:
        """Name -> compressed layer; shared ones under each of their names."""
        found: dict[str, Layer] = {}
        for entry in self.entries:
            if isinstance(entry, Layer):
                found[entry.name] = entry
            elif isinstance(entry, Same) and entry.layer:
                found[entry.name] = replace(found[entry.of], name=entry.name)
        return found

    def frozen_weights(self) -> dict[str, Tensor]:
        """Layer name -> frozen weights, stored or drawn, of the dtype of the layer's values.

        Raises:
            ValueError: if the drawn ones are not those that the file was written with.
        """
        layers = [entry for entry in self.entries if isinstance(entry, Layer) and entry.frozen is not None]
        frozen, checksum = {}, 0
        for layer in layers:
            weights = layer.frozen
            if isinstance(weights, Draw):
                weights = weights.tensor(layer.shape)
                checksum = checksum_of(weights, checksum)
                weights = weights.to(layer.values.dtype)
            frozen[layer.name] = weights
        if "seed" in self.metadata and f"{checksum:08x}" != self.metadata.get("drawn"):
            raise ValueError(
                f"the frozen weights that seed {self.metadata['seed']} gives here have checksum {checksum:08x}, "
                f"those of the file {self.metadata.get('drawn')}: another generator"
            )
        for entry in self.entries:
            if isinstance(entry, Same) and entry.layer and entry.of in frozen:
                frozen[entry.name] = frozen[entry.of]
        return frozen


def checksum_of(weights: Tensor, before: int = 0) -> int:
    """CRC-32 of float32 weights, going on from another."""
    return zlib.crc32(weights.contiguous().numpy(), before)


def write(path: Path, entries: Sequence[Entry]) -> int:
    """Writes a file, whole or not at all, the same bytes for the same entries; their number.

    Raises:
        ValueError: for a tensor that files cannot hold.
    """
    parts: dict[str, list[Tensor]] = {}
    for entry in entries:
        for tensor in tensors(entry):
            parts.setdefault(str(tensor.dtype).removeprefix("torch."), []).append(tensor.detach().cpu().reshape(-1))
    content = {"layout": _vector(dump(entries))}
    content["positions"] = _vector(b"".join(entry.code for entry in entries if isinstance(entry, Layer)))
    content |= {name: torch.cat(vectors) for name, vectors in parts.items()}
    content = {name: vector for name, vector in content.items() if vector.numel()}
    data = sealed(content, _metadata(entries))
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return len(data)


def _vector(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _metadata(entries: Sequence[Entry]) -> dict[str, str]:
    metadata = {"format": FORMAT, "version": VERSION}
    seeds = seeds_of(entries)
    if not seeds:
        return metadata
    checksum = 0
    for entry in entries:
        if isinstance(entry, Layer) and isinstance(entry.frozen, Draw):
            checksum = checksum_of(entry.frozen.tensor(entry.shape), checksum)
    metadata |= {"init": " ".join(init for init, _ in seeds), "seed": " ".join(str(seed) for _, seed in seeds)}
    return metadata | {"generator": GENERATOR, "drawn": f"{checksum:08x}"}


def sealed(content: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file whose metadata hold the checksum of all of its bytes."""
    return _sealed(save_tensors(dict(content), {**metadata, "checksum": _UNKNOWN}))


def check_seal(data: bytes) -> None:
    """Refuses a safetensors file that is not as :func:`sealed` wrote it.

    Raises:
        ValueError: if it was altered.
    """
    checksum = metadata_of(data).get("checksum", "")
    unsealed = data.replace(checksum.encode(), _UNKNOWN.encode(), 1)
    if len(checksum) != len(_UNKNOWN) or _digest(unsealed) != checksum:
        raise ValueError("the checksum does not fit the content: the file was altered")


def _header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def _header(data: bytes) -> dict[str, object]:
    return json.loads(data[8 : _header_end(data)])


def _sealed(data: bytes) -> bytes:
    """The file with its metadata in order (safetensors has none) and the checksum of all of its bytes."""
    end, header = _header_end(data), _header(data)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    data = data[:8] + text.ljust(end - 8) + data[end:]
    return data.replace(_UNKNOWN.encode(), _digest(data).encode(), 1)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read(path: Path) -> File:
    """Reads and checks a file; runs nothing from it.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming the file, if it is of another format, damaged, or not what it says.
    """
    return parse_file(path, path.read_bytes())


def parse_file(path: Path, data: bytes) -> File:
    """As :func:`read`, for bytes from ``path``."""
    try:
        content, metadata = _content(data)
        entries = parse(
            layout=content.pop("layout").numpy().tobytes(),
            positions=content.pop("positions", _vector(b"")).numpy().tobytes(),
            vectors=content,
            seeds=_seeds(metadata),
        )
        file = File(entries, len(data), metadata)
        _check_scales(file)
        return file
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_scales(file: File) -> None:
    """What frozen weights are multiplied by is one number, and there are such weights."""
    state = file.tensors()
    for layer in file.layers().values():
        scale = state.get(key := layer.key("frozen_scale"))
        if scale is None:
            continue
        if layer.frozen is None:
            raise ValueError(f"{key}: must belong to frozen weights, got a layer without")
        if scale.dim() or not scale.is_floating_point():
            raise ValueError(f"{key}: must be one floating-point number, got {scale.dtype} of shape "
                             f"{tuple(scale.shape)}")  # fmt: skip


def is_ours(data: bytes) -> bool:
    """Whether bytes that are a safetensors file say that they are of this format."""
    return metadata_of(data).get("format") == FORMAT


def metadata_of(data: bytes) -> dict[str, str]:
    """The metadata of bytes that are a safetensors file."""
    metadata = _header(data).get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def _content(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        content = load_tensors(data)
        metadata = metadata_of(data)
    except Exception as error:  # whatever a broken file makes the library raise
        raise ValueError(f"not a whole safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"not a file of {FORMAT}: its format is {metadata.get('format')!r}")
    if metadata.get("version") != VERSION:
        raise ValueError(f"version must be {VERSION}, got {metadata.get('version')!r}")
    check_seal(data)
    for name, tensor in content.items():
        dtype = torch.uint8 if name in ("layout", "positions") else DTYPES.get(name)
        if tensor.dim() != 1 or tensor.dtype != dtype:
            raise ValueError(f"unexpected tensor {name!r}, {tensor.dtype} of shape {tuple(tensor.shape)}")
    if "layout" not in content:
        raise ValueError("no layout")
    return content, metadata


def _seeds(metadata: Mapping[str, str]) -> list[tuple[str, int]]:
    if "seed" not in metadata:
        return []
    generator, inits, seeds = (metadata.get(key, "") for key in ("generator", "init", "seed"))
    if generator != GENERATOR:
        raise ValueError(f"generator must be {GENERATOR}, got {generator!r}: frozen weights cannot be drawn again")
    inits, seeds = inits.split(" "), seeds.split(" ")
    valid = all(init in INITS for init in inits) and all(
        seed.isascii() and seed.isdigit() and len(seed) <= 10 and int(seed) < 2**32 for seed in seeds
    )
    if not valid or len(inits) != len(seeds):
        raise ValueError(f"metadata: init {' '.join(inits)[:80]!r} and seed {' '.join(seeds)[:80]!r} do not name draws")
    return [(init, int(seed)) for init, seed in zip(inits, seeds, strict=True)]
