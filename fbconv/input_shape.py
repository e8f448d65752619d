"""The option ``--input-shape``."""

from __future__ import annotations

import typer


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """The sizes in a text; None for None.

    Raises:
        typer.BadParameter: for anything but positive numbers.

    Example:
        >>> parse_shape("3,32,32")
        (3, 32, 32)
    """
    if text is None:
        return None
    sizes = text.split(",")
    if not all(size.strip().isdigit() and int(size) > 0 for size in sizes):
        raise typer.BadParameter(f"input-shape must be positive numbers with commas between, as 3,32,32, got {text!r}")
    return tuple(map(int, sizes))
