"""Plug-ins are files: the file's name (with - for _) is the name in YAML, its first docstring line its description.

A module elsewhere becomes one with `register`, for the process that calls it.

`names` and `describe` read file names and source text only, so that listing imports nothing heavy.
Plug-in modules keep torch and friends out of their top level for the same reason.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

from lorabench.errors import LorabenchError, unknown

KINDS = (
    "methods", "quantizations", "tasks", "executors", "sections", "exporters", "importers", "emitters", "trainers",
    "probes", "trackers",
)  # fmt: skip

_registered: dict[tuple[str, str], str] = {}  # (kind, name) to a module elsewhere


def register(kind: str, name: str, module: str) -> None:
    """Makes an importable module (by its dotted name) a plug-in of this process; LorabenchError where the name is
    taken."""
    if name in names(kind):
        raise LorabenchError(f"there is already a {kind.removesuffix('s')} '{name}'; choose another name")
    _registered[kind, name] = module


@cache
def _files(kind: str) -> dict[str, Path]:
    folder = Path(__file__).parent / kind
    return {f.stem.replace("_", "-"): f for f in sorted(folder.glob("*.py")) if not f.stem.startswith("_")}


def names(kind: str) -> tuple[str, ...]:
    """All plug-ins of a kind, sorted; after them those that were registered."""
    return (*_files(kind), *(n for k, n in _registered if k == kind))


def describe(kind: str, name: str) -> str:
    """The first line of a plug-in's docstring, read without importing it."""
    doc = ast.get_docstring(ast.parse(_source(kind, name).read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


@cache  # a large study asks for its methods a million times
def load(kind: str, name: str) -> ModuleType:
    """The module of a plug-in; LorabenchError where there is none of that name."""
    if name not in names(kind):
        raise LorabenchError(unknown(kind.removesuffix("s"), name, names(kind)))
    return importlib.import_module(_registered.get((kind, name)) or f"lorabench.{kind}.{name.replace('-', '_')}")


def _source(kind: str, name: str) -> Path:
    if (kind, name) not in _registered:
        return _files(kind)[name]
    spec = importlib.util.find_spec(_registered[kind, name])
    assert spec is not None and spec.origin is not None, f"{_registered[kind, name]} is not a file"
    return Path(spec.origin)
