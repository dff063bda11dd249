"""A row: named fields as text, and where it stands."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lorabench.errors import DataError

JsonObject = dict[str, Any]
"""an object as json and pyarrow read it: values of any kind by name"""
Record = JsonObject
"""a row as a file holds it, by field"""


@dataclass(frozen=True)
class Row:
    """One row's fields as text, and where it stands (file:line) for messages."""

    where: str
    fields: dict[str, str]


def as_text(value: object, where: str) -> str:
    """A field as text; DataError where no text can hold it."""
    if value is None or (
        isinstance(value, float) and not math.isfinite(value)
    ):  # how pandas and Python write what is missing
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: half of a surrogate pair (\\ud800 to \\udfff), which is not valid text; fix that row"
        ) from None
    return text


def json_kind(value: object) -> str:
    """What a value is called in JSON, with its article."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return (
        "a text"
        if isinstance(value, str)
        else "a list"
        if isinstance(value, list)
        else "an object"
        if isinstance(value, dict)
        else "a number"
    )


def _plain(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)  # dates, decimals


def records(records: Sequence[Record], place: str) -> Iterator[Row]:
    """Records as rows of text, each at `place` with its number from 1 on; DataError where a value is not text."""
    for number, data in enumerate(records, 1):
        where = f"{place}{number}"
        yield Row(where, {name: as_text(value, where) for name, value in data.items()})
