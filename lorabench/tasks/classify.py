"""classification as multiple choice by likelihood: trains on the right label's text, tests by accuracy

Trained like `instruct`, the response being the text of the row's label. The test rows are also a
multiple-choice set "classify": the choice to which the model gives the highest likelihood after the
prompt is its answer, so any causal model has an accuracy.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lorabench.engine.data import Choice, ChoiceSet, TaskData
from lorabench.errors import DataError, unknown
from lorabench.tasks import _rows
from lorabench.tasks._counts import fit
from lorabench.tasks._encode import fitted
from lorabench.tasks._row import Row
from lorabench.tasks._rows import PATH_FIELDS, Pair, RowOptions, read_splits
from lorabench.tasks._template import Template, fill

__all__ = ["CHOICE_SETS", "PATH_FIELDS", "Options", "fingerprint", "load"]

CHOICE_SETS = ("classify",)


def _label(value: Any) -> Any:
    """A label as data files write it: YAML reads 0 as a number and true as a truth value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _told_apart(choices: dict[str, str]) -> dict[str, str]:
    if len(set(choices.values())) < 2:
        raise ValueError(f"all labels have the text {next(iter(choices.values()))!r}, so none can be told from another; give two texts at least")
    return choices


def _labels(choices: Any) -> Any:
    return {_label(k): v for k, v in choices.items()} if isinstance(choices, dict) else choices


class Options(RowOptions):
    """Which rows, the template of the question and the text of each label."""

    name: Literal["classify"] = "classify"
    """classify"""
    prompt: Template = "Review: {sentence}\nSentiment:"
    """what is given; {column} stands for a field of the row"""
    label: str = "label"
    """the column that holds the label"""
    choices: Annotated[dict[str, Annotated[str, Field(min_length=1)]], BeforeValidator(_labels), Field(min_length=2), AfterValidator(_told_apart)] = Field(
        default_factory=lambda: {"0": " negative", "1": " positive"}
    )
    """each label and the text that stands for it, with its leading space"""


def fingerprint(options: Options) -> str:
    """Hash of the files' bytes, or of hub id and revision."""
    return _rows.fingerprint(options)


def load(options: Options, tokenizer: Any, sequence_length: int) -> TaskData:
    """Examples of the three splits, and the test rows as a choice set."""
    labels = list(options.choices)
    texts = tuple(dict.fromkeys(options.choices.values()))  # several labels may mean one text: it is one choice

    def pair(row: Row) -> Pair:
        prompt = fill(options.prompt, row.fields, row.where).rstrip()  # a choice brings its own space
        if options.label not in row.fields:
            raise DataError(f"{row.where}: {unknown('column', options.label, row.fields)}; name the label's column as task.label")
        seen = row.fields[options.label]
        if seen not in options.choices:
            raise DataError(f"{row.where}: {unknown('label', seen, labels)}; add it to task.choices or mend the row")
        return Pair(row.where, prompt, options.choices[seen], label=seen)

    splits = read_splits(options, pair)
    train, validation, test, facts = fit(splits, lambda p: fitted(tokenizer, p.prompt, p.response, sequence_length), sequence_length, items=len(splits.test))
    items = tuple(Choice(p.prompt, texts, texts.index(p.response)) for p in splits.test)
    return TaskData(train, validation, test, "padded", lambda: (ChoiceSet(CHOICE_SETS[0], items),), facts=facts)
