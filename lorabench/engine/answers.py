"""The test rows of a task, judged: loss, accuracy of labels, exact match of generated answers, all over the same rows.

    label       argmin over the labels of  sum of -log p(token) of the label's text      the first one where two are
                equal (lm-eval's acc)
    accuracy    share of rows whose label is right                                      macro_f1: F1 of each label that
                is right or given somewhere, averaged
    eval_loss   of the right label, from the same passes

    answer      greedy: the likeliest token until one that ends a text, or max_new_tokens; rows are padded on the left,
                and masked
    exact_match share of rows whose answer, as engine.extraction finds it, is the reference's

Limits: in low precision two tokens can be equally likely to within rounding, and then another batch size may give
another text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from transformers import GenerationConfig

from lorabench.config.settings import EvaluationSpec
from lorabench.engine.batches import Layout, collate
from lorabench.engine.data import Example, Generation, TaskData
from lorabench.engine.evaluate import Losses, held_out_items, held_out_readings, packed_losses
from lorabench.engine.extraction import extracted
from lorabench.engine.loss import labelled_logits, single
from lorabench.engine.positions import positions
from lorabench.engine.train import CausalModel
from lorabench.record.items import Items
from lorabench.record.result import Reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Scores = tuple[list[Reading], dict[str, Items]]
Progress = Callable[[int, int], None]
"""called with the answers that are generated, and all"""


class Answers(NamedTuple):
    """What a model holds of the test rows, before it is judged."""

    losses: Losses
    """of the right answers"""
    nats: np.ndarray | None
    """-log p of every choice (rows, choices), where the rows have choices"""


def task_readings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    spec: EvaluationSpec,
    where: torch.device,
    progress: Progress = lambda done, total: None,
    known: Answers | None = None,
    texts: Sequence[Generated] | None = None,
) -> Scores:
    """All that the task itself measures of a model, over the first max_sequences test rows, and what it is a mean
    of.

    known, texts: its answers and what it generates as answers, where they are known already.
    """
    rows, padding = data.test[: spec.max_sequences], tokenizer.pad_token_id
    (said,) = answers(model, rows, spec.batch_size, padding, where) if known is None else (known,)
    readings, items = ([], {}) if said.nats is None else accuracy(said.nats, np.array([row.answer for row in rows]))
    if data.generation is not None and math.isfinite(said.losses.mean):
        if texts is None:
            texts = generate(model, tokenizer, rows, data.generation.max_new_tokens, spec.batch_size, where, progress)
        readings, items = exact_match(texts, rows, data.generation)
    return held_out_readings(said.losses, data) + readings, held_out_items(said.losses) | items


def passed(rows: Sequence[Example]) -> list[Example]:
    """The sequences that go through a model for test rows."""
    if not all(row.choices for row in rows):
        return list(rows)
    if all(_ends_in_one_token(row.choices) for row in rows):
        return [row.choices[0] for row in rows]
    return [choice for row in rows for choice in row.choices]


def answers(
    model: PreTrainedModel,
    rows: Sequence[Example],
    batch_size: int,
    padding: int,
    where: torch.device,
    adapters: int = 1,
) -> list[Answers]:
    """Of each of so many adapters, which see the rows beside each other (engine.packed_layers)."""
    if not all(row.choices for row in rows):
        each = packed_losses(model, rows, batch_size, padding, where, adapters=adapters)
        return [Answers(own, None) for own in each]
    return choice_losses(model, rows, batch_size, padding, where, adapters)


def choice_losses(
    model: PreTrainedModel,
    rows: Sequence[Example],
    batch_size: int,
    padding: int,
    where: torch.device,
    adapters: int = 1,
) -> list[Answers]:
    """Of rows with equally many choices. Where the choices of every row are one token each after the same prompt, a row
    is one pass.
    """
    right = np.arange(len(rows)), [row.answer for row in rows]
    if all(_ends_in_one_token(row.choices) for row in rows):
        n_bytes = np.array([row.choices[row.answer].n_bytes for row in rows])
        one_each = np.ones(len(rows), dtype=int)
        tables = _last_token_nats(model, rows, batch_size, padding, where, adapters)
        return [Answers(Losses(nats[right], one_each, n_bytes), nats) for nats in tables]
    found, shape = [], (len(rows), len(rows[0].choices))
    for every in packed_losses(model, passed(rows), batch_size, padding, where, adapters=adapters):
        nats, tokens, n_bytes = (values.reshape(shape) for values in (every.nats, every.tokens, every.n_bytes))
        found.append(Answers(Losses(nats[right], tokens[right], n_bytes[right]), nats))
    return found


def _ends_in_one_token(choices: Sequence[Example]) -> bool:
    first = choices[0]
    return all(
        np.array_equal(c.ids[:-1], first.ids[:-1]) and c.predicted[-1] and not c.predicted[:-1].any() for c in choices
    )


@torch.no_grad()
def _last_token_nats(
    model: PreTrainedModel, rows: Sequence[Example], batch_size: int, padding: int, where: torch.device, adapters: int
) -> np.ndarray:
    """-log p of the last token of every choice (adapters, rows, choices), from one pass of each row's prompt; longest
    first."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].choices[0].ids))
    nats = np.zeros((adapters, len(rows), len(rows[0].choices)))
    for start in range(0, len(order), batch_size):
        picked = order[start : start + batch_size]
        beside = picked * adapters
        batch = collate([rows[i].choices[0] for i in beside], Layout(padding), where)
        lengths = torch.tensor([len(rows[i].choices[0].ids) for i in beside], device=where)
        before_last = torch.arange(len(beside), device=where) * batch.ids.shape[1] + lengths - 2
        table = torch.log_softmax(single(labelled_logits(model, batch, before_last)), dim=-1)
        last = torch.tensor([[int(c.ids[-1]) for c in rows[i].choices] for i in beside], device=where)
        nats[:, picked] = -table.gather(1, last).double().view(adapters, len(picked), -1).cpu().numpy()
    return nats


def accuracy(nats: np.ndarray, right: np.ndarray) -> Scores:
    """accuracy and macro_f1 of the likeliest choices; nothing where a loss is not finite."""
    if not np.isfinite(nats).all():
        return [], {}
    predicted = nats.argmin(axis=1)
    hit = Items((predicted == right).astype(np.float64))
    f1 = [
        2 * np.sum((predicted == k) & (right == k)) / (np.sum(predicted == k) + np.sum(right == k))
        for k in np.union1d(predicted, right)
    ]
    return [_share("accuracy", hit), Reading(metric="macro_f1", value=float(np.mean(f1)), count=len(right))], {
        "accuracy": hit
    }


def exact_match(texts: Sequence[Generated], rows: Sequence[Example], how: Generation) -> Scores:
    """exact_match, and the shares of texts without an answer and without an end."""
    answers = [extracted(text.text, how) for text in texts]
    hit = Items(
        np.array(
            [a is not None and a == extracted(row.reference, how) for a, row in zip(answers, rows, strict=True)],
            dtype=np.float64,
        )
    )
    readings = [_share("exact_match", hit)]
    if how.pattern is not None:
        readings.append(_share("unanswered", Items(np.array([a is None for a in answers], dtype=np.float64))))
    readings.append(_share("unended", Items(np.array([not text.ended for text in texts], dtype=np.float64))))
    return readings, {"exact_match": hit}


def _share(name: str, items: Items) -> Reading:
    n, share = len(items.sums), items.value
    return Reading(
        metric=name, value=share, stderr=math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None, count=n
    )


class Generated(NamedTuple):
    """An answer's text without special tokens, whether it came to its end, and the tokens until there."""

    text: str
    ended: bool
    tokens: int


def generate(
    model: CausalModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Example],
    max_new_tokens: int,
    batch_size: int,
    where: torch.device,
    progress: Progress = lambda done, total: None,
) -> list[Generated]:
    """The model's answer to each row, in order; longest first, so that a batch that does not fit is met at once."""
    (only,) = packed_texts(model, tokenizer, rows, max_new_tokens, batch_size, where, progress)
    return only


@torch.no_grad()
def packed_texts(
    model: CausalModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Example],
    max_new_tokens: int,
    batch_size: int,
    where: torch.device,
    progress: Progress = lambda done, total: None,
    adapters: int = 1,
) -> list[list[Generated]]:
    """Those of each of so many adapters, which see every batch beside each other (engine.packed_layers)."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model  # adapters are inside its layers
    own, ends = inner.generation_config, end_tokens(inner, tokenizer, rows)
    longest_sequence = positions(inner.config) or math.inf
    order = sorted(range(len(rows)), key=lambda i: -rows[i].prompt_length)
    answers: list[dict[int, Generated]] = [{} for _ in range(adapters)]
    try:
        for start in range(0, len(order), batch_size):
            picked = order[start : start + batch_size]
            longest, beside = rows[picked[0]].prompt_length, picked * adapters
            ids = torch.full((len(beside), longest), tokenizer.pad_token_id, device=where)
            mask = torch.zeros_like(ids)
            for line, i in enumerate(beside):
                ids[line, longest - rows[i].prompt_length :] = torch.from_numpy(
                    rows[i].ids[: rows[i].prompt_length].astype(np.int64)
                ).to(where)
                mask[line, longest - rows[i].prompt_length :] = 1
            # all of its own: a model may bring sampling, penalties and filters, which generate() would fill in
            inner.generation_config = GenerationConfig(
                do_sample=False,
                max_new_tokens=int(min(max_new_tokens, max(1, longest_sequence - longest))),
                eos_token_id=ends or None,
                pad_token_id=tokenizer.pad_token_id,
                use_cache=True,
            )
            continuations = inner.generate(ids, attention_mask=mask)[:, longest:].cpu().tolist()
            for line, (i, new) in enumerate(zip(beside, continuations, strict=True)):
                end = next((n for n, token in enumerate(new) if token in ends), len(new))
                text = str(tokenizer.decode(new[:end], skip_special_tokens=True))
                answers[line // len(picked)][i] = Generated(text, end < len(new), min(end + 1, len(new)))
            progress(len(answers[0]), len(rows))
    finally:
        inner.generation_config = own
    return [[said[i] for i in range(len(rows))] for said in answers]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example]) -> list[int]:
    """Tokens that end an answer: end-of-text, those that the model names, and special ones with which the rows' own
    answers end, as a chat's turns do.
    """
    named = model.generation_config.eos_token_id
    special = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    last = {int(row.ids[-1]) for row in rows if row.predicted[-1]} & special
    return sorted({*last, *(named if isinstance(named, list | tuple) else [named]), tokenizer.eos_token_id} - {None})
