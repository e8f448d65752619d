"""Data sets: real layouts, splits, augmentation, and files that are missing, broken or hostile."""

import gzip
import os
import pickle
import struct
import sys

import numpy as np
import pytest
import torch

from fbconv import data
from fbconv.data import augment, load, read_idx

COUNT = {"train": 40, "t10k": 12}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def random_bytes(seed, *shape, high=256):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def mnist_files(compress):
    files = {}
    for seed, (part, count) in enumerate(COUNT.items()):
        arrays = {
            "images-idx3": random_bytes(seed, count, 28, 28),
            "labels-idx1": random_bytes(seed + 7, count, high=10),
        }
        for kind, array in arrays.items():
            name, content = f"{part}-{kind}-ubyte", idx(array)
            files[name + ".gz" * compress] = gzip.compress(content) if compress else content
    return files


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "."),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
def test_idx_layouts(tmp_path, name, folder, compress):
    write(tmp_path / folder, mnist_files(compress))
    loaded = load(name, tmp_path)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (36, 4, 12)
    assert torch.equal(loaded.test.images.squeeze(1), torch.from_numpy(random_bytes(1, 12, 28, 28)))
    assert torch.equal(loaded.test.labels, torch.from_numpy(random_bytes(8, 12, high=10)).long())
    assert not loaded.augmented


def test_split_is_a_partition_decided_by_the_seed(tmp_path):
    write(tmp_path, mnist_files(True))
    whole = sorted(image.tobytes() for image in random_bytes(0, 40, 28, 28))
    first, again, other = load("mnist", tmp_path, seed=1), load("mnist", tmp_path, seed=1), load("mnist", tmp_path, 2)
    both = torch.cat([first.train.images, first.validation.images])
    assert sorted(image.numpy().tobytes() for image in both) == whole
    assert torch.equal(first.validation.images, again.validation.images)
    assert not torch.equal(first.validation.images, other.validation.images)
    assert torch.equal(first.test.images, other.test.images)


def test_normalisation_by_the_training_split(tmp_path):
    write(tmp_path, mnist_files(True))
    loaded = load("mnist", tmp_path)
    pixels = loaded.train.images.double()
    assert loaded.mean.item() == pytest.approx(pixels.mean().item(), rel=1e-6)
    assert loaded.std.item() == pytest.approx(pixels.std(correction=0).item(), rel=1e-6)
    normal = loaded.normalise(loaded.train.images)
    assert normal.dtype == torch.float32
    assert normal.mean().item() == pytest.approx(0, abs=1e-4)
    assert normal.std().item() == pytest.approx(1, abs=1e-4)


def test_a_constant_image_set_normalises_to_zero(tmp_path):
    files = mnist_files(False)
    files["train-images-idx3-ubyte"] = idx(np.full((40, 28, 28), 9, np.uint8))
    write(tmp_path, files)
    loaded = load("mnist", tmp_path)
    assert not loaded.normalise(loaded.train.images).any()


def test_digits():
    loaded = load("digits")
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (1295, 143, 359)
    assert loaded.train.images.shape[1:] == (1, 28, 28)
    assert loaded.train.images.dtype == torch.uint8
    assert loaded.test.labels.bincount(minlength=10).min() > 20
    other = load("digits", seed=5)
    assert torch.equal(loaded.test.images, other.test.images)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "fbconv\[train\]"'):
        load("digits")


def cifar_batches():
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        yield name, random_bytes(seed, 4, 3072), random_bytes(seed + 50, 4, high=10)


def python2_pickle(pixels, labels):
    """What Python 2's cPickle wrote: byte strings as SHORT_BINSTRING and BINSTRING, protocol 2."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN" + 2 * b"J\xff\xff\xff\xff"
    dtype += b"K\x00tb"
    shape = b"".join(b"M" + struct.pack("<H", n) for n in pixels.shape) + b"\x86"
    raw = b"T" + struct.pack("<i", pixels.size) + pixels.tobytes()
    state = b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + state + text(b"labels") + numbers + b"u."


def python3_pickle(protocol):
    def dump(pixels, labels):
        return pickle.dumps({b"data": pixels, b"labels": labels.tolist(), b"filenames": [b"a.png"]}, protocol)

    return dump


@pytest.mark.parametrize(
    "dump", [python2_pickle, python3_pickle(2), python3_pickle(4)], ids=["python2", "protocol2", "protocol4"]
)
def test_cifar_python_layout(tmp_path, dump):
    write(tmp_path / "cifar-10-batches-py", {name: dump(*rest) for name, *rest in cifar_batches()})
    check_cifar(load("cifar10", tmp_path))


def test_python2_pickle_is_what_numpy_reads():
    _, pixels, labels = next(cifar_batches())
    assert np.array_equal(pickle.loads(python2_pickle(pixels, labels), encoding="bytes")[b"data"], pixels)


@pytest.mark.parametrize("folder", ["cifar-10-batches-bin", "."])
def test_cifar_binary_layout(tmp_path, folder):
    files = {f"{name}.bin": np.hstack([labels[:, None], pixels]).tobytes() for name, pixels, labels in cifar_batches()}
    write(tmp_path / folder, files)
    check_cifar(load("cifar10", tmp_path))


def check_cifar(loaded):
    batches = list(cifar_batches())
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (18, 2, 4)
    assert loaded.augmented
    assert torch.equal(loaded.test.images, torch.from_numpy(batches[-1][1]).view(4, 3, 32, 32))
    assert loaded.test.labels.tolist() == batches[-1][2].tolist()
    known = {}
    for _, pixels, labels in batches[:-1]:
        known |= {image.tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    for split in (loaded.train, loaded.validation):
        for image, label in zip(split.images, split.labels, strict=True):
            assert known[image.numpy().tobytes()] == label


def test_missing_files_are_listed_with_their_folder(tmp_path):
    files = mnist_files(True)
    del files["train-labels-idx1-ubyte.gz"]
    write(tmp_path / "mnist", files)
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist", tmp_path)
    message = str(caught.value)
    assert f"{tmp_path / 'mnist'}: missing train-labels-idx1-ubyte[.gz]\n" in message
    assert str(tmp_path / "MNIST" / "raw") in message


def test_missing_cifar_names_both_layouts(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"data_batch_1\.bin.*(?s:.*)cifar-10-batches-py: missing data_batch_1,"
    ):
        load("cifar10", tmp_path)


def test_unknown_name():
    with pytest.raises(ValueError, match="one of digits, mnist, fashion-mnist, cifar10, got 'svhn'"):
        load("svhn")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must begin with 00 00 08 and a rank of 1 to 4, got nothing"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", "got 00 00 0d 01"),
        (b"\x00\x00\x08\x05" + bytes(20), "rank of 1 to 4"),
        (b"\x00\x00\x08\x03\x00\x00", "must name 3 sizes, got 2 bytes"),
        (b"\x00\x00\x08\x02" + 8 * b"\xff" + bytes(9), "more than the file can hold"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abc", "promises 5 bytes .*got 3 bytes"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x02abc", "promises 2 bytes .*got more"),
    ],
)
@pytest.mark.parametrize("compress", [True, False])
def test_malformed_idx(tmp_path, content, message, compress):
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(ValueError, match=message):
        read_idx(path)


def test_idx_claim_is_checked_before_anything_is_allocated(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x02" + struct.pack(">II", 1 << 31, 1 << 31)))
    largest = []
    real = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size: largest.append(size) or real(self, size))
    with pytest.raises(ValueError, match="more than the file can hold"):
        read_idx(path)
    assert max(largest) == 8


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_broken_gzip(tmp_path, damage):
    content = bytearray(gzip.compress(idx(random_bytes(0, 1000))))
    if damage == "cut":
        del content[-30:]
    else:
        content[len(content) // 2] ^= 0xFF
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken gzip file"):
        read_idx(path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-images-idx3-ubyte", random_bytes(0, 40, 28, 27), r"shape \(N, 28, 28\), got \(40, 28, 27\)"),
        ("train-labels-idx1-ubyte", random_bytes(0, 39, high=10), r"40 images of train-images.*got shape \(39,\)"),
        ("t10k-labels-idx1-ubyte", np.full(12, 10, np.uint8), r"labels must be in 0\.\.9, got 10"),
        ("t10k-labels-idx1-ubyte", random_bytes(0, 12, 1, high=10), r"got shape \(12, 1\)"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path, name, array, message):
    write(tmp_path, mnist_files(False) | {name: idx(array)})
    with pytest.raises(ValueError, match=message):
        load("mnist", tmp_path)


def test_too_few_images(tmp_path):
    few = {
        "train-images-idx3-ubyte": idx(random_bytes(0, 9, 28, 28)),
        "train-labels-idx1-ubyte": idx(np.zeros(9, "u1")),
    }
    write(tmp_path, mnist_files(False) | few)
    with pytest.raises(ValueError, match="at least 10 training images and a test image, got 9 and 12"):
        load("mnist", tmp_path)


def test_cifar_binary_of_a_wrong_size(tmp_path):
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    write(tmp_path, dict.fromkeys(names, bytes(3073 * 2 + 1)))
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: size must be a multiple of 3073 bytes, got 6147"):
        load("cifar10", tmp_path)


class Attack:
    """Unpickled by anything that calls what it is told to, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def build_attack(target):
    """Give an allowed name new attributes through BUILD: a known way to change a class while unpickling."""
    return b"\x80\x02cnumpy\nndarray\n}X\x04\x00\x00\x00args" + pickle.dumps(target, 0)[:-1] + b"sb."


def hostile(target):
    pixels, labels = random_bytes(0, 4, 3072), [0, 1, 2, 3]
    good = {b"data": pixels, b"labels": labels}
    return {
        "calls a function": pickle.dumps({**good, b"more": Attack(target)}, 2),
        "calls a builtin": b"cbuiltins\neval\n(S'1'\ntR.",
        "imports by dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.",
        "changes an allowed class": build_attack(str(target)),
        "promises a huge string": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
        "asks for a huge memo": b"\x80\x02Nr" + struct.pack("<I", 0xFFFFFFF0) + b"\x8e.",
        "is cut": pickle.dumps(good, 2)[:-100],
        "is empty": b"",
        "is no pickle": b"\xff" * 40,
        "is no dictionary": pickle.dumps([1, 2], 2),
        "lacks labels": pickle.dumps({b"data": pixels}, 2),
        "has floats": pickle.dumps({b"data": pixels.astype(np.float32), b"labels": labels}, 2),
        "has objects": pickle.dumps({b"data": np.array([[None] * 3072]), b"labels": [0]}, 2),
        "has another width": pickle.dumps({b"data": pixels[:, 1:].copy(), b"labels": labels}, 2),
        "has too few bytes": python2_pickle(pixels, labels).replace(b"M\x04\x00", b"M\x05\x00", 1),
        "is in Fortran order": pickle.dumps({b"data": np.asfortranarray(pixels), b"labels": labels}, 2),
        "has too few labels": pickle.dumps({b"data": pixels, b"labels": [1, 2]}, 2),
        "has a label too large": pickle.dumps({b"data": pixels, b"labels": [1, 2, 3, 10]}, 2),
        "has a negative label": pickle.dumps({b"data": pixels, b"labels": [1, 2, 3, -1]}, 2),
    }


@pytest.mark.parametrize("how", list(hostile("x")))
def test_hostile_and_broken_pickles(tmp_path, how):
    target = tmp_path / "made-by-the-attack"
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    write(tmp_path / "cifar-10-batches-py", dict.fromkeys(names, hostile(target)[how]))
    with pytest.raises(ValueError, match=r"data_batch_1: (not a CIFAR-10 batch|labels|there must be)"):
        load("cifar10", tmp_path)
    assert not target.exists()
    assert set(vars(data._Inert)) >= {"__setstate__"}
    assert "args" not in vars(data._Inert)


def test_the_attack_works_on_an_ordinary_unpickler(tmp_path):
    target = tmp_path / "made-by-the-attack"
    pickle.loads(pickle.dumps(Attack(target), 2))
    assert target.exists()


@pytest.fixture
def small(tmp_path):
    write(tmp_path, mnist_files(True))
    return load("mnist", tmp_path)


def test_batches_are_a_shuffle_decided_by_the_generator(small):
    seen = torch.cat([inputs for inputs, _ in small.training_batches(9, generator(1))])
    again = torch.cat([inputs for inputs, _ in small.training_batches(9, generator(1))])
    other = torch.cat([inputs for inputs, _ in small.training_batches(9, generator(2))])
    whole = small.normalise(small.train.images)
    assert torch.equal(seen, again)
    assert not torch.equal(seen, other)
    assert torch.equal(seen.flatten(1).sum(1).sort()[0], whole.flatten(1).sum(1).sort()[0])


def test_labels_stay_with_their_images(small):
    images = small.normalise(small.train.images)
    labels = {image.numpy().tobytes(): int(label) for image, label in zip(images, small.train.labels, strict=True)}
    for inputs, targets in small.training_batches(10, generator()):
        assert [labels[image.numpy().tobytes()] for image in inputs] == targets.tolist()


@pytest.mark.parametrize(("batch_size", "sizes"), [(9, [9] * 4), (10, [10] * 3), (36, [36]), (50, [36])])
def test_the_incomplete_batch_is_left_out_unless_alone(small, batch_size, sizes):
    assert [len(labels) for _, labels in small.training_batches(batch_size, generator())] == sizes


def test_augmentation_is_flips_and_shifts_with_zeros():
    images = torch.from_numpy(random_bytes(3, 200, 3, 8, 8)) | 1
    result = augment(images, generator(), shift=2)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for i, image in enumerate(result):
        variants = {
            (mirrored, top, left): (padded[i].flip(2) if mirrored else padded[i])[:, top : top + 8, left : left + 8]
            for mirrored in (False, True)
            for top in range(5)
            for left in range(5)
        }
        matching = [key for key, variant in variants.items() if torch.equal(variant, image)]
        assert len(matching) == 1
        seen.add(matching[0])
    assert {key[0] for key in seen} == {False, True}
    assert {key[1] for key in seen} == {key[2] for key in seen} == set(range(5))


def test_augmentation_is_decided_by_the_generator():
    images = torch.from_numpy(random_bytes(3, 20, 3, 32, 32))
    assert torch.equal(augment(images, generator(1)), augment(images, generator(1)))
    assert not torch.equal(augment(images, generator(1)), augment(images, generator(2)))


def test_only_cifar_is_augmented(tmp_path):
    files = {f"{name}.bin": np.hstack([labels[:, None], pixels]).tobytes() for name, pixels, labels in cifar_batches()}
    write(tmp_path, files)
    loaded = load("cifar10", tmp_path)
    originals = {image.numpy().tobytes() for image in loaded.normalise(loaded.train.images)}
    moved = [image for inputs, _ in loaded.training_batches(6, generator()) for image in inputs]
    assert sum(image.numpy().tobytes() not in originals for image in moved) > 12
