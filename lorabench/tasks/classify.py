"""classification as multiple choice by likelihood: trains on the right label's text, tests by accuracy

    ids = [begin] prompt [label]      loss on the label's text alone
    answer = the label to which the model gives the highest likelihood after the prompt, so that any causal model has an
    accuracy

No end-of-text stands after the label, in training nor in the test: an answer is chosen among the labels and never has
to end, and before training its end would cost a model many times what the label does. Loss, accuracy and macro F1 are
over the same test rows. A row whose label does not fit whole is dropped, of the test one of whose labels does not. The
rows are lm-eval's multiple-choice set "classify", too, where evaluation.lm_eval names it (its scorer adds no begin
token).

A row without the column of the default prompt is read by the first of text, review and content that it has; labels
other than 0 and 1 that are words are, without task.choices, their own text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lorabench.engine.data import ChoiceSet, Example, MultipleChoice, TaskData
from lorabench.errors import DataError, unknown
from lorabench.tasks import _chat, _messages, _rows
from lorabench.tasks._counts import fit
from lorabench.tasks._encode import Fitted, fitted, fitted_spans
from lorabench.tasks._row import Row
from lorabench.tasks._rows import PATH_FIELDS, Pair, RowOptions, read_splits
from lorabench.tasks._template import Template, fill

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


__all__ = ["CHOICE_SETS", "PATH_FIELDS", "Options", "fingerprint", "load"]

CHOICE_SETS = ("classify",)
PROMPT, CHOICES = "Review: {sentence}\nSentiment:", {"0": " negative", "1": " positive"}
COLUMNS = ("text", "review", "content")  # that stand for the default prompt's, in this order
WORDS_AT_MOST = 100  # different labels that are taken as their own text: more are hardly labels


def _label(value: object) -> str:
    """A label as data files write it: YAML reads 0 as a number and true as a truth value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _distinct(choices: dict[str, str]) -> dict[str, str]:
    if len(set(choices.values())) < 2:
        raise ValueError(
            f"all labels have the text {next(iter(choices.values()))!r}, so no two can be distinguished; give at"
            " least two texts"
        )
    return choices


def _labels(choices: object) -> object:
    return {_label(k): v for k, v in choices.items()} if isinstance(choices, dict) else choices


class Options(RowOptions):
    """Which rows, the template of the question and the text of each label."""

    LATER: ClassVar[frozenset[str]] = frozenset({"template"})

    name: Literal["classify"] = "classify"
    """classify"""
    prompt: Template = PROMPT
    """what is given; {column} stands for a field of the row"""
    label: str = "label"
    """the column that holds the label"""
    choices: Annotated[
        dict[str, Annotated[str, Field(min_length=1)]],
        BeforeValidator(_labels),
        Field(min_length=2),
        AfterValidator(_distinct),
    ] = Field(default_factory=lambda: dict(CHOICES))
    """each label and the text that stands for it, with its leading space"""
    template: Literal["plain", "chat"] = "plain"
    """chat: the prompt is a user's turn and the label the assistant's, written by the tokenizer's chat template"""

    @property
    def decided_by(self) -> str:
        """Accuracy."""
        return "accuracy"


def fingerprint(options: Options) -> str:
    """Hash of the files' bytes, or of hub id and revision, and of what is measured of them."""
    return f"{_rows.fingerprint(options)}, the label alone"


def load(options: Options, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> TaskData:
    """Examples of the three splits; each of the test brings all labels after its prompt."""
    read = _Reader(options)
    splits = read_splits(options, read.pair)
    texts = tuple(dict.fromkeys(read.choices.values()))  # several labels may mean one text: it is one choice

    def example(pair: Pair, text: str) -> Fitted:
        row = (
            _chat_label(pair, text, tokenizer, sequence_length)
            if options.template == "chat"
            else fitted(tokenizer, pair.prompt, text, sequence_length, ends=False)
        )
        return Fitted(None, row.length) if row.cut(sequence_length) else row  # a part of a label is none

    measured: list[Pair] = []  # test rows that are measured: lm-eval's set is of the same

    def judged(pair: Pair) -> Fitted:
        rows = [example(pair, text) for text in texts]
        choices, longest, answer = (
            tuple(m.example for m in rows if m.example is not None),
            max(m.length for m in rows),
            texts.index(pair.response),
        )
        if len(choices) < len(texts):
            return Fitted(None, longest)
        _refuse_prefixes(pair, texts, choices)
        measured.append(pair)
        return Fitted(replace(choices[answer], choices=choices, answer=answer), longest)

    train, validation, test, facts = fit(splits, lambda p: example(p, p.response), sequence_length, read.notes, judged)
    items = tuple(MultipleChoice(p.prompt, texts, texts.index(p.response)) for p in measured)
    return TaskData(
        train, validation, test, "padded", lambda: (ChoiceSet(CHOICE_SETS[0], items, scored=True),), facts=facts
    )


class _Reader:
    """Rows as pairs; where the template or the labels are left at their defaults, the rows say what stands in their
    place."""

    def __init__(self, options: Options) -> None:
        self.options, self.choices = options, dict(options.choices)
        self.open: bool | None = None if options.choices == CHOICES else False
        """whether labels are their own text: the first row tells"""
        self.column: str | None = None

    @property
    def notes(self) -> list[str]:
        """What the rows said in place of defaults, as sentences."""
        notes = (
            [f"the column {self.column} is read as the text, since there is no column sentence"] if self.column else []
        )
        return notes + ([f"labels are read as their own words: {', '.join(self.choices)}"] if self.open else [])

    def pair(self, row: Row) -> Pair:
        """A row's prompt and its label's text; DataError where a column or the label is unknown."""
        fields, options = row.fields, self.options
        if options.label not in fields:
            raise DataError(
                f"{row.where}: {unknown('column', options.label, fields)}; name the label's column as task.label"
            )
        if (
            options.prompt == PROMPT
            and "sentence" not in fields
            and (column := next((c for c in COLUMNS if c in fields), None))
        ):
            self.column, fields = column, {**fields, "sentence": fields[column]}
        prompt = fill(options.prompt, fields, row.where).rstrip()  # a choice brings its own space
        label = fields[options.label]
        if self.open is None:
            self.open = _is_word(label)
            self.choices = {} if self.open else self.choices
        if self.open and _is_word(label) and (label in self.choices or len(self.choices) < WORDS_AT_MOST):
            self.choices.setdefault(label, f" {label.strip()}")
        if label not in self.choices:
            raise DataError(
                f"{row.where}: {unknown('label', label, list(self.choices)[:20])}; add it to task.choices or fix the"
                " row"
            )
        return Pair(row.where, prompt, self.choices[label], label=label)


def _is_word(label: str) -> bool:
    return any(letter.isalpha() for letter in label)


def _chat_label(pair: Pair, text: str, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> Fitted:
    """The label as the assistant's answer, the loss on its text alone: neither on what the template puts before it, nor
    on the token that ends the turn.
    """
    answer = text.strip()
    whole, spans = _chat.marked(_messages.exchange(pair.prompt, answer), tokenizer, "tokenizer", pair.where)
    at = whole.rfind(answer, *spans[-1])
    return fitted_spans(tokenizer, whole, [(at, at + len(answer))], sequence_length)


def _refuse_prefixes(pair: Pair, texts: tuple[str, ...], choices: tuple[Example, ...]) -> None:
    """DataError where one label's tokens begin another's: the shorter is then never less likely, whatever the model has
    learned.
    """
    ids = [tuple(c.ids.tolist()) for c in choices]
    for i, short in enumerate(ids):
        for j, long in enumerate(ids):
            if i != j and long[: len(short)] == short:
                raise DataError(
                    f"{pair.where}: the text {texts[i]!r} is a prefix of the text {texts[j]!r}, so it is always the"
                    " likelier answer; in task.choices give texts none of which is a prefix of another, such as words"
                    " instead of numbers"
                )
