"""prompt and response, or chat, from JSON, CSV, TSV, Parquet or a hub data set: the response is predicted

    ids = [begin] prompt [response end-of-text]      loss on what stands in the second brackets
    ids = the tokenizer's chat template over a conversation      loss on the assistant's turns (tasks._chat)

cut at sequence_length; an example of which no predicted token is left is dropped, in the test split too, and counted.
How prompt and response are tokenised at their border: tasks._encode.fitted.

Where prompt and response are left at their defaults, a row's own fields say what it is, the first that fits: question and answer;
messages or conversations; prompt and completion, of text or of messages (TRL); instruction, input and output (Alpaca,
written with Alpaca's own prompt); instruction, context and response (Dolly); prompt and response; text alone, of which all is predicted.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from lorabench.engine.data import TaskData
from lorabench.errors import DataError
from lorabench.tasks import _chat, _rows
from lorabench.tasks._counts import fit
from lorabench.tasks._encode import Fitted, fitted, fitted_spans
from lorabench.tasks._row import Row
from lorabench.tasks._rows import PATH_FIELDS, Pair, RowOptions, read_splits
from lorabench.tasks._template import Template, fill

__all__ = ["PATH_FIELDS", "Options", "fingerprint", "load"]

PROMPT, RESPONSE = "Q: {question}\nA: ", "{answer}"
ALPACA = "Below is an instruction that describes a task{}. Write a response that appropriately completes the request.\n\n### Instruction:\n{{instruction}}\n\n{}### Response:\n"
UNHEARD = "the tokenizer's chat template leaves the system's words out of conversations that have them, so they are not seen in training"
COLUMNS_SHOWN = 12  # in a sentence
WITH, WITHOUT = ALPACA.format(", paired with an input that provides further context", "### Input:\n{%s}\n\n"), ALPACA.format("", "")


class Options(RowOptions):
    """Which rows, and the two templates over their columns, or the field that holds a conversation."""

    LATER: ClassVar[frozenset[str]] = frozenset({"messages", "chat_template"})

    name: Literal["instruct"] = "instruct"
    """instruct"""
    prompt: Template = PROMPT
    """what is given; {column} stands for a field of the row"""
    response: Template = RESPONSE
    """what is to be learned"""
    messages: str | None = Field(None, min_length=1)
    """field that holds a conversation, as role and content or from and value; absent: messages or conversations, where rows have them and no templates are given"""
    chat_template: Literal["tokenizer", "plain"] = "tokenizer"
    """how a conversation is written: by the tokenizer's chat template, or as lines User: ... and Assistant: ..."""

    @model_validator(mode="after")
    def _one_layout(self) -> Options:
        if self.messages is not None and not self.layout_is_open:
            raise ValueError("messages (a conversation) and the templates prompt and response exclude each other; give one of them")
        return self

    @property
    def layout_is_open(self) -> bool:
        """Whether no templates are given."""
        return (self.prompt, self.response) == (PROMPT, RESPONSE)


def fingerprint(options: Options) -> str:
    """Hash of the files' bytes, or of hub id and revision."""
    return _rows.fingerprint(options)


def load(options: Options, tokenizer: Any, sequence_length: int) -> TaskData:
    """Examples of the three splits, one a row."""
    layouts: dict[str, None] = {}

    def pair(row: Row) -> Pair:
        layout, made = read_pair(options, row)
        layouts[layout] = None
        return made

    def example(pair: Pair) -> Fitted:
        if pair.chat is None:
            return fitted(tokenizer, pair.prompt, pair.response, sequence_length)
        text, spans = _chat.marked(pair.chat, tokenizer, options.chat_template, pair.where)
        if _chat.unheard(pair.chat, text) and UNHEARD not in notes:
            notes.append(UNHEARD)
        return fitted_spans(tokenizer, text, spans, sequence_length)

    splits = read_splits(options, pair)
    notes = [f"rows are read as {layout}" for layout in layouts if layout]
    train, validation, test, facts = fit(splits, example, sequence_length, notes)
    return TaskData(train, validation, test, "padded", facts=facts)


def read_pair(options: Options, row: Row) -> tuple[str, Pair]:
    """(the layout in words where it was found, the row's prompt and response)."""
    has = row.fields.keys()
    if options.messages is not None:
        return _conversation(row, options.messages)
    if not options.layout_is_open or {"question", "answer"} <= has:
        return "", _filled(row, options.prompt, options.response)
    for field in _chat.FIELDS:
        if field in has and _chat.holds_conversation(row.fields[field]):
            return _conversation(row, field)
    if {"prompt", "completion"} <= has:
        if _chat.holds_conversation(row.fields["prompt"]) and _chat.holds_conversation(row.fields["completion"]):
            return _conversation(row, "prompt", "completion")
        return "prompt and completion", _filled(row, "{prompt}", "{completion}")
    if {"instruction", "output"} <= has:
        given = WITH % "input" if row.fields.get("input", "").strip() else WITHOUT
        return "instruction, input and output (Alpaca's prompt)", _filled(row, given, "{output}")
    if {"instruction", "response"} <= has:
        given = WITH % "context" if row.fields.get("context", "").strip() else WITHOUT
        return "instruction, context and response (Alpaca's prompt)", _filled(row, given, "{response}")
    if {"prompt", "response"} <= has:
        return "prompt and response", _filled(row, "{prompt}", "{response}")
    if "text" in has and not has & {"label", "labels"}:
        return "text, all of it predicted", _filled(row, "", "{text}")
    if has & set(_chat.FIELDS):  # something is amiss with it, which is said
        return _conversation(row, next(field for field in _chat.FIELDS if field in has))
    raise DataError(f"{row.where}: {_unknown_layout(row.fields)}")


def _unknown_layout(fields: dict[str, str]) -> str:
    """What was seen in a row that no layout fits, and what to give: never the same column twice, never an answer that was rejected."""
    names = [*fields]
    talk = "chosen" if "chosen" in names else next((name for name in names if _chat.holds_conversation(fields[name])), None)
    if talk is not None and _chat.holds_conversation(fields[talk]):
        return f"the conversation is in the column {talk}; give task.messages: {talk}"
    if {"chosen", "rejected"} <= fields.keys():
        prompt = "{prompt}\\n" if "prompt" in names else ""
        return f'the rows are pairs of a better and a worse answer, of which one can be learned; give prompt: "{prompt}" and response: "{{chosen}}"'
    shown = ", ".join(names[:COLUMNS_SHOWN]) + (f" and {len(names) - COLUMNS_SHOWN:,} more" if len(names) > COLUMNS_SHOWN else "")
    seen = f"task.prompt and task.response are not given, and nothing is known of rows with the columns {shown or 'none'}"
    if len(names) < 2:
        return f"{seen}; is it the right file? A prompt and a response are needed, each in a column of its own"
    return f'{seen}; give both, such as prompt: "{{{names[0]}}}\\n" and response: "{{{names[-1]}}}" (a delimited file without a header line needs task.columns, too)'


def _conversation(row: Row, field: str, completion: str | None = None) -> tuple[str, Pair]:
    chat = _chat.read_chat(field, row.fields, row.where, completion)
    told = "conversations (prompt and completion)" if completion else f"conversations ({field})"
    return f"{told}, the loss is on the assistant's turns", Pair(row.where, *_chat.given_and_last(chat), chat)


def _filled(row: Row, prompt: str, response: str) -> Pair:
    said = fill(response, row.fields, row.where)
    given = fill(prompt, row.fields, row.where)
    if not said.strip():
        raise DataError(f"{row.where}: the response {response!r} is empty; fill the column or take the row out")
    return Pair(row.where, given, said)
