"""Where a task's rows are, and their splits.

Rows come from a file (tasks._formats), a folder that datasets' save_to_disk wrote, or a hub data set. A task makes a
`Pair` of each; held-out pairs are drawn by a hash of the prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, Field, model_validator

from lorabench.config import hub
from lorabench.config.fingerprint import hash_path
from lorabench.config.frozen import Number, Whole
from lorabench.config.paths import DataFile
from lorabench.config.settings import TaskSpec
from lorabench.engine.data_files import foreign, table_kind
from lorabench.errors import DataError
from lorabench.tasks._formats import SPLITS, STATE, FileRows, read_table
from lorabench.tasks._messages import Chat
from lorabench.tasks._row import Row, as_text

PATH_FIELDS = ("train", "eval")
SUFFIXES = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow",
}  # fmt: skip
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
VALIDATION_AT_MOST = 200  # rows; enough to choose a learning rate by, cheap to evaluate


def _one_file(path: str) -> str:
    folder = Path(path)
    if not folder.is_dir() or (folder / STATE).is_file():
        return path
    if (folder / SPLITS).is_file():
        parts = sorted(part.name for part in folder.iterdir() if (part / STATE).is_file())
        raise ValueError(
            f"{path} holds the splits {', '.join(parts)}; give the folder of one split:"
            f" {path}/{parts[0] if parts else 'train'}"
        )
    raise ValueError(
        f"{path} is a folder; give one .jsonl, .json, .csv, .tsv or .parquet file, or a folder written by "
        "datasets' save_to_disk"
    )


RowFile = Annotated[DataFile, AfterValidator(_one_file)]


class RowOptions(TaskSpec):
    """Where the rows are; the tasks over rows add what to make of them."""

    train: RowFile | None = None
    """training rows: JSON (lines, lists), CSV, TSV, Parquet, Arrow, each also as .gz, .bz2 or .xz, or any file with a
    separator"""
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
    format: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow"] = "auto"
    """auto, json (or jsonl), csv, tsv, parquet, arrow; auto goes by the file's name, for Parquet and Arrow by its first
    bytes"""
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
            raise ValueError("eval is a file, but the rows come from a hub data set; name its split as eval_split")
        if self.separator and self.format != "auto":
            raise ValueError(
                f"separator {self.separator!r} and format {self.format} exclude each other; give one of them"
            )
        if self.train is not None and self.train == self.eval:
            raise ValueError(
                "train and eval are the same file, so nothing would be held out; remove eval, or give another file"
            )
        for file in (self.train, self.eval):
            if file is None or not (SUFFIXES.keys() & set(Path(file).suffixes) or Path(file).exists()):
                continue  # of a stored cell, whose file may be elsewhere by now, the name alone may say nothing
            if file_format(self, file) in ("json", "parquet", "arrow") and self.columns:
                raise ValueError("columns are for files without a header line; JSON and Parquet name their own fields")
        return self


class Pair(NamedTuple):
    """What a task makes of a row."""

    where: str
    prompt: str
    """what is given; of a conversation all before its last answer"""
    response: str
    chat: Chat | None = None
    label: str | None = None


class Splits(NamedTuple):
    """Pairs of the three splits, and what the reader did of its own accord."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]
    notes: tuple[str, ...] = ()


Item = TypeVar("Item")
Result = TypeVar("Result")


def file_format(options: RowOptions, file: str) -> str:
    """json, csv, tsv, separated, parquet or arrow; ValueError where neither name nor first bytes say."""
    if options.separator:
        return "separated"
    if options.format != "auto":
        return "json" if options.format == "jsonl" else options.format
    name = Path(Path(file).stem if Path(file).suffix.lower() in COMPRESSED else file)
    if form := SUFFIXES.get(name.suffix.lower()) or table_kind(file):
        return form
    if Path(file).is_dir():
        return "arrow"
    if reason := foreign(file):
        raise ValueError(reason)
    raise ValueError(f"the name of {file} does not say its format; give format: jsonl, csv or tsv, or a separator")


def fingerprint(options: RowOptions) -> str:
    """Hash of the files' bytes, or of hub id and revision."""
    if options.dataset:
        return hashlib.sha256(f"{options.dataset}@{options.revision or 'main'}".encode()).hexdigest()
    parts = [f"{role}:{hash_path(f) if f else ''}" for role, f in (("train", options.train), ("eval", options.eval))]
    return hashlib.sha256(";".join(parts).encode()).hexdigest()


def read_splits(options: RowOptions, make: Callable[[Row], Pair]) -> Splits:
    """Training, validation and test pairs.

    Held-out pairs are drawn by a hash of the prompt, those of one prompt together, so that no prompt is on both sides
    and the draw does not depend on the file's order; where all have the same, the response counts, too. Test pairs come
    in the hash's order: the first n of them are a fair sample even of a sorted file. DataError where a split would be
    empty, or `make` cannot use a row.
    """
    train_rows = _read(options, options.train, options.train_split)
    test_rows = _read(options, options.eval, options.eval_split)
    if train_rows is None or not train_rows.rows:
        raise DataError(
            f"{options.train or options.dataset} holds no rows; give one that does as task.train or task.dataset"
        )
    train = each(_spread(train_rows.rows, options.max_train), make)
    key = _prompt if len({pair.prompt for pair in train}) > 1 else _whole
    if test_rows is None:
        train, test = hold_out(train, round(len(train) * options.test_percent / 100) or 1, key)
    else:
        test = each(_spread(test_rows.rows, options.max_eval), make)
    if not test:
        raise DataError(
            f"there are no test rows in {options.eval or options.dataset or options.train}; give a file with "
            "rows as task.eval"
        )
    test = hold_out(_spread(test, options.max_eval), len(test), key)[1]
    count = min(round(len(train) * options.validation_percent / 100) or 1, VALIDATION_AT_MOST)
    rest, validation = hold_out(train, count, key)
    if not rest:
        raise DataError(
            f"{options.train or options.dataset} holds too few different rows to train, validate and test on; "
            "give more rows"
        )
    return Splits(
        rest, validation, test, tuple(dict.fromkeys([*train_rows.notes, *(test_rows.notes if test_rows else ())]))
    )


def hold_out(rows: list[Item], count: int, key: Callable[[Item], str]) -> tuple[list[Item], list[Item]]:
    """(the rest in their order, whole groups of equal key in hash order until there are `count` rows)."""
    hashes = [hashlib.sha256(key(row).encode()).digest() for row in rows]
    indices: list[int] = []
    for _, group in groupby(sorted(range(len(rows)), key=lambda i: (hashes[i], i)), key=lambda i: hashes[i]):
        if len(indices) >= count:
            break
        indices += group
    out = set(indices)
    return [row for i, row in enumerate(rows) if i not in out], [rows[i] for i in indices]


def _prompt(pair: Pair) -> str:
    return pair.prompt


def _whole(pair: Pair) -> str:
    return f"{pair.prompt}\0{pair.response}"


def each(rows: Sequence[Item], make: Callable[[Item], Result]) -> list[Result]:
    """What is made of all rows; DataError with the first of which nothing can be made, and how many such rows there
    are.
    """
    results: list[Result] = []
    faults: list[str] = []
    for row in rows:
        try:
            results.append(make(row))
        except DataError as e:
            faults.append(str(e))
    if faults:
        others = (
            f" (the same or a similar fault in {len(faults):,} of {len(rows):,} rows)"
            if 1 < len(faults) < len(rows)
            else ""
        )
        raise DataError(f"{faults[0]}{others}")
    return results


def _spread(rows: list[Item], most: int | None) -> list[Item]:
    n = len(rows)
    return rows if most is None or most >= n else [rows[i * n // most] for i in range(most)]


def _read(options: RowOptions, file: str | None, split: str) -> FileRows | None:
    """The rows of a split of the hub's data set, or of a file; None where there is neither."""
    if options.dataset:
        return FileRows(list(_from_hub(options, split)))
    return None if file is None else read_table(file, file_format(options, file), options.separator, options.columns)


def _from_hub(options: RowOptions, split: str) -> Iterator[Row]:
    import datasets

    answers = hub.answers()
    try:
        with hub.offline(not answers):
            rows = datasets.load_dataset(options.dataset, options.subset, split=split, revision=options.revision)
    except Exception as e:  # datasets, the hub client and the network fail in many classes
        first = str(e).strip().partition("\n")[0]
        if "Unknown split" in first:
            role = "train_split" if split == options.train_split else "eval_split"
            raise DataError(
                f"data set {options.dataset} has no split {split}: {first}; name one of them as task.{role}"
            ) from None
        if "Config name is missing" in first or "BuilderConfig" in first:
            raise DataError(
                f"data set {options.dataset} has several configurations: {' '.join(str(e).split())[:300]}; name one"
                " as task.subset"
            ) from None
        raise DataError(
            f"data set {options.dataset} (split {split}) cannot be loaded:"
            f" {first if answers else f'it is not in the local cache, and {hub.why_not()}'}; save it as JSON lines or"
            " Parquet and give the files as task.train and task.eval instead of task.dataset"
        ) from None
    for number, data in enumerate(rows, 1):
        where = f"{options.dataset}/{split}:{number}"
        yield Row(where, {name: as_text(value, where) for name, value in data.items()})
