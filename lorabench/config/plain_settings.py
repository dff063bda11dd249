"""Settings as plain data, by dotted names: reading a value, laying one over another, and whether a rule agrees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SETTINGS = ("model", "quantization", "method", "task", "training", "evaluation", "analysis", "save")


def agrees(plain: dict[str, Any], rule: Any) -> bool:
    """Whether plain data has every value that a partial mapping (nested or dotted) names; a name stands for its
    mapping."""
    return all(_same(get(plain, key), value) for key, value in rule.items())


def _same(seen: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(seen, dict) and all(_same(get(seen, k), v) for k, v in wanted.items())
    if isinstance(seen, dict):
        return bool(_same(seen.get("name"), wanted))
    if isinstance(seen, list | tuple) and isinstance(wanted, list | tuple):
        return sorted(map(str, seen)) == sorted(
            map(str, wanted)
        )  # target modules are kept in one order, whatever the study's
    return bool(seen == wanted) or str(seen) == str(wanted)


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
