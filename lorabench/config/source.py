"""A study file as text: YAML read safely, with the line of every value.

`yaml.compose` gives the tree with its marks and `SafeLoader` builds plain values from it, so nothing is
executed. Two differences from YAML 1.1: `1e-3` is a number, and a key that appears twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lorabench.config.imported import refuse_imported
from lorabench.errors import StudyError

Route = tuple[str | int, ...]
MAX_DEPTH = 20
MAX_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class Source:
    """The plain data of a study file, and where each part of it stands."""

    name: str
    data: dict[str, object]
    lines: dict[Route, int] = field(repr=False)
    folder: Path

    def at(self, route: Route) -> str:
        """ "file.yaml:12" for the longest part of a route that the file has; overrides name themselves."""
        for end in range(len(route), -1, -1):
            line = self.lines.get(route[:end])
            if line == 0:
                return f"--set {'.'.join(map(str, route[:end]))}"
            if line:
                return f"{self.name}:{line}"
        return self.name


def read_source(path: str | Path) -> Source:
    """The study file's data; StudyError (file, line) where it cannot be read or is not YAML."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        near = ", ".join(sorted(str(p) for p in path.parent.glob("*.y*ml"))[:8]) if path.parent.is_dir() else ""
        raise StudyError(f"{path}: there is no such study file" + (f"; there are: {near}" if near else "")) from None
    except IsADirectoryError:
        raise _of_a_folder(path) from None
    except OSError as e:
        raise StudyError(
            f"{path}: the study file cannot be read ({e.strerror}); give the path of a YAML file"
        ) from None
    if len(raw) > MAX_BYTES:
        raise StudyError(f"{path}: the study file has {len(raw):,} bytes; at most {MAX_BYTES:,} are allowed")
    try:
        return parse_source(raw.decode("utf-8"), str(path), path.resolve().parent)
    except UnicodeDecodeError as e:
        raise StudyError(f"{path}: not UTF-8 text (byte {e.start}); a study file is a YAML text file") from None


def _of_a_folder(path: Path) -> StudyError:
    """A folder in the place of a study file: of results that were run, imported, or none."""
    file = path / "study.yaml"
    if not file.is_file():
        return StudyError(f"{path}: this is a folder without a study; give the path of a study file (YAML)")
    imported = read_source(file).data.get("imported")
    if imported is not None:
        return refuse_imported(str(path), imported.get("importer") if isinstance(imported, dict) else imported)
    return StudyError(f"{path}: this is a results directory; to go on with it give its study file: {file} --out {path}")


def parse_source(text: str, name: str, folder: Path) -> Source:
    """The same from text."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: dict[Route, int] = {}
            if node is not None:
                _walk(node, (), lines, name)
            data = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise StudyError(
            f"{where}: not valid YAML: {e.problem or e.context}; check indentation, colons and brackets"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as e:
        reason = " ".join(str(e).split()) or "too deeply nested"
        raise StudyError(f"{name}: not valid YAML: {reason}") from None
    if not isinstance(data, dict):
        kind = "nothing" if data is None else type(data).__name__
        raise StudyError(
            f"{name}: a study file is a mapping of keys to values, this holds {kind}; start with 'schema: 1'"
        )
    return Source(name, data, lines, folder)


def _walk(node: yaml.Node, route: Route, lines: dict[Route, int], name: str) -> None:
    line = node.start_mark.line + 1
    lines.setdefault(route, line)
    if len(route) > MAX_DEPTH:
        raise StudyError(f"{name}:{line}: nested more than {MAX_DEPTH} levels deep (or an alias to itself)")
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _walk(item, (*route, i), lines, name)
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise StudyError(
                    f"{name}:{key.start_mark.line + 1}: the key {shown!r} is not a word; put keys that look like"
                    " numbers or truth values in quotes"
                )
            if key.value in keys:
                raise StudyError(f"{name}:{key.start_mark.line + 1}: the key '{key.value}' appears twice; keep one")
            keys.add(key.value)
            lines[(*route, key.value)] = key.start_mark.line + 1
            _walk(value, (*route, key.value), lines, name)


def parse_override(text: str) -> tuple[tuple[str, ...], object]:
    """ "training.steps=50" as route and value, the value read as YAML."""
    key, equals, value = text.partition("=")
    route = tuple(part for part in key.strip().split("."))
    if not equals or not all(route):
        raise StudyError(f"--set {text}: give KEY=VALUE, such as --set training.steps=50")
    try:
        return route, yaml.load(value, _Loader) if value.strip() else ""  # _Loader is a SafeLoader
    except yaml.YAMLError:
        return route, value


def override(source: Source, settings: tuple[str, ...]) -> Source:
    """The source with each KEY=VALUE set over it, in order; a key of the grid is replaced there."""
    data, lines = _copied(source.data), dict(source.lines)
    for text in settings:
        route, value = parse_override(text)
        dotted = ".".join(route)
        grid = data.get("grid")
        if isinstance(grid, dict) and dotted in grid:
            raise StudyError(
                f"--set {text}: {dotted} is an axis of the grid; set grid.{dotted} to a list, or edit the file"
            )
        if route[0] == "grid" and len(route) > 1:
            route = ("grid", ".".join(route[1:]))
        place = data
        for i, part in enumerate(route[:-1]):
            below = place.get(part)
            if isinstance(below, str) and len(route) == i + 2 and part in ("model", "task", "method", "quantization"):
                below = place[part] = {"name": below}
            if below is None:
                below = place[part] = {}
            if not isinstance(below, dict):
                raise StudyError(f"--set {text}: {'.'.join(route[: i + 1])} is {below!r}, which has no fields to set")
            place = below
        place[route[-1]] = value
        # one replaces the other
        if value is not None and route in (("training", "steps"), ("training", "epochs")):
            place.pop("epochs" if route[-1] == "steps" else "steps", None)
        for replaced in [k for k in lines if k[: len(route)] == route]:
            del lines[replaced]
        lines[route] = 0  # 0: from the command line
    return Source(source.name, data, lines, source.folder)


def _copied(plain: Mapping[str, object]) -> dict[str, object]:
    """The same in new mappings and lists, also where YAML's aliases share one."""
    return {key: _copied_value(value) for key, value in plain.items()}


def _copied_value(value: object) -> object:
    if isinstance(value, dict):
        return _copied(value)
    return [_copied_value(v) for v in value] if isinstance(value, list) else value
