"""Our docstrings as Markdown: Sphinx's roles become links, "Example:" a section of code, and types are spelled out."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(?P<short>~?)(?P<name>[\w.]+)`")


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value, obj)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        for parameter in func.parameters:
            parameter.annotation = spelled_out(parameter.annotation, func)


def spelled_out(annotation: Any, func: griffe.Function) -> Any:
    """The annotation without a module's private names for types: what ``_Pair`` is, instead of the name."""
    if isinstance(annotation, griffe.ExprBinOp):
        annotation.left = spelled_out(annotation.left, func)
    elif isinstance(annotation, griffe.ExprName) and annotation.name.startswith("_"):
        alias = func.module.members.get(annotation.name)
        return alias.value if isinstance(alias, griffe.Attribute) else annotation
    return annotation


def markdown(text: str, obj: griffe.Object) -> str:
    text = ROLE.sub(lambda role: _link(role, obj), text)
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=\.) (?=[A-Z]\w+(?:Error|Warning): )", "\n    ", text)  # one error a line
    text = re.sub(r"^(Source|Returns|Raises|Warns): (?=\S)", r"**\1:** ", text, flags=re.MULTILINE)
    return re.sub(r"(?: ::|(?<=:):)$", "", text, flags=re.MULTILINE)


def _link(role: re.Match[str], obj: griffe.Object) -> str:
    """Optional, so that what has no entry on any page stays plain code."""
    name = role["name"]
    try:
        path = name if name.startswith("fbconv.") else obj.resolve(name)
    except griffe.NameResolutionError:
        return f"`{name}`"
    shown = name.rpartition(".")[2] if role["short"] else name
    return f'<autoref identifier="{path}" optional>`{shown}`</autoref>'
