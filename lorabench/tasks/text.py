"""language modelling on plain text files: every token is predicted

Files are read whole as UTF-8; a folder stands for all .txt and .md files below it, in order of their paths.
Documents are joined by end-of-text, so one file is one document. The validation share, and the test
share where no `eval` is given, are taken from the end of the training text: train | validation | test,
each contiguous, the cuts moved to the next end of a line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from lorabench.config.fingerprint import hash_path
from lorabench.config.frozen import Number
from lorabench.config.paths import DataFile
from lorabench.config.settings import TaskSpec
from lorabench.engine.data import TaskData
from lorabench.engine.data_files import is_web_page, read_text
from lorabench.errors import DataError
from lorabench.tasks._counts import block_facts
from lorabench.tasks._encode import blocks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


PATH_FIELDS = ("train", "eval")
SUFFIXES = (".txt", ".md")
ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")  # of the tasks over rows
LINE_WITHIN = 2000  # characters that a cut may move to reach the end of a line

DataFiles = Annotated[
    tuple[DataFile, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Options(TaskSpec):
    """Which files, and how much of them is held out."""

    name: Literal["text"] = "text"
    """text"""
    train: Annotated[DataFiles, Field(min_length=1)]
    """a text file, a folder of them, or a list of these"""
    eval: DataFiles = ()
    """test text; absent: the end of the training text, by test_percent"""
    validation_percent: Number = Field(5, gt=0, lt=50)
    """share of the training text for validation"""
    test_percent: Number = Field(10, gt=0, lt=50)
    """share of the training text for the test, where no eval is given"""

    @model_validator(mode="after")
    def _held_out(self) -> Options:
        both = next((file for file in self.eval if file in self.train), None)
        if both is not None:
            raise ValueError(
                f"{both} is in train and in eval, so nothing would be held out; remove eval, or give another file"
            )
        return self


def fingerprint(options: Options) -> str:
    """Hash of all files in the order in which they are read."""
    total = hashlib.sha256()
    for role, paths in (("train", options.train), ("eval", options.eval)):
        total.update(f"{role}:".encode())
        for file in _files(paths):
            total.update(f"{hash_path(file)};".encode())
    return total.hexdigest()


def load(options: Options, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> TaskData:
    """Blocks of the three splits; DataError where the training text fills no block or a held-out share is empty."""
    files = _files(options.train)
    both = next((file for file in _files(options.eval) if file in files), None)
    if both is not None:
        raise DataError(
            f"{both} is among the training files and in task.eval, so the test would be on training text; remove it"
            " from one of them"
        )
    shares = (options.validation_percent,) if options.eval else (options.validation_percent, options.test_percent)
    parts = split(_read(options.train), [share / 100 for share in shares])
    test = _read(options.eval) if options.eval else parts[2]
    train = blocks(tokenizer, parts[0], sequence_length, keep_last=False)
    validation = blocks(tokenizer, parts[1], sequence_length, keep_last=True)
    tested = blocks(tokenizer, test, sequence_length, keep_last=True)
    for name, examples in (("training", train), ("validation", validation), ("test", tested)):
        if not examples:
            raise DataError(
                f"the {name} text of {', '.join(options.train)} holds no tokens; give longer files or other shares"
            )
    return TaskData(
        train,
        validation,
        tested,
        "packed",
        facts=block_facts(train, validation, tested, _notes([*files, *_files(options.eval)])),
    )


def split(documents: Sequence[str], shares: Sequence[float]) -> list[list[str]]:
    """The documents cut into 1 + len(shares) contiguous parts; the shares count from the end of the text."""
    total = sum(map(len, documents))
    cuts = [round(total * (1 - sum(shares[i:]))) for i in range(len(shares))]
    parts: list[list[str]] = [[]]
    at = 0
    for document in documents:
        start = 0
        while cuts and cuts[0] < at + len(document):
            here = max(cuts.pop(0) - at, start)
            line_end = document.find("\n", max(here - 1, start), here + LINE_WITHIN) + 1
            here = line_end if 0 < line_end < len(document) else here
            parts[-1].append(document[start:here])
            parts.append([])
            start = here
        parts[-1].append(document[start:])
        at += len(document)
    parts += [[] for _ in cuts]
    return [[text for text in part if text] for part in parts]


def _notes(files: Sequence[Path]) -> list[str]:
    """What the reader should know of files that are more than plain text: their marks are learned, too."""
    rows = [
        f"{file.name} is read as plain text, markup and field names included; the task instruct would read its rows"
        for file in files
        if file.suffix.lower() in ROWS
    ]
    pages = [
        f"{file.name} is a web page or XML, and is read with its tags" for file in files if is_web_page(_head(file))
    ]
    return rows + pages


def _head(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(400).decode("utf-8", "replace")


def _files(paths: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        matches = (
            sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES and f.is_file()) if path.is_dir() else [path]
        )
        if not matches:
            raise DataError(
                f"{path} holds no text file; allowed: {' and '.join(SUFFIXES)} files in a folder, or a file by its name"
            )
        files += matches
    return files


def _read(paths: Sequence[str]) -> list[str]:
    texts = [read_text(file).replace("\r\n", "\n").replace("\r", "\n") for file in _files(paths) if file.stat().st_size]
    return [text for text in texts if text]
