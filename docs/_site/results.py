"""Tables of the benchmarks' results, made when the site is built, so that no page holds a copy that could grow old.

`<!-- measured FILE.json -->` says on what and by which command;
`<!-- table FILE.json KEY where a=1|2, b=x : c, d.e -->` shows the rows under KEY that fit, in these columns.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "bench/results"
MEASURED = re.compile(r"<!-- measured (?P<file>\S+) -->")
TABLE = re.compile(r"<!-- table (?P<file>\S+) (?P<key>\w+)(?: where (?P<where>[^:]+?))? : (?P<columns>[^>]+?) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = MEASURED.sub(lambda found: measured(read(found["file"])), markdown)
    return TABLE.sub(lambda found: table(read(found["file"])[found["key"]], found["where"], found["columns"]), markdown)


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text())


def measured(results: dict[str, Any]) -> str:
    where = results["environment"]
    command = re.sub(r"^(?=bench/)|^\.venv/bin/(?=python )", "python ", where["command"]).removeprefix(".venv/bin/")
    threads = "1 thread" if where["threads"] == 1 else f"{where['threads']} threads"
    return (
        f"Measured on {where['processor']} ({where['capability']}), {threads}, torch {where['torch']}, "
        f"commit {where['commit'][:7]}: `{command}`"
    )


def table(rows: list[dict[str, Any]], where: str | None, columns: str) -> str:
    conditions = [condition.strip().split("=") for condition in where.split(",")] if where else []
    names = [name.strip() for name in columns.split(",")]
    chosen = [row for row in rows if all(str(value(row, key)) in wanted.split("|") for key, wanted in conditions)]
    if not chosen:
        raise ValueError(f"no row of the results has {where}")
    lines = [[name.replace("_", " ").replace(".", ", ") for name in names], ["---"] * len(names)]
    lines += [[shown(value(row, name)) for name in names] for row in chosen]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def value(row: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        row = row[part]
    return row


def shown(number: Any) -> str:
    if number is None:
        return ""
    if isinstance(number, float):
        return f"{number:.4g}"
    return f"{number:,}" if isinstance(number, int) else str(number)
