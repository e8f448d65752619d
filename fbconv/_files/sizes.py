"""What a file's parts weigh, beside other ways to store the same."""

from __future__ import annotations

from collections.abc import Sequence

from ..initialisation import Draw
from .container import File
from .entries import Layer, Plain, tensors
from .positions import entropy_bits


def describe(file: File) -> dict[str, object]:
    """Layers, totals and origin of a file, for JSON.

    ``layers`` has for each compressed layer its name, shape, weights, kept, density, what stands ``elsewhere`` (zero,
    drawn or stored), bytes (of values, positions and stored frozen weights), and of the position of one kept weight
    the bits here, at best (``log2(weights choose kept) / kept``), in CSR with int32 columns and row pointers, and in a
    bitmap: all None if none is kept. ``bytes`` has the file's, what they would be with CSR or bitmap positions, and
    those of the plain model in float32. ``position`` has the bits of all layers together, empty ones included.
    """
    layers = [entry for entry in file.entries if isinstance(entry, Layer)]
    rest = [entry.tensor for entry in file.entries if isinstance(entry, Plain)]
    codes = sum(len(layer.code) for layer in layers)
    dtypes = {str(t.dtype).removeprefix("torch.") for entry in file.entries for t in tensors(entry)}
    origin = {key: file.metadata.get(key) for key in ("init", "seed", "generator")}
    return {
        "format": f"{file.metadata['format']} {file.metadata['version']}",
        "checksum": file.metadata["checksum"],
        "dtypes": sorted(dtypes),
        **origin,
        "weights": sum(layer.size for layer in layers),
        "kept": sum(layer.kept for layer in layers),
        "layers": [_layer(layer) for layer in layers],
        "position": _position(layers),
        "other_tensors": {"entries": sum(t.numel() for t in rest), "bytes": sum(t.nbytes for t in rest)},
        "bytes": {
            "file": file.size,
            "with_csr": file.size - codes + sum(map(_csr_bytes, layers)),
            "with_bitmap": file.size - codes + sum(map(_bitmap_bytes, layers)),
            "dense_float32": 4 * (sum(layer.size for layer in layers) + sum(t.numel() for t in rest)),
        },
    }


def _layer(layer: Layer) -> dict[str, object]:
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "weights": layer.size,
        "kept": layer.kept,
        "density": layer.kept / layer.size,
        "elsewhere": "zero" if layer.frozen is None else "drawn" if isinstance(layer.frozen, Draw) else "stored",
        "bytes": len(layer.code) + sum(tensor.nbytes for tensor in tensors(layer)),
        "position": _position([layer]),
    }


def _position(layers: Sequence[Layer]) -> dict[str, float | None]:
    """Bits for each kept weight's position; None where none is kept."""
    kept = sum(layer.kept for layer in layers)
    sizes = {
        "bits": sum(8 * len(layer.code) for layer in layers),
        "bound_bits": sum(entropy_bits(layer.kept, layer.size) for layer in layers),
        "csr_bits": sum(8 * _csr_bytes(layer) for layer in layers),
        "bitmap_bits": sum(layer.size for layer in layers),
    }
    return {name: bits / kept if kept else None for name, bits in sizes.items()}


def _csr_bytes(layer: Layer) -> int:
    return 4 * (layer.kept + layer.shape[0] + 1)


def _bitmap_bytes(layer: Layer) -> int:
    return (layer.size + 7) // 8
