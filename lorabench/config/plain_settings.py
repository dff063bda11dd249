"""Settings as plain data, by dotted names: reading a value, laying one over another, and whether a rule agrees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SETTINGS = ("model", "quantization", "method", "task", "training", "evaluation", "analysis", "save")


def agrees(plain: dict[str, Any], rule: Any) -> bool:
    """Whether plain data has every value that a partial mapping (nested or dotted) names; a name stands for its
    mapping."""
    return all(_same(get(plain, key), value) for key, value in rule.items())


def _same(value: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return isinstance(value, dict) and all(_same(get(value, k), v) for k, v in expected.items())
    if isinstance(value, dict):
        return bool(_same(value.get("name"), expected))
    if isinstance(value, list | tuple) and isinstance(expected, list | tuple):
        return sorted(map(str, value)) == sorted(
            map(str, expected)
        )  # target modules are kept in one order, whatever the study's
    return bool(value == expected) or str(value) == str(expected)


def get(plain: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        plain = plain.get(part) if isinstance(plain, dict) else None
    return plain


def lay(plain: dict[str, Any], route: list[str], value: Any) -> None:
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
        plain[head] = {} if renamed else dict(old)
        for key, inner in value.items():
            lay(plain[head], key.split("."), inner)
    else:
        plain[head] = value


def leaves(rule: Any, prefix: str = "") -> Iterator[str]:
    for key, value in rule.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from leaves(value, dotted + ".")
        else:
            yield dotted
