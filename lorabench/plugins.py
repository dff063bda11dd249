"""Plug-ins are files: the file's name (with - for _) is the name in YAML, its first docstring line its description.

`names` and `describe` read file names and source text only, so that listing imports nothing heavy.
Plug-in modules keep torch and friends out of their top level for the same reason.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

from lorabench.errors import LorabenchError, unknown

KINDS = ("methods", "quantizations", "tasks", "executors", "sections", "exporters", "emitters")


@cache
def _files(kind: str) -> dict[str, Path]:
    folder = Path(__file__).parent / kind
    return {f.stem.replace("_", "-"): f for f in sorted(folder.glob("*.py")) if not f.stem.startswith("_")}


def names(kind: str) -> tuple[str, ...]:
    """All plug-ins of a kind, sorted."""
    return tuple(_files(kind))


def describe(kind: str, name: str) -> str:
    """The first line of a plug-in's docstring, read without importing it."""
    doc = ast.get_docstring(ast.parse(_files(kind)[name].read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


def load(kind: str, name: str) -> ModuleType:
    """The module of a plug-in; LorabenchError where there is none of that name."""
    if name not in _files(kind):
        raise LorabenchError(unknown(kind.removesuffix("s"), name, names(kind)))
    return importlib.import_module(f"lorabench.{kind}.{name.replace('-', '_')}")
