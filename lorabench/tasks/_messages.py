"""Conversations: the layouts they come in.

messages         [{"role": "user", "content": "..."}, ...]                 OpenAI, TRL
conversations    [{"from": "human", "value": "..."}, ...]                  ShareGPT
"""

from __future__ import annotations

import json
from typing import NamedTuple, TypeGuard

from lorabench.errors import DataError, unknown
from lorabench.tasks._row import JsonObject, json_kind

FIELDS = ("messages", "conversations", "conversation")
ROLES = {
    "system": "system", "developer": "developer", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
Message = JsonObject
"""one turn: its role, its content, and what a template may ask for, such as tool_calls"""


class Chat(NamedTuple):
    """A conversation as chat templates take it."""

    messages: tuple[Message, ...]
    tools: tuple[JsonObject, ...] = ()
    unlearned: frozenset[int] = frozenset()
    """assistant's turns that are given, not learned (OpenAI's weight: 0)"""


def exchange(prompt: str, response: str, system: str | None = None) -> Chat:
    """A prompt and its response as one turn of the user and one of the assistant."""
    system_turns = [{"role": "system", "content": system}] if system and system.strip() else []
    return Chat((*system_turns, {"role": "user", "content": prompt}, {"role": "assistant", "content": response}))


def is_conversation(value: object) -> TypeGuard[list[Message]]:
    """A list of turns: objects with role and content, or from and value."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(t, dict) and ("role" in t or "from" in t) for t in value)
    )


def holds_conversation(text: str) -> bool:
    """Whether a field's text is a conversation as JSON."""
    return text.startswith("[") and is_conversation(_parse_json(text))


def read_chat(field: str, fields: dict[str, str], where: str, completion: str | None = None) -> Chat:
    """The conversation of a row's field, with the turns of `completion` after it; DataError where it is none that is
    understood.
    """
    turns = _turns(field, fields, where)
    prompt_turns = len(turns)
    if completion is not None:
        turns += _turns(completion, fields, where)
    messages = [_message(turn, f"{where}, turn {n}") for n, turn in enumerate(turns, 1)]
    unlearned = {i for i, turn in enumerate(turns) if turn.get("weight") == 0 or turn.get("train") is False}
    if completion is not None:
        unlearned |= set(range(prompt_turns))
    if fields.get("system", "").strip() and messages[0]["role"] not in ("system", "developer"):
        messages.insert(0, {"role": "system", "content": fields["system"]})
        unlearned = {i + 1 for i in unlearned}
    tools = _parse_json(fields["tools"]) if fields.get("tools", "").strip() else []
    if not isinstance(tools, list):
        raise DataError(
            f"{where}: tools is not a list of tools; give the list that the chat template takes, or remove the field"
        )
    chat = Chat(tuple(messages), tuple(tools), frozenset(unlearned))
    if not any(m["role"] == "assistant" and i not in unlearned for i, m in enumerate(messages)):
        raise DataError(
            f"{where}: the conversation in {field} has no assistant turn to learn from; remove the row, or add the"
            " answer"
        )
    return chat


def prompt_and_answer(chat: Chat) -> tuple[str, str]:
    """(all before the last answer, the last answer) as text, by which rows are compared and held out."""
    last = max(i for i, m in enumerate(chat.messages) if m["role"] == "assistant")
    return json.dumps([chat.tools, *chat.messages[:last]], ensure_ascii=False, default=str), str(
        chat.messages[last].get("content") or chat.messages[last].get("tool_calls")
    )


def _turns(field: str, fields: dict[str, str], where: str) -> list[Message]:
    if field not in fields:
        raise DataError(
            f"{where}: {unknown('column', field, fields)}; name the one that holds the conversation as task.messages"
        )
    turns = _parse_json(fields[field])
    if not is_conversation(turns):
        start = fields[field][:40]
        python = (
            "; it is a Python list, not JSON: save the rows as JSON lines"
            if start.startswith(("[{'", "[ {'", "[{\"role': '"))
            else ""
        )
        raise DataError(
            f"{where}: {field} is not a conversation ({start!r}{'...' if len(fields[field]) > 40 else ''}); a list of"
            f" objects with role and content is needed{python}"
        )
    return list(turns)


def _message(turn: Message, where: str) -> Message:
    written_role = str(turn.get("role", turn.get("from"))).lower()
    if written_role not in ROLES:
        raise DataError(f"{where}: {unknown('role', written_role, ROLES)}")
    if turn.get("function_call"):
        raise DataError(f"{where}: function_call is OpenAI's old format for tool calls; use tool_calls instead")
    role = ROLES[written_role]
    content = _content(turn.get("content", turn.get("value")), where)
    rest = {
        k: v
        for k, v in turn.items()
        if k not in ("role", "from", "content", "value", "weight", "train") and v is not None
    }
    if role == "assistant" and not content.strip() and not rest.get("tool_calls"):
        raise DataError(f"{where}: the assistant says nothing; fill its content or remove the row")
    return {"role": role, "content": content, **rest}


def _content(content: object, where: str) -> str:
    """Text, or the joined texts of a list of parts; DataError where a part is no text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        parts = [
            (
                part
                if isinstance(part, str)
                else part.get("text")
                if isinstance(part, dict) and part.get("type", "text") == "text"
                else None
            )
            for part in content
        ]
        if all(isinstance(part, str) for part in parts):
            return "".join(map(str, parts))
        kinds = sorted({str(part.get("type")) for part in content if isinstance(part, dict)} - {"text"})
        raise DataError(
            f"{where}: the content has parts that are not text ({', '.join(kinds) or 'unnamed'}), which a language"
            " model cannot read; remove the row"
        )
    raise DataError(f"{where}: the content is {json_kind(content)}, not text; put it in quotes")


def _parse_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
