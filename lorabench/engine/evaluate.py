"""Held-out loss and forgetting.

    eval_loss = sum of -log p(token) / number of predicted tokens                     [nats per token]
    bits_per_byte = sum of -log2 p(token) / UTF-8 bytes of the predicted text
    forgetting = loss of the tuned model - loss of its own base, on text sampled from that base
    learned_bits = information of the test split - sum of -log2 p(token), from as many of its sequences as are
    evaluated; at least 0

Standard errors treat a sequence as the unit: tokens within one are not independent. For a ratio of sums
L = sum(l_i) / sum(n_i) that is sqrt(n/(n-1) * sum (l_i - L n_i)^2) / sum(n_i) (Cochran 1977, eq. 6.9).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import GenerationConfig

from lorabench.engine.batches import Layout, collate
from lorabench.engine.data import Example, TaskData
from lorabench.engine.data_files import read_text
from lorabench.engine.loss import Loss, token_loss
from lorabench.engine.train import CausalModel
from lorabench.errors import DataError
from lorabench.record.items import Items
from lorabench.record.result import Reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


SAMPLES, SAMPLE_TOKENS, SAMPLE_SEED = 64, 64, 20_240  # 4,096 tokens: about a second on the 1M model
AT_ONCE = 128  # texts sampled side by side: their keys and values stay small
WINDOWS = 64  # of a file that stands for the base's domain


@dataclass(frozen=True)
class Losses:
    """Per sequence, in order: sums of -log p in nats, predicted tokens, and bytes of the predicted text."""

    nats: np.ndarray
    tokens: np.ndarray
    n_bytes: np.ndarray

    @property
    def mean(self) -> float:
        """nats per predicted token"""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """bits per UTF-8 byte of the predicted text"""
        return float(self.nats.sum() / math.log(2) / self.n_bytes.sum())


def losses(
    model: PreTrainedModel,
    examples: Sequence[Example],
    batch_size: int,
    padding: int,
    where: torch.device,
    loss_of: Loss = token_loss,
) -> Losses:
    """The loss of each sequence; longest first, so that a batch that does not fit is met at once."""
    (only,) = packed_losses(model, examples, batch_size, padding, where, loss_of)
    return only


@torch.no_grad()
def packed_losses(
    model: PreTrainedModel,
    examples: Sequence[Example],
    batch_size: int,
    padding: int,
    where: torch.device,
    loss_of: Loss = token_loss,
    adapters: int = 1,
) -> list[Losses]:
    """Those of each of so many adapters, which see every batch beside each other (engine.packed_layers)."""
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].ids))
    nats = np.zeros((adapters, len(examples)))
    for start in range(0, len(order), batch_size):
        picked = order[start : start + batch_size]
        batch = collate([examples[i] for i in picked] * adapters, Layout(padding), where)
        table = loss_of(model, batch, "none").double().sum(dim=1).view(adapters, -1)
        nats[:, picked] = table.cpu().numpy()
    tokens = np.array([int(e.predicted[1:].sum()) for e in examples])
    return [Losses(own, tokens, np.array([e.n_bytes for e in examples])) for own in nats]


def ratio_stderr(numerators: np.ndarray, denominators: np.ndarray) -> float | None:
    """Standard error of sum(numerators) / sum(denominators), None for a single item."""
    n, ratio = len(numerators), numerators.sum() / denominators.sum()
    if n < 2:
        return None
    return float(math.sqrt(n / (n - 1) * np.sum((numerators - ratio * denominators) ** 2)) / denominators.sum())


def held_out_readings(measured: Losses, data: TaskData | None = None) -> list[Reading]:
    """eval_loss, perplexity, bits_per_byte, and what was learned of data that hold a known information; infinite values
    are left out.
    """
    stderr, count = ratio_stderr(measured.nats, measured.tokens), int(measured.tokens.sum())
    loss, bits = measured.mean, measured.bits_per_byte if measured.n_bytes.sum() else math.nan
    perplexity = math.exp(loss) if loss < 700 else math.inf
    bits_stderr = ratio_stderr(measured.nats / math.log(2), measured.n_bytes) if measured.n_bytes.sum() else None
    values = [
        ("eval_loss", loss, stderr),
        ("perplexity", perplexity, stderr * perplexity if stderr is not None else None),
        ("bits_per_byte", bits, bits_stderr),
    ]
    readings = [Reading(metric=m, value=v, stderr=s, count=count) for m, v, s in values if math.isfinite(v)]
    return (
        readings
        if data is None or data.information_bits is None
        else readings + learned_readings(measured, data.information_bits, len(data.test))
    )


def learned_readings(measured: Losses, information_bits: float, sequences: int) -> list[Reading]:
    """The information of so many sequences, and how much of it the model has, from those that were seen; a model that
    misleads has none.
    """
    n = len(measured.nats)
    bits = information_bits - sequences * measured.nats / math.log(2)  # as if every sequence were like this one
    has_learned = float(bits.mean()) > 0
    stderr = float(bits.std(ddof=1) / math.sqrt(n)) if has_learned and n > 1 else None
    learned = Reading(metric="learned_bits", value=float(bits.mean()) if has_learned else 0.0, stderr=stderr, count=n)
    return [Reading(metric="information_bits", value=information_bits), learned]


def per_parameter(readings: Sequence[Reading]) -> list[Reading]:
    """Learned bits over trained parameters, where there are both."""
    by_metric = {r.metric: r for r in readings}
    learned, trained = by_metric.get("learned_bits"), by_metric.get("trainable_parameters")
    if learned is None or trained is None or not trained.value:
        return []
    stderr = None if learned.stderr is None else learned.stderr / trained.value
    return [
        Reading(
            metric="learned_bits_per_parameter", value=learned.value / trained.value, stderr=stderr, count=learned.count
        )
    ]


def held_out_items(measured: Losses) -> dict[str, Items]:
    """The held-out loss by sequence, per token and per byte of text."""
    per_token = {"eval_loss": Items(measured.nats, measured.tokens.astype(float))}
    return per_token | (
        {"bits_per_byte": Items(measured.nats / math.log(2), measured.n_bytes.astype(float))}
        if measured.n_bytes.sum()
        else {}
    )


def validation_reading(measured: Losses) -> Reading:
    """The loss on the validation split, by which a learning rate is chosen."""
    return Reading(
        metric="validation_loss",
        value=measured.mean,
        stderr=ratio_stderr(measured.nats, measured.tokens),
        count=int(measured.tokens.sum()),
    )


def forgetting_reading(before: Losses, after: Losses) -> tuple[Reading, Items]:
    """The rise of the base domain's loss, paired by sequence."""
    items = Items(after.nats - before.nats, after.tokens.astype(float))
    stderr = ratio_stderr(items.sums, after.tokens.astype(float))
    return Reading(metric="forgetting", value=items.value, stderr=stderr, count=int(after.tokens.sum())), items


@torch.no_grad()
def base_text(
    model: CausalModel,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    where: torch.device,
    samples: int = SAMPLES,
    seed: int = SAMPLE_SEED,
) -> tuple[Example, ...]:
    """Text sampled from the model as it is, with a seed of its own: its domain, whatever it was trained on.

    Plain sampling at temperature 1 (no top-k, no top-p), so that the loss on it is the model's own entropy.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    devices = [where] if where.type == "cuda" else []
    own = model.generation_config
    # a model may bring penalties and filters of its own, which generate() would fill in; no end-of-text: all samples
    # are equally long
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=length - 1,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            rows = []
            for n in range(0, samples, AT_ONCE):
                first = torch.full((min(AT_ONCE, samples - n), 1), start or 0, device=where)
                rows += list(
                    model.generate(first, attention_mask=torch.ones_like(first)).cpu().numpy().astype(np.int32)
                )
    finally:
        model.generation_config = own
    return tuple(_example(row, tokenizer) for row in rows)


def file_text(path: str, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> tuple[Example, ...]:
    """Windows spread evenly over a text file of the base's domain."""
    try:
        text = read_text(path)
    except DataError as e:
        raise DataError(f"evaluation.forgetting: {e}") from None
    ids = np.array(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)
    length = min(SAMPLE_TOKENS, sequence_length)
    if len(ids) < length:
        raise DataError(f"evaluation.forgetting: {path} has {len(ids)} tokens; at least {length} are needed")
    starts = np.linspace(0, len(ids) - length, min(WINDOWS, len(ids) // length)).astype(int)
    return tuple(_example(ids[s : s + length], tokenizer) for s in starts)


def _example(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> Example:
    predicted = np.ones(len(ids), dtype=bool)
    predicted[0] = False
    return Example(ids, predicted, len(str(tokenizer.decode(ids[1:])).encode()))
