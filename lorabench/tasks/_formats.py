"""Rows of named text fields out of a file: JSON in the ways it is written, delimited text, Parquet, Arrow.

    json      lines of objects, one list of objects, objects one after the other (indented, too), or one object that
              holds one list of objects ({"data": [...]}), columns ({"question": [...]}) or pandas' orients
    csv       comma, double quotes; semicolon, tab or bar where the header has them and no comma; tsv: tab, no quotes
    parquet   and Arrow (feather, the .arrow files and folders of datasets' save_to_disk)

Numbers, true and false become text as JSON writes them; null and NaN become nothing; lists and objects stay JSON.
The first line of delimited files names the columns unless `columns` does; their fields are stripped of surrounding spaces.
A row that does not fit is a DataError with file and line, never skipped.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorabench.engine.data_files import Content, is_web_page, read_content
from lorabench.errors import DataError
from lorabench.tasks._chat import is_conversation

DELIMITERS = {";": "a semicolon", "\t": "a tab", "|": "a bar"}
STATE, SPLITS = "state.json", "dataset_dict.json"  # of datasets' save_to_disk


@dataclass(frozen=True)
class Row:
    """One row's fields as text, and where it stands (file:line) for messages."""

    where: str
    fields: dict[str, str]


@dataclass
class Table:
    """A file's rows, and what the reader did of its own accord, as sentences."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_table(file: str, form: str, separator: str | None = None, columns: Sequence[str] = ()) -> Table:
    """All rows of a file; what its first bytes say goes before `form` (json, csv, tsv, separated)."""
    table = Table()
    if Path(file).is_dir():
        table.rows = [row for part in saved_files(file) for row in read_table(str(part), "arrow").rows]
        return table
    content = read_content(file)
    if content.kind != "text":
        table.rows = list(_records(_arrow(content, file), f"{file}, row "))
        return table
    if is_web_page(content.text):
        raise DataError(f"{file} is a web page or XML, not data: was a page saved in place of the file? Download the raw file, and give it as JSON lines or CSV")
    if content.encoding.startswith(("utf-16", "utf-32")):
        table.notes.append(f"{Path(file).name} was read as {content.encoding.upper()}")
    if form == "json":
        table.rows = list(_json_rows(content.text, file))
    elif form in ("parquet", "arrow"):
        raise DataError(f"{file} is text, no {form} file; leave task.format away, or give json, csv or tsv")
    else:
        table.rows = list(_table_rows(content.text, form, file, separator, columns, table.notes))
    return table


def saved_files(folder: str) -> list[Path]:
    """The Arrow files of a data set that datasets' save_to_disk wrote, in their order."""
    try:
        state = json.loads((Path(folder) / STATE).read_text(encoding="utf-8"))
        return [Path(folder) / part["filename"] for part in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"{folder}: its {STATE} cannot be read ({e}); save the data set anew, or give a file") from None


def as_text(value: Any, where: str) -> str:
    """A field as text; DataError where no text can hold it."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):  # how pandas and Python write what is missing
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: half of a surrogate pair (\\ud800 to \\udfff), which no text can hold; mend that row") from None
    return text


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)  # dates, decimals


def _records(records: Sequence[Any], place: str) -> Iterator[Row]:
    for number, data in enumerate(records, 1):
        where = f"{place}{number}"
        yield Row(where, {name: as_text(value, where) for name, value in data.items()})


# Parquet and Arrow


def _arrow(content: Content, file: str) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.feather
    import pyarrow.parquet

    source = pyarrow.BufferReader(content.data)
    try:
        if content.kind == "parquet":
            table = pyarrow.parquet.read_table(source)
        elif content.data.startswith(b"ARROW1"):
            table = pyarrow.ipc.open_file(source).read_all()
        else:
            table = pyarrow.ipc.open_stream(source).read_all()
        table = table.drop_columns([name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)])  # pandas' index
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        reason = " ".join(str(e).split())[:200]
        raise DataError(f"{file} is a {content.kind} file that cannot be read ({reason}); it is cut off or damaged, get it anew") from None
    return rows


# JSON


def _json_rows(text: str, file: str) -> Iterator[Row]:
    """Line by line where the first line is a whole object; else as one document, or several in a row."""
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), "")
    bare = first.strip().rstrip(",")
    broken = bare.startswith("{") and bare.endswith("}") and len(lines) > 1 and _parses(bare) is None  # which is best told by its line
    if _whole_object(first) or not bare.startswith(("{", "[")) or broken:
        yield from _json_lines(lines, file)
        return
    documents = _documents(text, file)
    if documents is None:
        yield from _json_lines(lines, file)
    elif len(documents) > 1 or isinstance(documents[0], list):
        records = documents[0] if len(documents) == 1 else documents
        if not all(isinstance(record, dict) for record in records):
            raise DataError(f"{file}:1: a list, not an object; write one JSON object a line, or one list of objects")
        yield from _records(records, f"{file}, row ")
    else:
        yield from _records(_within(documents[0], file), f"{file}, row ")


def _parses(text: str) -> Any:
    """A JSON value, None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _whole_object(line: str) -> bool:
    found = _parses(line)
    return isinstance(found, dict) and not _lists(found) and not _frames(found)


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
            raise DataError(f"{where}: a {type(data).__name__}, not an object; write one JSON object a line")
        yield Row(where, {name: as_text(value, where) for name, value in data.items()})


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _hint(text: str, error: Exception, last: bool) -> str:
    """What to do about text that is no JSON, in which a decoder failed."""
    bare, at = text.strip(), getattr(error, "pos", 0)
    if re.match(r"\[?\s*\{\s*'", bare):
        return "it is written as Python writes a dict: write it with json.dumps, one object a line"
    if re.search(r",\s*$", text[:at]) and text[at : at + 1] in ("}", "]"):
        return "a comma stands before the closing bracket: take it out"
    if bare.endswith("},"):
        return "a comma stands between objects: take the commas out, or put [ ] around all"
    if last and ((bare.startswith("{") and not bare.endswith("}")) or (bare.startswith("[") and not bare.endswith("]"))):
        return "it ends before its brackets are closed: get the file anew, or take that row out"
    return "write one JSON object a line, or one list of objects"


def _documents(text: str, file: str) -> list[Any] | None:
    """All JSON values of a text, one after the other; None where that is not what it is."""
    decoder, at = json.JSONDecoder(), len(text) - len(text.lstrip("\ufeff \t\r\n"))
    end = len(text.rstrip())
    found: list[Any] = []
    while at < end:
        try:
            value, at = decoder.raw_decode(text, at)
        except RecursionError:
            return None
        except json.JSONDecodeError as e:
            if found or "\n" not in text.strip():
                return None
            raise DataError(f"{file}:{e.lineno}: not JSON ({e.msg}); {_hint(text, e, True)}") from None
        found.append(value)
        while at < end and text[at] in " \t\r\n\x1e":
            at += 1
    return found or None


def _lists(data: dict[str, Any]) -> dict[str, list[Any]]:
    """Its lists of objects that look like rows; conversations and the like hold objects, too, and are one row's field."""
    return {k: v for k, v in data.items() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v) and not is_conversation(v)}


def _frames(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an object that holds columns: equally long lists, or pandas' orients columns, index and split."""
    values = list(data.values())
    if set(data) >= {"columns", "data"} and all(isinstance(data[k], list) for k in ("columns", "data")) and data["data"]:
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
    if len(values) > 1 and all(isinstance(v, list) and len(v) > 1 and not any(isinstance(x, dict) for x in v) for v in values) and len({len(v) for v in values}) == 1:
        return [dict(zip(data, row, strict=True)) for row in zip(*values, strict=True)]
    return []


def _within(data: Any, file: str) -> Sequence[Any]:
    """The rows of a file that is one object."""
    if not isinstance(data, dict):
        raise DataError(f"{file}:1: a {type(data).__name__}, not an object; write one JSON object a line, or one list of objects")
    if framed := _frames(data):
        return framed
    lists = _lists(data)
    if "rows" in lists and all("row" in row for row in lists["rows"]):  # as the hub's rows API answers
        return [row["row"] for row in lists["rows"]]
    if len(lists) > 1:
        raise DataError(f"{file} holds several lists of rows ({', '.join(lists)}); save the one that is meant as a file of its own, one JSON object a line")
    if not lists:
        return [data]
    (rows,) = lists.values()
    return rows


# delimited text


def _table_rows(text: str, form: str, file: str, separator: str | None, columns: Sequence[str], notes: list[str]) -> Iterator[Row]:
    if form == "csv":
        text, delimiter = _delimiter(text)
        if delimiter != ",":
            notes.append(f"{Path(file).name} has {DELIMITERS[delimiter]} between its fields, and was read so")
        lines = _csv_lines(text, delimiter, file)
    else:
        split = separator or "\t"
        rows = io.StringIO(text, newline=None)
        lines = ((n, line.rstrip("\n").split(split) if line.strip() else []) for n, line in enumerate(rows, 1))
    yield from _named(list(lines), file, columns, form, notes)


def _delimiter(text: str) -> tuple[str, str]:
    """(the text without Excel's sep= line, its delimiter): a comma, unless the first line has none and another one in its place."""
    first, _, rest = text.partition("\n")
    if (said := re.fullmatch(r'"?sep=(.)"?\s*', first)) and (said[1] == "," or said[1] in DELIMITERS):
        return rest, said[1]
    head = next((line for line in text.splitlines() if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", head)
    if "," in bare:
        return text, ","
    return text, max(DELIMITERS, key=bare.count) if any(map(bare.count, DELIMITERS)) else ","


def _csv_lines(text: str, delimiter: str, file: str) -> Iterator[tuple[int, list[str]]]:
    with _long_fields():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        began = 1
        try:
            for fields in reader:
                yield reader.line_num, fields
                began = reader.line_num + 1
        except csv.Error as e:
            if "unexpected end of data" in str(e):
                raise DataError(f"{file}:{began}: a quote that opens in this row is never closed; close it, or write quotes within a field twice: \"so \"\"quoted\"\"\"") from None
            raise DataError(f"{file}:{reader.line_num}: {e}; a field with quotes is written \"so \"\"quoted\"\"\"") from None


@contextmanager
def _long_fields() -> Iterator[None]:
    """Fields of any length: csv's limit of 131,072 characters is the process's, so it is put back."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _named(lines: Sequence[tuple[int, list[str]]], file: str, columns: Sequence[str], form: str, notes: list[str]) -> Iterator[Row]:
    lines = [(number, fields) for number, fields in lines if fields]  # no empty lines
    if not lines:
        return
    number, first = lines[0][0], [name.strip() for name in lines[0][1]]
    left_out: set[int] = set()
    if columns:
        names = list(columns)
        if [n.casefold() for n in first] == [n.casefold() for n in names]:
            raise DataError(f"{file}:{number}: the first line is a header ({', '.join(first)}), which task.columns would make a row; leave task.columns away")
        if _indexed(lines) and len(first) == len(names) + 1:
            raise DataError(f"{file}:{number}: the first column is pandas' index, and the line a header; leave task.columns away, and it is left out")
    else:
        names, lines = first, lines[1:]
        if not lines:
            raise DataError(f"{file} has a header ({', '.join(first)}) and no row below it; give a file with rows")
        left_out = _unnamed(names, lines, file, notes)
        if form == "tsv" and len(names) == 1 and any(other in names[0] for other in ",;"):
            raise DataError(f"{file}:{number}: the header has no tab ({names[0]}), so the file has one column; give task.format: csv")
        seen = [name for i, name in enumerate(names) if i not in left_out]
        if len(set(seen)) < len(seen) or "" in seen:
            raise DataError(
                f"{file}:{number}: the header has empty or repeated names ({', '.join(names)}); give each column a name of its own there "
                "(task.columns is for files without a header: it would make this line a row)"
            )
    for at, fields in lines:
        if len(fields) != len(names):
            raise DataError(
                f"{file}:{at}: {len(fields)} field{'' if len(fields) == 1 else 's'} where the columns are {', '.join(names)}; "
                f"mend the row, or give the right separator, format or columns"
            )
        yield Row(f"{file}:{at}", {name: value.strip() for i, (name, value) in enumerate(zip(names, fields, strict=True)) if i not in left_out})


def _unnamed(names: Sequence[str], lines: Sequence[tuple[int, list[str]]], file: str, notes: list[str]) -> set[int]:
    """The columns without a name that hold nothing of their own: pandas' index at the front, empty fields at the end."""
    found = set()
    if names and not names[0] and len(names) > 1 and _indexed([(0, []), *lines]):
        found.add(0)
        notes.append(f"{Path(file).name} has an index in its first column, which has no name: it was left out")
    last = len(names) - 1
    if last > 0 and not names[last] and all(len(fields) != len(names) or not fields[last].strip() for _, fields in lines):
        found.add(last)
    return found


def _indexed(lines: Sequence[tuple[int, list[str]]]) -> bool:
    """Whether the first fields below the first line are whole numbers, each once, as the index of a (filtered) frame is."""
    values = [fields[0].strip() for _, fields in lines[1:] if fields]
    return bool(values) and all(v.isdigit() for v in values) and len(set(values)) == len(values)
