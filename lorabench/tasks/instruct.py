"""prompt and response pairs from JSON lines, CSV, TSV or a hub data set: the response is predicted

    ids = [begin] prompt [response end-of-text]      loss on what stands in the second brackets

cut at sequence_length; an example of which no response token is left is dropped, in the test split too.
How prompt and response are tokenised at their border: tasks._encode.completion.
"""

from __future__ import annotations

from typing import Any, Literal

from lorabench.engine.data import Example, TaskData
from lorabench.errors import DataError
from lorabench.tasks import _rows
from lorabench.tasks._encode import completion
from lorabench.tasks._rows import PATH_FIELDS, Row, RowOptions, read_splits
from lorabench.tasks._template import Template, fill

__all__ = ["PATH_FIELDS", "Options", "fingerprint", "load"]


class Options(RowOptions):
    """Which rows, and the two templates over their columns."""

    name: Literal["instruct"] = "instruct"
    """instruct"""
    prompt: Template = "Q: {question}\nA: "
    """what is given; {column} stands for a field of the row"""
    response: Template = "{answer}"
    """what is to be learned"""


def fingerprint(options: Options) -> str:
    """Hash of the files' bytes, or of hub id and revision."""
    return _rows.fingerprint(options)


def load(options: Options, tokenizer: Any, sequence_length: int) -> TaskData:
    """Examples of the three splits, one a row."""

    def prompt(row: Row) -> str:
        return fill(options.prompt, row.fields, row.where)

    def examples(rows: list[Row]) -> tuple[Example, ...]:
        pairs = []
        for row in rows:
            response = fill(options.response, row.fields, row.where)
            if not response.strip():
                raise DataError(f"{row.where}: the response {options.response!r} is empty; fill the column or take the row out")
            pairs.append((prompt(row), response))
        return complete(tokenizer, pairs, sequence_length)

    train, validation, test = read_splits(options, prompt)
    return TaskData(examples(train), examples(validation), examples(test), "padded")


def complete(tokenizer: Any, pairs: list[tuple[str, str]], sequence_length: int) -> tuple[Example, ...]:
    """(prompt, response) pairs as examples; DataError where every response is cut away."""
    made = [completion(tokenizer, prompt, response, sequence_length) for prompt, response in pairs]
    kept = tuple(example for example in made if example is not None)
    if not kept:
        raise DataError(
            f"all {len(made)} prompts of a split fill training.sequence_length {sequence_length} without room for a response; "
            "raise it, or shorten task.prompt"
        )
    return kept
