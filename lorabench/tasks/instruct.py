"""prompt and response, or chat, from JSON, CSV, TSV, Parquet or a hub data set: the response is predicted

    ids = [begin] prompt [response end-of-text]      loss on what stands in the second brackets
    ids = the tokenizer's chat template over a conversation      loss on the assistant's turns (tasks._chat)

cut at sequence_length; an example of which no predicted token is left is dropped, in the test split too, and counted.
How prompt and response are tokenised at their border: tasks._encode.fitted.

With template: chat a prompt is the user's turn and its response the assistant's, in the tokenizer's chat template; the
default prompts are then the bare question, or instruction and input. With metric: exact_match the test's answers (of a
conversation the last one) are also generated from what stands before them, greedily, on the same test rows as the loss,
and held against the reference; the loss of a row that is cut is over what fits, its answer is judged whole.

Where prompt and response are left at their defaults, a row's own fields say what it is, the first that fits: question
and answer; messages or conversations; prompt and completion, of text or of messages (TRL); instruction, input and
output (Alpaca, written with Alpaca's own prompt); instruction, context and response (Dolly); prompt and response; text
alone, of which all is predicted.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from lorabench.config.frozen import Whole
from lorabench.engine.data import Generation, TaskData
from lorabench.engine.extraction import extracted
from lorabench.errors import DataError
from lorabench.tasks import _chat, _rows
from lorabench.tasks._counts import fit
from lorabench.tasks._encode import Fitted, fitted, fitted_spans
from lorabench.tasks._layouts import read_pair
from lorabench.tasks._row import Row
from lorabench.tasks._rows import PATH_FIELDS, Pair, RowOptions, read_splits
from lorabench.tasks._template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


__all__ = ["PATH_FIELDS", "Options", "fingerprint", "load"]

PROMPT, RESPONSE = "Q: {question}\nA: ", "{answer}"
SYSTEM_DROPPED = (
    "the tokenizer's chat template drops the system message of conversations that have one, so it is not "
    "seen in training"
)
REFERENCE_SHOWN = 60  # characters
GSM8K = r"####\s*(-?[\d,.]+)"


class Options(RowOptions):
    """Which rows, and the two templates over their columns, or the field that holds a conversation."""

    LATER: ClassVar[frozenset[str]] = frozenset(
        {"messages", "chat_template", "template", "system", "metric", "answer_pattern", "max_new_tokens"}
    )

    name: Literal["instruct"] = "instruct"
    """instruct"""
    prompt: Template = PROMPT
    """what is given; {column} stands for a field of the row"""
    response: Template = RESPONSE
    """what is to be learned"""
    messages: str | None = Field(None, min_length=1)
    """field that holds a conversation, as role and content or from and value; absent: messages or conversations, where
    rows have them and no templates are given"""
    chat_template: Literal["tokenizer", "plain"] = "tokenizer"
    """how a conversation is written: by the tokenizer's chat template, or as lines User: ... and Assistant: ..."""
    template: Literal["plain", "chat"] = "plain"
    """chat: prompt and response are written as a conversation, too"""
    system: str | None = Field(None, min_length=1)
    """words of the system before each prompt, with template: chat"""
    metric: Literal["eval_loss", "exact_match"] = "eval_loss"
    """what decides; exact_match: answers are generated, too, and held against the reference (slow:
    evaluation.max_sequences limits the rows)"""
    answer_pattern: str | None = Field(None, min_length=1)
    """regular expression with one group that finds the answer in the reference and in the generated text; or gsm8k: the
    number after ####; absent: the whole text"""
    max_new_tokens: Whole = Field(256, ge=1, le=100_000)
    """tokens of a generated answer at most"""

    @model_validator(mode="after")
    def _one_layout(self) -> Options:
        if self.messages is not None and not self.layout_is_open:
            raise ValueError(
                "messages (a conversation) and the templates prompt and response exclude each other; give one of them"
            )
        if self.system is not None and self.template == "plain":
            raise ValueError(
                "system is written by the chat template; give template: chat, too, or write it into prompt"
            )
        if self.answer_pattern is not None and self.metric != "exact_match":
            raise ValueError("answer_pattern applies to generated answers; give metric: exact_match, too")
        if self.answer_pattern not in (None, "gsm8k"):
            _one_group(self.answer_pattern)
        return self

    @property
    def decided_by(self) -> str:
        """The loss, or the share of right answers where they are generated."""
        return self.metric

    @property
    def generation(self) -> Generation | None:
        """How answers are generated, where they are."""
        if self.metric != "exact_match":
            return None
        return (
            Generation(self.max_new_tokens, GSM8K, numeric=True)
            if self.answer_pattern == "gsm8k"
            else Generation(self.max_new_tokens, self.answer_pattern)
        )

    @property
    def layout_is_open(self) -> bool:
        """Whether no templates are given."""
        return (self.prompt, self.response) == (PROMPT, RESPONSE)


def _one_group(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as e:
        raise ValueError(
            f"answer_pattern {pattern!r} is not a valid regular expression ({e}); write one such as '#### (.+)', or"
            " gsm8k"
        ) from None
    if groups != 1:
        raise ValueError(
            f"answer_pattern {pattern!r} has {groups} groups; put only the answer into parentheses: '#### (.+)'"
            " (others as (?:...))"
        )


def fingerprint(options: Options) -> str:
    """Hash of the files' bytes, or of hub id and revision."""
    return _rows.fingerprint(options)


def load(options: Options, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> TaskData:
    """Examples of the three splits, one a row; DataError where a row fits no layout, or training or test loses all."""
    layouts: dict[str, None] = {}

    def read(row: Row) -> Pair:
        layout, pair = read_pair(options, row)
        layouts[layout] = None
        return pair

    def conversation(pair: Pair) -> _chat.Marked:
        assert pair.chat is not None
        marked = _chat.marked(pair.chat, tokenizer, options.chat_template, pair.where)
        if _chat.drops_system(pair.chat, marked.text) and SYSTEM_DROPPED not in notes:
            notes.append(SYSTEM_DROPPED)
        return marked

    def example(pair: Pair) -> Fitted:
        if pair.chat is None:
            return fitted(tokenizer, pair.prompt, pair.response, sequence_length)
        return fitted_spans(tokenizer, *conversation(pair), sequence_length)

    def answered(pair: Pair) -> Fitted:
        """A row with the ids that its answer is generated from, and the answer; none where they do not fit."""
        if pair.chat is None:
            row, answer = fitted(tokenizer, pair.prompt, pair.response, sequence_length), pair.response
        else:
            text, spans = conversation(pair)
            row, last = (
                fitted_spans(tokenizer, text, spans, sequence_length),
                fitted_spans(tokenizer, text, spans[-1:], sequence_length),
            )
            if row.example is None or last.example is None:
                return Fitted(None, row.length)
            row = Fitted(replace(row.example, prompt_length=int(last.example.predicted.argmax())), row.length)
            answer = _without_special(tokenizer, text[slice(*spans[-1])])
        if row.example is None:
            return row
        if generation is not None and extracted(answer, generation) is None:
            raise DataError(
                f"{pair.where}: task.answer_pattern finds nothing in the reference {_short(answer)!r}; fix the"
                " pattern or the row, or remove the row from the test"
            )
        prompt_length = row.example.prompt_length or int(row.example.predicted.argmax())
        return Fitted(replace(row.example, prompt_length=prompt_length, reference=answer), row.length)

    generation = options.generation
    splits = read_splits(options, read)
    notes = [f"rows are read as {layout}" for layout in layouts if layout]
    train, validation, test, facts = fit(splits, example, sequence_length, notes, answered if generation else None)
    return TaskData(train, validation, test, "padded", generation=generation, facts=facts)


def _without_special(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    return str(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True))


def _short(text: str) -> str:
    return text if len(text) <= REFERENCE_SHOWN else f"...{text[-REFERENCE_SHOWN:]}"
