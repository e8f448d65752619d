r"""Bars in a table's code: GitHub wants them as ``\|``, Python-Markdown as they are."""

from __future__ import annotations

import re
from typing import Any

CODE = re.compile(r"`[^`\n]+`")


def on_page_markdown(markdown: str, **_: Any) -> str:
    return "\n".join(_plain(line) if line.startswith("|") else line for line in markdown.split("\n"))


def _plain(row: str) -> str:
    return CODE.sub(lambda code: code[0].replace(r"\|", "|"), row)
