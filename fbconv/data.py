"""Image data sets as tensors: read, checked, split, normalised and cut into batches without worker processes."""

import gzip
import io
import math
import pickle
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import BYTEARRAY8
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Deflate cannot expand more than this; a header that claims more is wrong, and nothing is allocated for it.
_DEFLATE_LIMIT = 1032
_CIFAR_PIXELS = 3 * 32 * 32
_CIFAR_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))


@dataclass(frozen=True)
class Split:
    """Images ``(N, C, H, W)`` as uint8 and labels ``(N,)`` as int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> "Split":
        """The listed images, in that order."""
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> "Split":
        """The same images on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DataSet:
    """A data set ready for training.

    Attributes:
        name: as given to :func:`load`.
        num_classes: labels are in ``[0, num_classes)``.
        augmented: whether training images are flipped and shifted.
        train, validation, test: the splits; pixels stay bytes, a quarter of the memory of floats.
        mean, std: ``(C, 1, 1)`` float32, of the training split's bytes.
    """

    name: str
    num_classes: int
    augmented: bool
    train: Split
    validation: Split
    test: Split
    mean: Tensor
    std: Tensor

    def to(self, device: torch.device | str) -> "DataSet":
        """The same data set with all tensors on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("train", "validation", "test", "mean", "std")}
        return replace(self, **moved)

    def normalise(self, images: Tensor) -> Tensor:
        """Bytes to float32 of mean 0 and standard deviation 1 (over the training split, per colour)."""
        return (images.to(torch.float32) - self.mean) / self.std

    def training_batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled (and, where the set asks for it, augmented) ``(inputs, labels)`` of the training split.

        The incomplete last batch is left out unless it is the only one: a batch of one image has no batch statistics.
        """
        order = torch.randperm(len(self.train), generator=generator)
        for i in range(max(1, len(self.train) // batch_size)):
            batch = self.train.subset(order[i * batch_size : (i + 1) * batch_size].to(self.train.labels.device))
            images = augment(batch.images, generator) if self.augmented else batch.images
            yield self.normalise(images), batch.labels


def augment(images: Tensor, generator: torch.Generator, shift: int = 4) -> Tensor:
    """Mirror each image with chance 1/2 and shift it by up to ``shift`` pixels, filling with zeros.

    Args:
        images: ``(N, C, H, W)``, any dtype.
        generator: on the CPU.
        shift: largest shift in pixels, in each direction.

    Source:
        He et al. 2016, section 4.2.

    Example:
        >>> augment(torch.ones(1, 3, 32, 32), torch.Generator().manual_seed(0)).shape
        torch.Size([1, 3, 32, 32])
    """
    count, channels, height, width = images.shape
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    top, left = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (shift,) * 4)
    image = torch.arange(count).view(-1, 1, 1, 1)
    channel = torch.arange(channels).view(1, -1, 1, 1)
    index = (image, channel, rows.view(count, 1, height, 1), columns.view(count, 1, 1, width))
    return padded[tuple(i.to(images.device) for i in index)]


def load(name: str, data_dir: str | Path = "data", seed: int = 0) -> DataSet:
    """Read a data set and split its training images 9 to 1 into training and validation.

    ``digits`` (scikit-learn's 1,797 digits, enlarged to 28 x 28; every fifth image is a test image) needs no files.
    ``mnist`` and ``fashion-mnist`` are four IDX files, compressed or not; ``cifar10`` is six batch files in the
    binary or in the Python layout, flipped and shifted in training. No code in a file is ever run.

    Args:
        name: a key of :data:`DATA_SETS`.
        data_dir: where the files, or the folders that hold them, are.
        seed: of the split.

    Raises:
        ValueError: unknown name, or a malformed file.
        FileNotFoundError: with the list of the files that are expected, and where.
        ModuleNotFoundError: for digits, without scikit-learn.

    Example:
        >>> load("digits").train.images.shape
        torch.Size([1295, 1, 28, 28])
    """
    if name not in DATA_SETS:
        raise ValueError(f"load: name must be one of {', '.join(DATA_SETS)}, got {name!r}")
    known, test = DATA_SETS[name](Path(data_dir))
    if len(known) < 10 or len(test) == 0:
        got = f"{len(known)} and {len(test)}"
        raise ValueError(f"load: {name} must have at least 10 training images and a test image, got {got}")
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    held_out = len(known) // 10
    train = known.subset(order[held_out:])
    mean, std = _moments(train.images)
    return DataSet(name, 10, name == "cifar10", train, known.subset(order[:held_out]), test, mean, std)


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per colour, from exact integer histograms."""
    colours = images.transpose(0, 1).flatten(1)
    levels = torch.arange(256, dtype=torch.float64)
    share = torch.stack([torch.bincount(colour, minlength=256) for colour in colours]).double() / colours.shape[1]
    mean = share @ levels
    std = (share @ levels.square() - mean.square()).clamp_min(0).sqrt()
    # A colour that never changes says nothing, whatever it is divided by.
    std = torch.where(std > 0, std, torch.ones_like(std))
    return mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1)


def _digits(_: Path) -> tuple[Split, Split]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('digits need scikit-learn: pip install "fbconv[train]"') from error
    pixels, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) * (255 / 16)
    images = F.interpolate(small, size=(28, 28), mode="bilinear").round().to(torch.uint8)
    whole = Split(images, torch.from_numpy(labels).long())
    is_test = torch.arange(len(whole)) % 5 == 4
    return whole.subset(~is_test), whole.subset(is_test)


def _idx_data(folders: tuple[str, ...]) -> Callable[[Path], tuple[Split, Split]]:
    def read(root: Path) -> tuple[Split, Split]:
        names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
        images, labels, test_images, test_labels = _find(root, dict.fromkeys(folders, names), ("", ".gz"))
        return _idx_split(images, labels), _idx_split(test_images, test_labels)

    return read


def _idx_split(image_path: Path, label_path: Path) -> Split:
    images, labels = read_idx(image_path), read_idx(label_path)
    if images.dim() != 3 or images.shape[1:] != (28, 28):
        raise ValueError(f"{image_path}: images must have shape (N, 28, 28), got {tuple(images.shape)}")
    return _checked(image_path, images.unsqueeze(1), label_path, labels)


def _checked(image_path: Path, images: Tensor, label_path: Path, labels: Tensor) -> Split:
    if labels.shape != images.shape[:1]:
        expected = f"one label for each of the {len(images)} images of {image_path.name}"
        raise ValueError(f"{label_path}: there must be {expected}, got shape {tuple(labels.shape)}")
    if len(labels) and int(labels.max()) > 9:
        raise ValueError(f"{label_path}: labels must be in 0..9, got {int(labels.max())}")
    return Split(images, labels.long())


def read_idx(path: Path) -> Tensor:
    """An IDX file of unsigned bytes, gzip-compressed or not, as a uint8 tensor of its shape.

    Raises:
        ValueError: if the file is not what its header says; sizes are checked before anything is allocated.

    Source:
        the format's description in LeCun's MNIST page: magic ``0 0 8 rank``, big-endian sizes, bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if compressed else path.open("rb") as stream:
        try:
            return _parse_idx(path, stream, size * _DEFLATE_LIMIT if compressed else size)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: broken gzip file: {error}") from error


def _parse_idx(path: Path, stream: io.BufferedIOBase, limit: int) -> Tensor:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:3] != b"\x00\x00\x08" or not 1 <= magic[3] <= 4:
        got = magic.hex(" ") or "nothing"
        raise ValueError(f"{path}: an IDX file of bytes must begin with 00 00 08 and a rank of 1 to 4, got {got}")
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise ValueError(f"{path}: the header must name {magic[3]} sizes, got {len(header)} bytes")
    shape = struct.unpack(f">{magic[3]}I", header)
    count = math.prod(shape)
    if count > limit:
        raise ValueError(f"{path}: the header promises {count} bytes (shape {shape}), more than the file can hold")
    content = stream.read(count + 1)
    if len(content) != count:
        got = f"{len(content)} bytes" if len(content) < count else "more"
        raise ValueError(f"{path}: the header promises {count} bytes (shape {shape}), got {got}")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy()).view(shape)


def _cifar10(root: Path) -> tuple[Split, Split]:
    binary, python = "cifar-10-batches-bin", "cifar-10-batches-py"
    names = (*_CIFAR_TRAIN, "test_batch")
    paths = _find(root, {binary: [f"{name}.bin" for name in names], python: list(names)}, ("",))
    parts = [_cifar_binary(path) if path.suffix == ".bin" else _cifar_python(path) for path in paths]
    train = Split(torch.cat([part.images for part in parts[:-1]]), torch.cat([part.labels for part in parts[:-1]]))
    return train, parts[-1]


def _cifar_binary(path: Path) -> Split:
    record = 1 + _CIFAR_PIXELS
    size = path.stat().st_size
    if size % record:
        raise ValueError(f"{path}: size must be a multiple of {record} bytes, got {size}")
    rows = torch.from_numpy(np.fromfile(path, dtype=np.uint8)).view(-1, record)
    return _checked(path, rows[:, 1:].reshape(-1, 3, 32, 32), path, rows[:, 0])


class _Inert:
    """What every name of a batch pickle becomes: it holds what it is given and does nothing."""

    def __init__(self, *args: object) -> None:
        self.args = args

    def __setstate__(self, state: object) -> None:
        self.state = state


# The Python unpickler: the C one allocates whatever length or memo index a file claims.
class _InertUnpickler(pickle._Unpickler):
    """Reads data, runs nothing: only the four names that numpy writes are known, and none of them is called."""

    allowed = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> type[_Inert]:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return _Inert

    # A byte array is as long as the file claims before it is read; no writer of these files uses one.
    dispatch: ClassVar = {code: read for code, read in pickle._Unpickler.dispatch.items() if code != BYTEARRAY8[0]}


def _cifar_python(path: Path) -> Split:
    try:
        content = _InertUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        batch = {_byte_string(key): value for key, value in content.items()}
        images, labels = _pickled_array(batch[b"data"]), _pickled_labels(batch[b"labels"])
    except Exception as error:  # whatever a broken pickle may raise
        raise ValueError(f"{path}: not a CIFAR-10 batch: {error!r}") from error
    return _checked(path, images.view(-1, 3, 32, 32), path, labels)


def _byte_string(value: bytes | str | _Inert) -> bytes:
    """Bytes, as Python 2 wrote them, as text, or as Python 3 writes them in old protocols: text to encode."""
    text = value.args[0] if isinstance(value, _Inert) else value
    return text.encode("latin-1") if isinstance(text, str) else text


# Lists and tuples of a pickle may hold one another many times over: as an array, or in a message, they would be far
# larger than the file.
def _pickled_labels(labels: object) -> Tensor:
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label <= 255 for label in labels):
        raise ValueError("labels must be a list of numbers in 0..9")
    return torch.tensor(labels, dtype=torch.int64)


def _pickled_array(array: _Inert) -> Tensor:
    """``(N, 3072)`` uint8, from the state that numpy writes: version, shape, dtype, Fortran order, bytes."""
    _, shape, dtype, fortran, raw = array.state
    kind, raw = _byte_string(dtype.args[0]), _byte_string(raw)
    numbers = isinstance(shape, tuple) and len(shape) == 2 and all(type(size) is int for size in shape)
    if kind != b"u1" or fortran or not numbers or shape[1] != _CIFAR_PIXELS:
        got = f"{kind[:9]!r} of shape {shape if numbers else 'unknown'}"
        raise ValueError(f"data must be uint8 of shape (N, {_CIFAR_PIXELS}), got {got}")
    if len(raw) != math.prod(shape):
        raise ValueError(f"data must hold {math.prod(shape)} bytes, got {len(raw)}")
    return torch.from_numpy(np.frombuffer(raw, dtype=np.uint8).copy()).view(shape)


def _find(root: Path, layouts: dict[str, list[str]], suffixes: tuple[str, ...]) -> list[Path]:
    """The files of the first complete layout (folder -> names), in or directly at ``root``."""
    folders = [(root / folder, names) for folder, names in layouts.items()]
    folders += [(root, names) for names in {tuple(names): None for names in layouts.values()}]
    missing = []
    for folder, names in folders:
        found = [next((folder / (n + s) for s in suffixes if (folder / (n + s)).is_file()), None) for n in names]
        if all(found):
            return found
        either = "".join(f"[{suffix}]" for suffix in suffixes if suffix)
        absent = [name + either for name, path in zip(names, found, strict=True) if path is None]
        missing.append(f"  {folder}: missing {', '.join(absent)}")
    raise FileNotFoundError("\n".join(["data files not found; one of these folders must have them all:", *missing]))


DATA_SETS: dict[str, Callable[[Path], tuple[Split, Split]]] = {
    "digits": _digits,
    "mnist": _idx_data(("mnist", "MNIST/raw")),
    "fashion-mnist": _idx_data(("fashion-mnist", "FashionMNIST/raw")),
    "cifar10": _cifar10,
}
