"""Rows out of delimited text.

    csv    comma, double quotes; semicolon, tab or bar where the first line has them and no comma, or says so (sep=;)
    tsv    tab, no quotes; separated: any text, no quotes

The first line names the columns unless `columns` does; fields are stripped of surrounding spaces.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lorabench.errors import DataError
from lorabench.tasks._row import Row

DELIMITERS = {";": "a semicolon", "\t": "a tab", "|": "a bar"}


def delimited_rows(
    text: str, form: str, file: str, separator: str | None, columns: Sequence[str], notes: list[str]
) -> Iterator[Row]:
    """The rows of a file's text; what the reader did of its own accord is appended to `notes`.

    form         csv, tsv or separated
    separator    text between two fields, of separated alone
    columns      names of the fields, where no header line has them
    DataError, with file and line, for a row or header that does not fit.
    """
    if form == "csv":
        text, delimiter = _delimiter(text)
        if delimiter != ",":
            notes.append(f"{Path(file).name} has {DELIMITERS[delimiter]} between its fields, and was read that way")
        lines = _csv_lines(text, delimiter, file)
    else:
        split = separator or "\t"
        rows = io.StringIO(text, newline=None)
        lines = ((n, line.rstrip("\n").split(split) if line.strip() else []) for n, line in enumerate(rows, 1))
    yield from _named(list(lines), file, columns, form, notes)


def _delimiter(text: str) -> tuple[str, str]:
    """(the text without Excel's sep= line, its delimiter): a comma, unless the first line has none and another one in
    its place.
    """
    first, _, rest = text.partition("\n")
    if (declared := re.fullmatch(r'"?sep=(.)"?\s*', first)) and (declared[1] == "," or declared[1] in DELIMITERS):
        return rest, declared[1]
    head = next((line for line in text.splitlines() if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", head)
    if "," in bare:
        return text, ","
    return text, max(DELIMITERS, key=bare.count) if any(map(bare.count, DELIMITERS)) else ","


def _csv_lines(text: str, delimiter: str, file: str) -> Iterator[tuple[int, list[str]]]:
    with _long_fields():
        spaced = re.search(rf'"{re.escape(delimiter)} +"', text.partition("\n")[0]) is not None  # "question", "answer"
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=spaced)
        row_start = 1
        try:
            for fields in reader:
                yield reader.line_num, fields
                row_start = reader.line_num + 1
        except csv.Error as e:
            if "unexpected end of data" in str(e):
                raise DataError(
                    f"{file}:{row_start}: a quote that opens in this row is never closed; close it, or double the"
                    ' quotes within a field: "so ""quoted"""'
                ) from None
            raise DataError(f'{file}:{reader.line_num}: {e}; a field with quotes is written "so ""quoted"""') from None


@contextmanager
def _long_fields() -> Iterator[None]:
    """Fields of any length: csv's limit of 131,072 characters is the process's, so it is put back."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _named(
    lines: Sequence[tuple[int, list[str]]], file: str, columns: Sequence[str], form: str, notes: list[str]
) -> Iterator[Row]:
    lines = [(number, fields) for number, fields in lines if fields]  # no empty lines
    if not lines:
        return
    number, first = lines[0][0], [name.strip() for name in lines[0][1]]
    left_out: set[int] = set()
    if columns:
        names = list(columns)
        if [n.casefold() for n in first] == [n.casefold() for n in names]:
            raise DataError(
                f"{file}:{number}: the first line is a header ({', '.join(first)}), which task.columns would read as"
                " a row; remove task.columns"
            )
        if _is_index(lines[1:], once=True) and len(first) == len(names) + 1:
            if first[0].isdigit():
                raise DataError(
                    f"{file}:{number}: the first column is an index, which task.columns does not name; give "
                    f"columns: [index, {', '.join(names)}]"
                )
            raise DataError(
                f"{file}:{number}: the first column is pandas' index, and this line is a header; remove task.columns,"
                " and the index is left out"
            )
    else:
        names, lines = first, lines[1:]
        if not lines:
            raise DataError(f"{file} has a header ({', '.join(first)}) but no row below it; give a file with rows")
        left_out = _unnamed(names, lines, file, notes)
        if form == "tsv" and all(len(name) > 1 and name[0] == name[-1] == '"' for name in names):
            raise DataError(
                f"{file}:{number}: the fields are in double quotes, which are not read as such in a .tsv file; give"
                " task.format: csv, which detects the tabs"
            )
        if form == "tsv" and len(names) == 1 and any(other in names[0] for other in ",;"):
            raise DataError(
                f"{file}:{number}: the header has no tab ({names[0]}), so the file has one column; give "
                "task.format: csv"
            )
        column_names = [name for i, name in enumerate(names) if i not in left_out]
        if len(set(column_names)) < len(column_names) or "" in column_names:
            raise DataError(
                f"{file}:{number}: the header has empty or repeated names ({', '.join(names)}); give each column a"
                " name of its own there (task.columns is for files without a header: it would read this line as a"
                " row)"
            )
    for at, fields in lines:
        if len(fields) != len(names):
            raise DataError(
                f"{file}:{at}: {len(fields)} field{'' if len(fields) == 1 else 's'} where the columns are"
                f" {', '.join(names)}; fix the row, or give the right separator, format or columns"
            )
        yield Row(
            f"{file}:{at}",
            {
                name: value.strip()
                for i, (name, value) in enumerate(zip(names, fields, strict=True))
                if i not in left_out
            },
        )


def _unnamed(names: Sequence[str], lines: Sequence[tuple[int, list[str]]], file: str, notes: list[str]) -> set[int]:
    """The columns without a name that hold nothing of their own: pandas' index at the front, empty fields at the
    end."""
    unnamed = set()
    if names and not names[0] and len(names) > 1 and _is_index(lines):
        unnamed.add(0)
        notes.append(f"{Path(file).name} has an index in its first column, which has no name: it was left out")
    last = len(names) - 1
    if (
        last > 0
        and not names[last]
        and all(len(fields) != len(names) or not fields[last].strip() for _, fields in lines)
    ):
        unnamed.add(last)
    return unnamed


def _is_index(lines: Sequence[tuple[int, list[str]]], *, once: bool = False) -> bool:
    """Whether the first fields are whole numbers, as a frame's index is: each once, unless frames were joined."""
    values = [fields[0].strip() for _, fields in lines if fields]
    return bool(values) and all(v.isdigit() for v in values) and (not once or len(set(values)) == len(values))
