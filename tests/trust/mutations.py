"""Damage to files, decided by a seed."""

import random
from collections.abc import Sequence

HUGE = [b"\xff" * 8, b"\xff" * 4, b"\x7f" + b"\xff" * 7, b"\xff" * 7 + b"\x7f", b"\xff\xff\xff\x7f"]
HUGE += [b"\x7f\xff\xff\xff", (1 << 40).to_bytes(8, "little"), (1 << 40).to_bytes(8, "big"), b"999999999", b"-1"]


def mutated(data: bytes, others: Sequence[bytes], rng: random.Random) -> tuple[str, bytes]:
    """Something else than ``data``, and what was done; ``others`` are files to take parts of."""
    name, change = rng.choice(MUTATIONS)
    result = change(data, others, rng)
    return (name, result) if result != data else ("appended", data + b"\0")


def truncated(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: rng.choice([rng.randrange(len(data)), min(rng.randrange(64), len(data) - 1), len(data) - 1])]


def flipped(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        changed[place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def place(data: bytes, rng: random.Random) -> int:
    """Anywhere, or where headers and tables of contents are."""
    near = rng.randrange(min(len(data), 96))
    return rng.choice([rng.randrange(len(data)), near, -1 - near])


def overwritten(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start = place(data, rng) % len(data)
    number = rng.choice(HUGE)
    return data[:start] + number + data[start + len(number) :]


def swapped(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def spliced(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def repeated(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:end] + data[end:]


def blanked(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + bytes(end - start) + data[end:]


def inserted(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.randint(1, 9)) + data[start:]


_CHANGES = (truncated, flipped, flipped, overwritten, overwritten, swapped, spliced, repeated, blanked, inserted)
MUTATIONS = [(change.__name__, change) for change in _CHANGES]
