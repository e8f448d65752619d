"""What pages link to outside docs/: pictures, results and texts of the repository, published under their own paths.

Links in the Markdown are those of the repository, where they work too; here they are made those of the site.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = ["bench/README.md", "CHANGELOG.md", "SECURITY.md"]
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: Any) -> Files:
    root = Path(config.config_file_path).parent
    for path in PAGES:
        files.append(File.generated(config, path, abs_src_path=str(root / path)))
    for path in sorted({target for file in files.documentation_pages() for target in _outside(file)}):
        if (root / path).is_file() and files.get_file_from_path(_on_site(path)) is None:
            files.append(File.generated(config, path, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    here = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        path = _in_repository(page.file, link["path"])
        anchor = "" if path == "README.md" else link["anchor"] or ""  # the start page has other sections
        return posixpath.relpath(_on_site(path), here) + anchor

    return LINK.sub(moved, markdown)


def _outside(file: File) -> Iterator[str]:
    for link in LINK.finditer(file.content_string):
        target = _in_repository(file, link["path"])
        if not target.startswith("docs/"):
            yield target


def _in_repository(file: File, link: str) -> str:
    """The path from the repository's root that a page's link means."""
    source = file.src_uri if file.src_uri in PAGES else f"docs/{file.src_uri}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _on_site(path: str) -> str:
    return "index.md" if path == "README.md" else path.removeprefix("docs/")
