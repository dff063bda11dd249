"""Rows out of JSON in the ways in which it is written.

lines of objects; one list of objects; objects one after the other, indented, too; one object that holds one list of
objects ({"data": [...]}), columns ({"question": [...]}) or pandas' orients columns, index, split and table
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from lorabench.errors import DataError
from lorabench.tasks._messages import is_conversation
from lorabench.tasks._row import Record, Row, as_text, json_kind, records


def json_rows(text: str, file: str) -> Iterator[Row]:
    """Line by line where the first line is a whole object; else as one document, or several in a row. DataError, with
    file and line, for what is not JSON or not objects."""
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), "")
    bare = first.strip().rstrip(",")
    broken = (
        bare.startswith("{") and bare.endswith("}") and len(lines) > 1 and _parses(bare) is None
    )  # which is best told by its line
    if _whole_object(first) or not bare.startswith(("{", "[")) or broken:
        yield from _json_lines(lines, file)
        return
    documents = _documents(text, file)
    if documents is None:
        yield from _json_lines(lines, file)
    elif len(documents) > 1 or isinstance(documents[0], list):
        rows = documents[0] if len(documents) == 1 and isinstance(documents[0], list) else documents
        objects = [row for row in rows if isinstance(row, dict)]
        if len(objects) < len(rows):
            raise DataError(f"{file}:1: a list, not an object; write one JSON object per line, or one list of objects")
        yield from records(objects, f"{file}, row ")
    else:
        yield from records(_within(documents[0], file), f"{file}, row ")


def _parses(text: str) -> object:
    """A JSON value, None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _whole_object(line: str) -> bool:
    value = _parses(line)
    return isinstance(value, dict) and not _lists(value) and not _frames(value)


def _json_lines(lines: Sequence[str], file: str) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise DataError(f"{where}: not JSON ({_reason(e)}); {_hint(line, e, number == len(lines))}") from None
        if not isinstance(data, dict):
            raise DataError(f"{where}: {json_kind(data)}, not an object; write one JSON object per line")
        yield Row(where, {name: as_text(value, where) for name, value in data.items()})


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _hint(text: str, error: Exception, last: bool) -> str:
    """What to do about text that is no JSON, in which a decoder failed."""
    bare, at = text.strip(), getattr(error, "pos", 0)
    if re.match(r"\[?\s*\{\s*'", bare):
        return "it is a Python dict, not JSON: write it with json.dumps, one object per line"
    if re.search(r",\s*$", text[:at]) and text[at : at + 1] in ("}", "]"):
        return "there is a comma before the closing bracket: remove it"
    if bare.endswith("},"):
        return "there are commas between objects: remove them, or put [ ] around the whole"
    if last and (
        (bare.startswith("{") and not bare.endswith("}")) or (bare.startswith("[") and not bare.endswith("]"))
    ):
        return "it ends before its brackets are closed: get a fresh copy of the file, or remove that row"
    return "write one JSON object per line, or one list of objects"


def _documents(text: str, file: str) -> list[object] | None:
    """All JSON values of a text, one after the other; None where that is not what it is."""
    decoder, at = json.JSONDecoder(), len(text) - len(text.lstrip("\ufeff \t\r\n"))
    end = len(text.rstrip())
    documents: list[object] = []
    while at < end:
        try:
            value, at = decoder.raw_decode(text, at)
        except RecursionError:
            return None
        except json.JSONDecodeError as e:
            if documents or "\n" not in text.strip():
                return None
            raise DataError(f"{file}:{e.lineno}: not JSON ({e.msg}); {_hint(text, e, True)}") from None
        documents.append(value)
        while at < end and text[at] in " \t\r\n\x1e":
            at += 1
    return documents or None


def _lists(data: Record) -> dict[str, list[Record]]:
    """Its lists of objects that look like rows; conversations and the like hold objects, too, and are one row's
    field."""
    return {
        k: v
        for k, v in data.items()
        if isinstance(v, list) and v and all(isinstance(x, dict) for x in v) and not is_conversation(v)
    }


def _frames(data: Record) -> list[Record]:
    """Rows of an object that holds columns: equally long lists, or pandas' orients columns, index and split."""
    values = list(data.values())
    if (
        set(data) >= {"columns", "data"}
        and all(isinstance(data[k], list) for k in ("columns", "data"))
        and data["data"]
    ):
        rows = data["data"]
        if all(isinstance(row, list) and len(row) == len(data["columns"]) for row in rows):
            return [dict(zip(map(str, data["columns"]), row, strict=True)) for row in rows]
    if len(values) > 1 and all(isinstance(v, dict) and v for v in values):
        keys = [list(v) for v in values]
        if all(k == keys[0] for k in keys):
            if all(key.isdigit() for key in keys[0]):  # {"question": {"0": ...}}
                return [{name: column[key] for name, column in data.items()} for key in keys[0]]
            if all(name.isdigit() for name in data):  # {"0": {"question": ...}}
                return values
    if (
        len(values) > 1
        and all(isinstance(v, list) and len(v) > 1 and not any(isinstance(x, dict) for x in v) for v in values)
        and len({len(v) for v in values}) == 1
    ):
        return [dict(zip(data, row, strict=True)) for row in zip(*values, strict=True)]
    return []


def _within(data: object, file: str) -> Sequence[Record]:
    """The rows of a file that is one object."""
    if not isinstance(data, dict):
        raise DataError(
            f"{file}:1: {json_kind(data)}, not an object; write one JSON object per line, or one list of objects"
        )
    if framed := _frames(data):
        return framed
    lists = _lists(data)
    if "rows" in lists and all("row" in row for row in lists["rows"]):  # as the hub's rows API answers
        return [row["row"] for row in lists["rows"]]
    if len(lists) > 1:
        raise DataError(
            f"{file} holds several lists of rows ({', '.join(lists)}); save the one you mean as a file of its own,"
            " one JSON object per line"
        )
    if not lists:
        return [data]
    (rows,) = lists.values()
    return rows
