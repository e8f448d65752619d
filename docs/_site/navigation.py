"""Leaves guides out of the navigation that this checkout does not have."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

LOG = logging.getLogger("mkdocs.hooks.navigation")
MADE = {"reference/command-line.md", "bench/README.md", "CHANGELOG.md"}  # by the other hooks


def on_config(config: Any) -> Any:
    folder = Path(config.docs_dir)
    for section in (entry for entry in config.nav if isinstance(entry, dict)):
        for title, pages in section.items():
            section[title] = [page for page in pages if page in MADE or _exists(folder / page)]
    return config


def _exists(path: Path) -> bool:
    if not path.exists():
        LOG.info("not in the navigation, as it does not exist: %s", path.name)
    return path.exists()
