"""Files of ``torch.save``, of which torch believes every byte but those that could run."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch


def load_torch(path: Path) -> object:
    """What a file holds, its tensors on the CPU; runs no code from it.

    Raises:
        Exception: of any kind, whatever a broken file makes torch raise.
    """
    # An archive tells by its directory, so a damaged one must not be taken for a file of the time before archives.
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            _check_archive(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    """The checksums that torch writes and does not read, and sizes that the file has room for."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members are not stored, or are larger than it")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged!r} does not fit its content: the file was altered")
