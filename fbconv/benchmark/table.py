"""Tables of benchmark rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_FIRST = ("layer", "batch", "q", "op", "pass")


def table_of(rows: Sequence[Mapping[str, object]], title: str) -> Table:
    """A line for each row of :func:`fbconv.benchmark.run`, a section for each layer, batch and sparsity."""
    table = _table(
        title, *_FIRST, "dense", "ours", "speed-up", "vs scipy", "GFLOP/s", "of peak"
    )  # fmt: skip
    before = None
    for row in rows:
        if before not in (None, _section(row)):
            table.add_section()
        before = _section(row)
        table.add_row(
            row["layer"], str(row["batch"]), f"{row['sparsity']:g}", row["op"], row["pass"], _figure(row["dense_ms"]),
            _figure(row["ours_ms"]), _times(row["speed_up"]), _times(row["over_peers"].get("scipy")),
            _figure(row["useful_gflops"]), f"{100 * row['peak_share']:.3g} %",
        )  # fmt: skip
    return table


def means_table(means: Sequence[Mapping[str, object]]) -> Table:
    """A line for each row of :func:`fbconv.benchmark.geometric_means`."""
    table = _table("Geometric means over the four VGG layers", *_FIRST[1:], "speed-up", "vs scipy", "least vs scipy")
    for row in means:
        ratios = (row["speed_up"], row["over_scipy"], row["least_over_scipy"])
        table.add_row(str(row["batch"]), f"{row['sparsity']:g}", row["op"], row["pass"], *map(_times, ratios))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="left" if column in ("layer", "op", "pass") else "right", no_wrap=True)
    return table


def _section(row: Mapping[str, object]) -> tuple[object, ...]:
    return row["layer"], row["batch"], row["sparsity"]


def _figure(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def print_whole(table: Table) -> None:
    """On lines as long as the table needs: a file, or a narrow window that folds them, gets every figure."""
    console = Console()
    widest = Measurement.get(console, console.options.update(width=1000), table).maximum
    console.width = max(console.width, widest)
    console.print(table)
