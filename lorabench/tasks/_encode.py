"""Text to token ids, each token with the UTF-8 bytes of text that it stands for; language-model blocks.

Bytes come from the tokenizer's offset mapping. Its spans are in characters, may leave gaps (trimmed
spaces) and may repeat (one character as several byte tokens), so they are read as end positions: a gap
belongs to the token after it, the text's tail to the last token, and tokens that end at the same
character share its bytes. So the sum over a text is exactly its length, whatever the tokenizer.

    block = [begin] + the next sequence_length - 1 ids of the stream; only the begin token is not predicted
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lorabench.engine.data import Example
from lorabench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokens(NamedTuple):
    """ids (n,) int32 and, for each, the bytes of text that it covers (n,) int64."""

    ids: np.ndarray
    n_bytes: np.ndarray


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Tokens:
    """A text's tokens without special ones added; ModelError where the tokenizer has no offset mapping."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no offset mapping; "
            "allowed: fast tokenizers; save the model with a tokenizer.json"
        )
    # verbose=False: a text longer than model_max_length is cut into blocks later, so the warning would mislead
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False)
    ids = np.asarray(out["input_ids"], dtype=np.int32)
    return Tokens(ids, covered_bytes(text, [end for _, end in out["offset_mapping"]]))


def covered_bytes(text: str, ends: Sequence[int]) -> np.ndarray:
    """Bytes of each token from the character positions where the tokens end."""
    if not len(ends):
        return np.zeros(0, dtype=np.int64)
    until = np.maximum.accumulate(np.asarray(ends, dtype=np.int64))
    until[-1] = len(text)
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    width = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    position = np.concatenate([[0], np.cumsum(width)])  # in bytes, of each character
    first = np.concatenate([[0], np.flatnonzero(until[1:] != until[:-1]) + 1])  # of each run of tokens with one end
    size = np.diff(np.concatenate([first, [len(until)]]))
    to = position[until[first]]
    start = np.concatenate([[0], to[:-1]])
    nth = np.arange(1, len(until) + 1) - np.repeat(first, size)
    covered = np.repeat(start, size) + np.repeat(to - start, size) * nth // np.repeat(size, size)
    return np.asarray(covered - np.concatenate([[0], covered[:-1]]), dtype=np.int64)


def begin_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that opens a sequence: begin-of-text, else end-of-text, else none."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [] if first is None else [first]


def end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The end-of-text token, where the tokenizer has one."""
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def blocks(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], sequence_length: int, *, keep_last: bool
) -> tuple[Example, ...]:
    """Documents joined by end-of-text and cut into blocks of exactly sequence_length ids.

    A last shorter block is kept where keep_last says so, or where it would be the only one.
    """
    parts: list[Tokens] = []
    end = end_ids(tokenizer)
    for document in documents:
        if parts:
            parts.append(Tokens(np.asarray(end, dtype=np.int32), np.zeros(len(end), dtype=np.int64)))
        parts.append(encode(tokenizer, document))
    if not parts:
        return ()
    ids, n_bytes = np.concatenate([p.ids for p in parts]), np.concatenate([p.n_bytes for p in parts])
    begin = np.asarray(begin_ids(tokenizer), dtype=np.int32)
    capacity = sequence_length - len(begin)
    examples: list[Example] = []
    for at in range(0, len(ids), capacity):
        block = np.concatenate([begin, ids[at : at + capacity]])
        if len(block) < 2 or (len(block) < sequence_length and examples and not keep_last):
            continue
        predicted = np.ones(len(block), dtype=bool)
        predicted[0] = False
        unpredicted = 0 if len(begin) else n_bytes[at]
        examples.append(Example(block, predicted, int(n_bytes[at : at + capacity].sum() - unpredicted)))
    return tuple(examples)


class Fitted(NamedTuple):
    """A row as an example of at most sequence_length ids, and what that cost it."""

    example: Example | None
    """None where no token of the response fits"""
    length: int
    """ids of the whole row"""

    def cut(self, sequence_length: int) -> bool:
        """Whether the response lost its end."""
        return self.example is not None and self.length > sequence_length


def completion(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, sequence_length: int) -> Example | None:
    """[begin] prompt, response, [end], the loss on response and end; None where no response token fits (see
    `fitted`)."""
    return fitted(tokenizer, prompt, response, sequence_length).example


def fitted(
    tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, sequence_length: int, *, ends: bool = True
) -> Fitted:
    """[begin] prompt, response, [end], the loss on response and end, and what was cut away; no end where `ends` is
    false.

    Spaces that end the prompt are moved to the response, as lm-eval does, because tokenizers join a
    space to the word after it. The prompt is tokenised alone, as it is at generation. The response's
    ids are those that follow the prompt's in the whole text; where joining has changed the prompt's own
    ids, the response is tokenised apart, so that no token spans the border; SentencePiece then opens it
    with a space, as it opens every text.
    """
    stem = prompt.rstrip()
    response = prompt[len(stem) :] + response
    before, whole = encode(tokenizer, stem), encode(tokenizer, stem + response)
    n = len(before.ids)
    clean = np.array_equal(whole.ids[:n], before.ids) and whole.n_bytes[:n].sum() == len(stem.encode())
    after = Tokens(whole.ids[n:], whole.n_bytes[n:]) if clean else encode(tokenizer, response)
    begin, end = begin_ids(tokenizer), end_ids(tokenizer) if ends else []
    ids = np.concatenate([begin, before.ids, after.ids, end]).astype(np.int32)
    length, ids = len(ids), ids[:sequence_length]
    start = max(len(begin) + n, 1)  # the first token of a sequence has nothing to be predicted from
    if len(ids) <= start or not len(after.ids):
        return Fitted(None, length)
    predicted = np.arange(len(ids)) >= start
    skipped = start - len(begin) - n
    return Fitted(Example(ids, predicted, int(after.n_bytes[skipped : len(ids) - len(begin) - n].sum())), length)


def fitted_spans(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: Sequence[tuple[int, int]], sequence_length: int
) -> Fitted:
    """A text that brings its special tokens, the loss on the tokens that lie in its character spans.

    Special tokens hold no bytes of text. `length` reaches to the last predicted token: what stands after it is lost
    unseen.
    """
    if not getattr(tokenizer, "is_fast", False):
        encode(tokenizer, text)  # says what is missing
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False)
    ids = np.asarray(out["input_ids"], dtype=np.int32)
    offsets = np.asarray(out["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    predicted = np.zeros(len(ids), dtype=bool)
    for start, end in spans:
        start = len(text[:start].rstrip(" "))  # tokenizers join a space to the word after it, as in `fitted`
        predicted |= (offsets[:, 0] >= start) & (offsets[:, 1] <= end)
    predicted[:1] = False
    n_bytes = covered_bytes(text, offsets[:, 1].tolist())
    n_bytes[np.isin(ids, special_ids(tokenizer))] = 0
    length = int(np.flatnonzero(predicted)[-1]) + 1 if predicted.any() else len(ids)
    ids, predicted, n_bytes = (
        ids[: min(length, sequence_length)],
        predicted[:sequence_length][:length],
        n_bytes[:sequence_length][:length],
    )
    if not predicted.any():
        return Fitted(None, length)
    return Fitted(Example(ids, predicted, int(n_bytes[predicted].sum())), length)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that are no text; an unknown word is."""
    return sorted(
        {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
        - {tokenizer.unk_token_id}
    )
