"""Rows of named text fields out of a file, whatever its format: JSON (tasks._json), delimited text (tasks._delimited),
Parquet, Arrow.

Numbers, true and false become text as JSON writes them; null and NaN become nothing; lists and objects stay JSON.
A row that does not fit is a DataError with file and line, never skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorabench.engine.data_files import Content, is_web_page, read_content
from lorabench.errors import DataError
from lorabench.tasks._delimited import delimited_rows
from lorabench.tasks._json import json_rows
from lorabench.tasks._row import Record, Row, records

STATE, SPLITS = "state.json", "dataset_dict.json"  # of datasets' save_to_disk


@dataclass
class FileRows:
    """A file's rows, and what the reader did of its own accord, as sentences."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_table(file: str, form: str, separator: str | None = None, columns: Sequence[str] = ()) -> FileRows:
    """All rows of a file; what its first bytes say goes before `form` (json, csv, tsv, separated). DataError where it
    is damaged or holds no rows of that form."""
    table = FileRows()
    if Path(file).is_dir():
        table.rows = [row for part in saved_files(file) for row in read_table(str(part), "arrow").rows]
        return table
    content = read_content(file)
    if content.kind != "text":
        table.rows = list(records(_arrow(content, file), f"{file}, row "))
        return table
    if is_web_page(content.text):
        raise DataError(
            f"{file} is a web page or XML, not data: was a page saved instead of the file? Download the raw file, and"
            " give it as JSON lines or CSV"
        )
    if content.encoding.startswith(("utf-16", "utf-32")):
        table.notes.append(f"{Path(file).name} was read as {content.encoding.upper()}")
    if form == "json":
        table.rows = list(json_rows(content.text, file))
    elif form in ("parquet", "arrow"):
        raise DataError(f"{file} is text, not a {form} file; remove task.format, or give json, csv or tsv")
    else:
        table.rows = list(delimited_rows(content.text, form, file, separator, columns, table.notes))
    return table


def saved_files(folder: str) -> list[Path]:
    """The Arrow files of a data set that datasets' save_to_disk wrote, in their order; DataError where its
    state.json cannot be read."""
    try:
        state = json.loads((Path(folder) / STATE).read_text(encoding="utf-8"))
        return [Path(folder) / part["filename"] for part in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(
            f"{folder}: its {STATE} cannot be read ({e}); save the data set again, or give a file"
        ) from None


def _arrow(content: Content, file: str) -> list[Record]:
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
        table = table.drop_columns(
            [name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)]
        )  # pandas' index
        rows: list[Record] = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        reason = " ".join(str(e).split())[:200]
        raise DataError(
            f"{file} is a {content.kind} file that cannot be read ({reason}); it is cut off or damaged, get a fresh"
            " copy"
        ) from None
    return rows
