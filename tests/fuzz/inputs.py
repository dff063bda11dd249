"""Inputs that are nearly right: sound files of which a few values are replaced, and a few bytes then damaged.

Random bytes alone are refused by the first check of any reader; what finds faults is a file that is sound up to one
value (jazzer's and AFL's experience with formats: mutate what is valid).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

HOSTILE: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        10**40,
        -(2**63),
        0.0,
        -0.5,
        1e-320,
        1e308,
        float("inf"),
        float("nan"),
    ),
    *("", " ", "auto", "none", "1e-3", "nan", "-inf", "0x10", "1_000", "../../x", "/etc/passwd", "~", "x/y", "a\0b"),
    *(
        "\n",
        "\t- a",
        "é\u202e\ufeff",
        "a" * 3000,
        "{{7*7}}",
        "${x}",
        "%s%n",
        "<script>",
        "__class__",
        "=cmd|' /C x'!A0",
    ),
    *("!!python/object/apply:os.system [touch owned]", "lora", "nf4", "full", "llama", "q_proj", "F32", "LORA"),
    *([], {}, [[]], [None], [1, 1], {"": 1}, {"name": None}, {"name": []}, {"a": {"b": {"c": [{}]}}}, ["a"] * 300),
    *([[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]], {"tune": []}, {"tune": [1e-3, "x"]}, [0, -1], ["../x"]),
)
values = st.one_of(
    st.sampled_from(HOSTILE),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.lists(st.one_of(st.integers(-3, 3), st.text(max_size=4)), max_size=3),
)
Edit = tuple[int, str, Any]


def routes(plain: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in plain data."""
    found = [before] if before else []
    if isinstance(plain, dict):
        for key, value in plain.items():
            found += routes(value, (*before, key))
    elif isinstance(plain, list):
        for i, value in enumerate(plain):
            found += routes(value, (*before, i))
    return found


def edited(plain: Any, most: int = 4) -> st.SearchStrategy[Any]:
    """The plain data with a few values replaced, keys added, parts left out or moved."""
    edit = st.tuples(st.integers(0, 10**6), st.sampled_from(("set", "set", "set", "add", "drop", "move")), values)
    return st.lists(edit, min_size=1, max_size=most).map(lambda edits: _apply(plain, edits))


def _apply(plain: Any, edits: list[Edit]) -> Any:
    made = copy.deepcopy(plain)
    for number, kind, value in edits:
        places = routes(made)
        if not places:
            break
        *route, last = places[number % len(places)]
        holder = made
        for part in route:
            holder = holder[part]
        if kind == "drop":
            del holder[last]
        elif kind == "add" and isinstance(holder, dict):
            holder[value if isinstance(value, str) else f"{last}x"] = copy.deepcopy(value)
        elif kind == "move" and isinstance(holder, dict):
            *_, key = places[(number // 7) % len(places)]
            holder[str(key)] = holder.pop(last)
        else:
            holder[last] = copy.deepcopy(value)
    return made


def damaged(text: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The bytes as they are, mostly; or cut, with bytes replaced, put in or taken out."""
    hurt = st.tuples(
        text,
        st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=6), st.integers(0, 8)), min_size=1, max_size=3),
    ).map(lambda drawn: _hurt(*drawn))
    cut = st.tuples(text, st.integers(0, 10**6)).map(lambda drawn: drawn[0][: drawn[1] % (len(drawn[0]) + 1)])
    return st.one_of(text, text, hurt, cut, st.binary(max_size=64))


def _hurt(text: bytes, hurts: list[tuple[int, bytes, int]]) -> bytes:
    for place, put, taken in hurts:
        at = place % (len(text) + 1)
        text = text[:at] + put + text[at + taken :]
    return text


def as_json(plain: Any) -> bytes:
    return json.dumps(plain).encode()


def json_files(plain: Any, write: Callable[[Any], bytes] = as_json) -> st.SearchStrategy[bytes]:
    """Files of plain data with a few values and bytes that are wrong."""
    return damaged(edited(plain).map(write))
