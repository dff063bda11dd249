"""Settings as plain data, by dotted names: reading a value, laying one over another, and whether a rule agrees."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

SETTINGS = ("model", "quantization", "method", "task", "training", "evaluation", "analysis", "save")


def agrees(plain: Mapping[str, object], rule: Mapping[str, object]) -> bool:
    """Whether plain data has every value that a partial mapping (nested or dotted) names; a name stands for its
    mapping."""
    return all(_same(get(plain, key), value) for key, value in rule.items())


def _same(value: object, expected: object) -> bool:
    if isinstance(expected, dict):
        return isinstance(value, dict) and all(_same(get(value, k), v) for k, v in expected.items())
    if isinstance(value, dict):
        return _same(value.get("name"), expected)
    if isinstance(value, list | tuple) and isinstance(expected, list | tuple):
        # target modules are kept in one order, whatever the study's
        return sorted(map(str, value)) == sorted(map(str, expected))
    return bool(value == expected) or str(value) == str(expected)


def get(plain: object, dotted: str) -> object:
    """The value at a dotted name; None where a part of it is absent."""
    for part in dotted.split("."):
        plain = plain.get(part) if isinstance(plain, Mapping) else None
    return plain


def lay(plain: dict[str, object], route: list[str], value: object) -> None:
    """Lays a value over plain data, in place; what is below is copied, so that the base stays as it was."""
    head, rest = route[0], route[1:]
    old = plain.get(head)
    if rest:
        below = dict(old) if isinstance(old, dict) else {}
        plain[head] = below
        lay(below, rest, value)
    elif isinstance(old, dict) and isinstance(value, str) and head in SETTINGS:
        lay(plain, [head], {"name": value})
    elif isinstance(old, dict) and isinstance(value, dict):
        renamed = head in ("model", "task") and "name" in value and value["name"] != old.get("name")
        below = {} if renamed else dict(old)
        plain[head] = below
        for key, inner in value.items():
            lay(below, key.split("."), inner)
    else:
        plain[head] = value


def leaves(rule: Mapping[str, object]) -> Iterator[str]:
    """The dotted names of a mapping's values: {"method": {"rank": 8}} has method.rank."""
    return (name for name, _ in leaf_values(rule))


def leaf_values(rule: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The same with the values: ("method.rank", 8)."""
    for key, value in rule.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from leaf_values(value, dotted + ".")
        else:
            yield dotted, value


def near_values(rule: Mapping[str, object], plain: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """Of a rule's words those that no plain data have, each by its dotted name with the nearest that they have."""
    near: dict[str, str] = {}
    for name, value in leaf_values(rule):
        found = (get(p, name) for p in plain)
        known = sorted({str(f.get("name") if isinstance(f, dict) else f) for f in found})
        if isinstance(value, str) and value not in known and (match := difflib.get_close_matches(value, known, n=1)):
            near[name] = match[0]
    return near
