"""What rows of prompt and response, or of conversations, look like: the layouts that are known by a row's fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorabench.errors import DataError
from lorabench.formatting import first_names
from lorabench.tasks import _messages
from lorabench.tasks._row import Row
from lorabench.tasks._rows import Pair
from lorabench.tasks._template import fill

if TYPE_CHECKING:
    from lorabench.tasks.instruct import Options


ALPACA = (
    "Below is an instruction that describes a task{}. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{{instruction}}\n\n{}### Response:\n"
)
COLUMNS_SHOWN = 12  # in a sentence
ALPACAS = " (Alpaca's prompt)"
BARE, BARE_WITH = "{instruction}", "{instruction}\n\n{%s}"  # in a chat, whose template brings the rest
WITH, WITHOUT = (
    ALPACA.format(", paired with an input that provides further context", "### Input:\n{%s}\n\n"),
    ALPACA.format("", ""),
)


def read_pair(options: Options, row: Row) -> tuple[str, Pair]:
    """(the layout in words where it was found, the row's prompt and response); DataError where no layout fits."""
    has = row.fields.keys()
    if options.messages is not None:
        return _conversation(row, options.messages)
    chat = options.template == "chat"
    if not options.layout_is_open or {"question", "answer"} <= has:
        return _templated(
            options, row, "", "{question}" if chat and options.layout_is_open else options.prompt, options.response
        )
    for field in _messages.FIELDS:
        if field in has and _messages.holds_conversation(row.fields[field]):
            return _conversation(row, field)
    if {"prompt", "completion"} <= has:
        if _messages.holds_conversation(row.fields["prompt"]) and _messages.holds_conversation(
            row.fields["completion"]
        ):
            return _conversation(row, "prompt", "completion")
        return _templated(options, row, "prompt and completion", "{prompt}", "{completion}")
    for more, answer in (("input", "output"), ("context", "response")):
        if {"instruction", answer} <= has:
            whole = bool(row.fields.get(more, "").strip())
            prompt = (BARE_WITH if chat else WITH) % more if whole else BARE if chat else WITHOUT
            return _templated(
                options, row, f"instruction, {more} and {answer}{'' if chat else ALPACAS}", prompt, f"{{{answer}}}"
            )
    if {"prompt", "response"} <= has:
        return _templated(options, row, "prompt and response", "{prompt}", "{response}")
    if "text" in has and not has & {"label", "labels"}:
        if chat:
            raise DataError(
                f"{row.where}: the rows are text alone, which has no question to put into a chat; remove template:"
                " chat, or give task.prompt and task.response"
            )
        return "text, all of it predicted", _fill_pair(row, "", "{text}")
    if has & set(_messages.FIELDS):  # something is amiss with it, which is said
        return _conversation(row, next(field for field in _messages.FIELDS if field in has))
    raise DataError(f"{row.where}: {_unknown_layout(row.fields)}")


def _templated(options: Options, row: Row, layout: str, prompt: str, response: str) -> tuple[str, Pair]:
    """(the layout, the row's pair): as the two texts, or as two turns of a chat."""
    pair = _fill_pair(row, prompt, response)
    if options.template == "plain":
        return layout, pair
    question, answer = pair.prompt.strip(), pair.response.strip()
    if not question:
        raise DataError(
            f"{row.where}: the prompt {prompt!r} is empty, and a chat begins with the user's words; fill the column"
            " or remove the row"
        )
    chat = _messages.exchange(question, answer, options.system or row.fields.get("system"))
    return f"{layout or 'prompt and response'}, one turn of the user and one of the assistant", pair._replace(chat=chat)


def _unknown_layout(fields: dict[str, str]) -> str:
    """What was seen in a row that no layout fits, and what to give: never the same column twice, never an answer that
    was rejected.
    """
    names = [*fields]
    talk = (
        "chosen"
        if "chosen" in names
        else next((name for name in names if _messages.holds_conversation(fields[name])), None)
    )
    if talk is not None and _messages.holds_conversation(fields[talk]):
        return f"the conversation is in the column {talk}; give task.messages: {talk}"
    if {"chosen", "rejected"} <= fields.keys():
        prompt = "{prompt}\\n" if "prompt" in names else ""
        return (
            "the rows are pairs of a better and a worse answer, of which only one can be learned; give prompt:"
            f' "{prompt}" and response: "{{chosen}}"'
        )
    shown = first_names(names, COLUMNS_SHOWN)
    for column, other, template in (("answer", "question", "response"), ("question", "answer", "prompt")):
        if other in names:
            return (
                f"the row lacks the column '{column}', which the template task.{template} names; its columns:"
                f" {shown}; fill it in, or name columns of the row in task.prompt and task.response"
            )
    sentence = (  # whether defaults were written out is not known: a stored cell has them either way
        f"task.prompt and task.response have their defaults, and no known layout has the columns {shown or 'none'}"
    )
    if len(names) < 2:
        return f"{sentence}; is it the right file? A prompt and a response are needed, each in a column of its own"
    return (
        f'{sentence}; give both, such as prompt: "{{{names[0]}}}\\n" and response: "{{{names[-1]}}}" (a delimited file'
        " without a header line needs task.columns, too)"
    )


def _conversation(row: Row, field: str, completion: str | None = None) -> tuple[str, Pair]:
    chat = _messages.read_chat(field, row.fields, row.where, completion)
    layout = "conversations (prompt and completion)" if completion else f"conversations ({field})"
    return f"{layout}, the loss is on the assistant's turns", Pair(row.where, *_messages.prompt_and_answer(chat), chat)


def _fill_pair(row: Row, prompt: str, response: str) -> Pair:
    response_text = fill(response, row.fields, row.where)
    prompt_text = fill(prompt, row.fields, row.where)
    if not response_text.strip():
        raise DataError(f"{row.where}: the response {response!r} is empty; fill the column or remove the row")
    return Pair(row.where, prompt_text, response_text)
