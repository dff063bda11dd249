"""Rows of named text fields from JSON lines, CSV, TSV, separated lines or a hub data set, and their splits.

    jsonl   one JSON object a line; numbers, true and false as JSON writes them, null as nothing
    csv     comma, double quotes; tsv: tab, no quotes; separator: any text, no quotes

The first line of the delimited ones names the columns unless `columns` does; their fields are stripped
of surrounding spaces. A row that does not fit is a DataError with file and line, never skipped.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

from pydantic import AfterValidator, Field, model_validator

from lorabench.errors import DataError
from lorabench.spec.identity import hash_path
from lorabench.spec.paths import DataFile
from lorabench.spec.settings import Number, TaskSpec, Whole

PATH_FIELDS = ("train", "eval")
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv"}
VALIDATION_AT_MOST = 200  # rows; enough to choose a learning rate by, cheap to evaluate


def _one_file(path: str) -> str:
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; give one .jsonl, .csv or .tsv file")
    return path


RowFile = Annotated[DataFile, AfterValidator(_one_file)]


class RowOptions(TaskSpec):
    """Where the rows are; the tasks over rows add what to make of them."""

    train: RowFile | None = None
    """training rows: a .jsonl, .csv or .tsv file, or any file with a separator"""
    eval: RowFile | None = None
    """test rows; absent: test_percent of the training rows"""
    dataset: str | None = Field(None, min_length=1)
    """hub id, in place of files"""
    subset: str | None = None
    """configuration of the hub data set"""
    revision: str | None = None
    """commit, tag or branch of the hub data set"""
    train_split: str = "train"
    """split of the hub data set to train on"""
    eval_split: str = "test"
    """split of the hub data set to test on"""
    format: Literal["auto", "jsonl", "csv", "tsv"] = "auto"
    """auto goes by the file's name"""
    separator: str | None = Field(None, min_length=1)
    """text between the fields of a line, such as "||", in place of a format"""
    columns: tuple[str, ...] = ()
    """names of the columns of delimited files that have no header line"""
    validation_percent: Number = Field(5, gt=0, lt=50)
    """share of the training rows for validation, 200 at most"""
    test_percent: Number = Field(10, gt=0, lt=50)
    """share of the training rows for the test, where no eval is given"""
    max_train: Whole | None = Field(None, ge=2)
    """training rows at most, evenly spread over the file"""
    max_eval: Whole | None = Field(None, ge=1)
    """test rows at most, evenly spread over the file"""

    @model_validator(mode="after")
    def _one_source(self) -> RowOptions:
        if (self.train is None) == (self.dataset is None):
            raise ValueError("give either train (a file) or dataset (a hub id)")
        if self.dataset is not None and self.eval is not None:
            raise ValueError("eval is a file, but the rows are those of a hub data set; name its split as eval_split")
        if self.separator and self.format != "auto":
            raise ValueError(f"separator {self.separator!r} and format {self.format} exclude each other; give one of them")
        if self.train is not None and self.train == self.eval:
            raise ValueError("train and eval are the same file, so nothing would be held out; leave eval away, or give another file")
        for file in (self.train, self.eval):
            if file is not None and file_format(self, file) == "jsonl" and self.columns:
                raise ValueError("columns are for files without a header line; JSON lines name their own fields")
        return self


@dataclass(frozen=True)
class Row:
    """One row's fields as text, and where it stands (file:line) for messages."""

    where: str
    fields: dict[str, str]


def file_format(options: RowOptions, file: str) -> str:
    """jsonl, csv, tsv or separated; ValueError where the name does not say."""
    if options.separator:
        return "separated"
    if options.format != "auto":
        return options.format
    suffix = Path(file).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"the name of {file} does not say its format; give format: jsonl, csv or tsv, or a separator")
    return SUFFIXES[suffix]


def fingerprint(options: RowOptions) -> str:
    """Hash of the files' bytes, or of hub id and revision."""
    if options.dataset:
        return hashlib.sha256(f"{options.dataset}@{options.revision or 'main'}".encode()).hexdigest()
    parts = [f"{role}:{hash_path(f) if f else ''}" for role, f in (("train", options.train), ("eval", options.eval))]
    return hashlib.sha256(";".join(parts).encode()).hexdigest()


def read_splits(options: RowOptions, key: Callable[[Row], str]) -> tuple[list[Row], list[Row], list[Row]]:
    """Training, validation and test rows.

    Held-out rows are drawn by a hash of key (the prompt), rows of one key together, so that no prompt
    is on both sides and the draw does not hang on the file's order. Test rows come in the hash's order:
    the first n of them are a fair sample even of a sorted file.
    """
    train, test = _read(options, train=True), _read(options, train=False)
    if not train:
        raise DataError(f"{options.train or options.dataset} holds no rows; give one that does as task.train or task.dataset")
    train = _spread(train, options.max_train)
    if test is None:
        train, test = hold_out(train, round(len(train) * options.test_percent / 100) or 1, key)
    if not test:
        raise DataError(f"there are no test rows in {options.eval or options.dataset or options.train}; give a file with rows as task.eval")
    test = hold_out(_spread(test, options.max_eval), len(test), key)[1]
    wanted = min(round(len(train) * options.validation_percent / 100) or 1, VALIDATION_AT_MOST)
    rest, validation = hold_out(train, wanted, key)
    if not rest:
        raise DataError(f"{options.train or options.dataset} holds too few different rows to train, validate and test on; give more rows")
    return rest, validation, test


def hold_out(rows: list[Row], wanted: int, key: Callable[[Row], str]) -> tuple[list[Row], list[Row]]:
    """(the rest in their order, whole groups of equal key in hash order until there are `wanted` rows)."""
    hashes = [hashlib.sha256(key(row).encode()).digest() for row in rows]
    held: list[int] = []
    for _, group in groupby(sorted(range(len(rows)), key=lambda i: (hashes[i], i)), key=lambda i: hashes[i]):
        if len(held) >= wanted:
            break
        held += group
    out = set(held)
    return [row for i, row in enumerate(rows) if i not in out], [rows[i] for i in held]


def _spread(rows: list[Row], most: int | None) -> list[Row]:
    n = len(rows)
    return rows if most is None or most >= n else [rows[i * n // most] for i in range(most)]


def _read(options: RowOptions, *, train: bool) -> Any:
    if options.dataset:
        return list(_from_hub(options, options.train_split if train else options.eval_split))
    file = options.train if train else options.eval
    return None if file is None else read_file(options, file)


def read_file(options: RowOptions, file: str) -> list[Row]:
    """All rows of a file."""
    form = file_format(options, file)
    try:
        with open(file, encoding="utf-8-sig", newline="" if form == "csv" else None) as stream:
            if form == "jsonl":
                return list(_json_rows(stream, file))
            return list(_table_rows(_lines(stream, form, options.separator), file, options.columns))
    except UnicodeDecodeError as e:
        raise DataError(f"{file} is not UTF-8 ({e.reason}); convert it: iconv -f latin1 -t utf-8 {Path(file).name}") from None
    except OSError as e:
        raise DataError(f"{file} cannot be read: {e.strerror}; point task.train and task.eval to readable files") from None


def _json_rows(stream: TextIO, file: str) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise DataError(f"{where}: not JSON ({e}); write one JSON object a line") from None
        if not isinstance(data, dict):
            raise DataError(f"{where}: a {type(data).__name__}, not an object; write one JSON object a line")
        yield Row(where, {name: _text(value, where) for name, value in data.items()})


def _text(value: Any, where: str) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: half of a surrogate pair (\\ud800 to \\udfff), which no text can hold; mend that row") from None
    return text


def _lines(stream: TextIO, form: str, separator: str | None) -> Iterator[tuple[int, list[str]]]:
    if form == "csv":
        reader = csv.reader(stream, strict=True)
        try:
            for fields in reader:
                yield reader.line_num, fields
        except csv.Error as e:
            raise DataError(f"{stream.name}:{reader.line_num}: {e}; a field with quotes is written \"so \"\"quoted\"\"\"") from None
    else:
        for number, line in enumerate(stream, 1):
            yield number, line.rstrip("\n").split(separator or "\t") if line.strip() else []


def _table_rows(lines: Iterator[tuple[int, list[str]]], file: str, columns: Sequence[str]) -> Iterator[Row]:
    names = list(columns)
    for number, fields in lines:
        if not fields:  # an empty line
            continue
        if not names:
            names = [field.strip() for field in fields]
            if len(set(names)) < len(names) or "" in names:
                seen = ", ".join(names)
                raise DataError(f"{file}:{number}: the header has empty or repeated names ({seen}); name the columns as task.columns")
            continue
        if len(fields) != len(names):
            raise DataError(
                f"{file}:{number}: {len(fields)} fields where the columns are {', '.join(names)}; "
                "mend the row, or give the right separator, format or columns"
            )
        yield Row(f"{file}:{number}", {name: field.strip() for name, field in zip(names, fields, strict=True)})


def _from_hub(options: RowOptions, split: str) -> Iterator[Row]:
    import datasets

    try:
        rows = datasets.load_dataset(options.dataset, options.subset, split=split, revision=options.revision)
    except Exception as e:  # datasets, the hub client and the network fail in many classes
        first = str(e).strip().partition("\n")[0]
        raise DataError(
            f"data set {options.dataset} (split {split}) is neither cached nor to be had from the hub: {first}; "
            "save it as JSON lines and give the files as task.train and task.eval in place of task.dataset"
        ) from None
    for number, data in enumerate(rows, 1):
        where = f"{options.dataset}/{split}:{number}"
        yield Row(where, {name: _text(value, where) for name, value in data.items()})
