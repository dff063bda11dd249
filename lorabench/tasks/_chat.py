"""The text of conversations, with the parts that the assistant says.

The text is what the tokenizer's own chat template makes of a conversation, special tokens (begin-of-text, too) and all,
so none are added. Every turn of the assistant is predicted with the token that ends it, and nothing else: not the words
that open the turn, which are given at generation. Where the template marks its turns ({% generation %}), those marks
are taken. Else a turn lies between two prefixes, the conversation before it with the words that open an answer, and
with the turn, each rendered alone and held against the whole text. Where one is no prefix (Qwen3 takes thoughts out of
earlier turns, Mistral puts the system's words into the last question) the text is rendered with another content of that
turn, which shows its place; the special token after it ends the turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lorabench.errors import DataError
from lorabench.tasks._messages import Chat, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


PLAIN = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
OTHER = "\u2418another answer\u2418"  # which no conversation holds
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
ChatFormat = Literal["tokenizer", "plain"]
"""how a conversation is written: by the tokenizer's chat template, or as lines User: ... and Assistant: ..."""


class Marked(NamedTuple):
    """A text and the (start, end) character spans in it that are predicted."""

    text: str
    spans: tuple[tuple[int, int], ...]


def drops_system(chat: Chat, text: str) -> bool:
    """Whether the template leaves the system's words out, as Mistral's does where a conversation ends with an
    answer."""
    return any(m["role"] == "system" and m["content"].strip() not in text for m in chat.messages)


def marked(chat: Chat, tokenizer: PreTrainedTokenizerBase, chat_format: ChatFormat, where: str) -> Marked:
    """The text of a conversation and the assistant's turns in it; DataError where the template does not tell them."""
    if chat_format == "plain":
        return _plain(chat, tokenizer, where)
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{where}: the row is a conversation, and the tokenizer of {tokenizer.name_or_path} has no chat template"
            " (base models usually have none); use the chat model, save its chat_template.jinja in the model's"
            " folder, or give task.chat_template: plain (lines that begin with User: and Assistant:)"
        )
    render = _Renderer(chat, tokenizer, where)
    assistant_turns = [i for i, m in enumerate(chat.messages) if m["role"] == "assistant"]
    whole = render(len(chat.messages), opened=False)
    if MARKS.search(str(tokenizer.get_chat_template(tools=list(render.tools) or None))) and len(
        spans := render.marks()
    ) == len(assistant_turns):
        learned = [span for i, span in zip(assistant_turns, spans, strict=True) if i not in chat.unlearned]
        return Marked(whole, tuple(_without_tail(whole, span, tokenizer) for span in learned))
    return Marked(whole, tuple(_turn(whole, i, render, tokenizer) for i in assistant_turns if i not in chat.unlearned))


class _Renderer:
    """What the tokenizer's template makes of a conversation's first turns."""

    def __init__(self, chat: Chat, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
        self.messages, self.tools, self.tokenizer, self.where = list(chat.messages), chat.tools, tokenizer, where

    def __call__(self, turns: int, *, opened: bool) -> str:
        return str(self._render(self.messages[:turns], add_generation_prompt=opened, tokenize=False))

    def place(self, i: int, whole: str) -> tuple[int, int] | None:
        """Where the content of the i-th turn stands in the whole text: with another content the text differs there
        alone.
        """
        others = [*self.messages[:i], {**self.messages[i], "content": OTHER}, *self.messages[i + 1 :]]
        before, marker, after = str(self._render(others, add_generation_prompt=False, tokenize=False)).partition(OTHER)
        is_unique = (
            marker
            and OTHER not in after
            and whole.startswith(before)
            and whole.endswith(after)
            and len(before) + len(after) < len(whole)
        )
        return (len(before), len(whole) - len(after)) if is_unique else None

    def marks(self) -> list[tuple[int, int]]:
        """The spans that the template itself marks as generated, as far as whole tokens tell."""
        out = self._render(
            self.messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True},
        )
        assert isinstance(out, Mapping)  # with return_dict
        spans: list[tuple[int, int]] = []
        last = False
        for (start, end), mark in zip(out["offset_mapping"], out["assistant_masks"], strict=True):
            if mark:
                spans = [*spans[:-1], (spans[-1][0], end)] if last else [*spans, (start, end)]
            last = bool(mark)
        return spans

    def _render(self, messages: list[Message], **options: Any) -> object:
        """What apply_chat_template gives: a text, or tokens with their masks and offsets."""
        try:
            return self.tokenizer.apply_chat_template(messages, tools=list(self.tools) or None, **options)
        except Exception as e:  # jinja's errors, the template's own complaints, and whatever its expressions meet
            reason = " ".join(str(e).split())[:200] or type(e).__name__
            raise DataError(
                f"{self.where}: the tokenizer's chat template rejects this conversation ({reason}); fix the row, or"
                " remove it"
            ) from None


def _turn(whole: str, i: int, render: _Renderer, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Where the i-th turn stands in the whole text, from its first word that is not given to the token that ends it."""
    before = render(i, opened=True) if i else None  # nothing can be rendered of no turn
    opened = before is not None and whole.startswith(before)
    if before is not None and opened:
        after = render(i + 1, opened=False)
        if whole.startswith(after) and len(after) > len(before):
            return _without_tail(
                whole, (len(before), _turn_end(after, render(i + 1, opened=True), tokenizer)), tokenizer
            )
    place = render.place(i, whole)
    ending = "|".join(map(re.escape, _special(tokenizer)))
    ends = re.compile(rf"\s*(?:{ending})").match(whole, place[1]) if place and ending else None
    if place is None or ends is None:
        raise DataError(
            f"{render.where}, turn {i + 1}: the tokenizer's chat template does not show where the assistant's turn"
            " begins and ends; mark it there with {% generation %} and {% endgeneration %}, or give"
            " task.chat_template: plain"
        )
    return (min(len(before), place[0]) if before is not None and opened else place[0]), ends.end()


def _turn_end(closed: str, opened: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Where the turn ends that ends a conversation: one more token, with which Phi-3 closes the whole and which is gone
    where another turn opens, is none of its.
    """
    special, bare = _special(tokenizer), closed.rstrip()
    last = next((token for token in special if bare.endswith(token)), "")
    turn = bare[: len(bare) - len(last)]
    closes = opened.startswith(turn) and not opened.startswith(bare) and turn.rstrip().endswith(tuple(special))
    return len(turn) if closes else len(closed)


def _without_tail(whole: str, span: tuple[int, int], tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """A span without the blanks after the token that ends the turn: generation stops there."""
    start, end = span
    bare = len(whole[:end].rstrip())
    ended = bare > start and any(whole.endswith(token, start, bare) for token in _special(tokenizer))
    return (start, bare) if ended else span


def _special(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts of special tokens, the longest first."""
    added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    return sorted({*tokenizer.all_special_tokens, *added}, key=lambda t: (-len(t), t))


def _plain(chat: Chat, tokenizer: PreTrainedTokenizerBase, where: str) -> Marked:
    """User: ... Assistant: ..., a line for each turn; the end-of-text token ends an answer."""
    text, end, spans = tokenizer.bos_token or "", tokenizer.eos_token or "\n", []
    for i, message in enumerate(chat.messages):
        if message["role"] not in PLAIN or message.get("tool_calls"):
            raise DataError(
                f"{where}, turn {i + 1}: task.chat_template: plain has no place for tools; use a tokenizer with a"
                " chat template, or remove the row"
            )
        text += f"{PLAIN[message['role']]}:"
        content = f" {str(message['content']).strip()}"
        if message["role"] == "assistant":
            if i not in chat.unlearned:
                spans.append((len(text), len(text) + len(content + end)))
            content += end
        text += content + "\n"
    return Marked(text[:-1], tuple(spans))
