"""Held-out rows through all adapters of a pack at once: one pass of the base for what each alone would pass again.

Every adapter sees the same rows, which lie beside each other once for each (packed_layers), so that its losses are
those that it has alone, to rounding; one that diverged stays in the passes, as in training, and gets none.

A pass takes as many rows of each adapter as hold no more positions and no more labels than a training step of its own
does: without a graph to keep it holds less than that step, whose memory is what was predicted for the pack. Where
answers are generated, those are the positions whose keys and values it keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lorabench.engine.answers import Answers, Generated, answers, packed_texts
from lorabench.engine.batches import largest_batch
from lorabench.engine.data import Example
from lorabench.engine.evaluate import Losses, packed_losses
from lorabench.engine.loss import CHUNK, Loss, token_loss
from lorabench.engine.packed_adapters import AdapterStart, bucketed
from lorabench.engine.packed_layers import Streams, packed
from lorabench.engine.train import CausalModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lorabench.config.settings import TrainingSpec
    from lorabench.engine.packed import PackedTraining


@dataclass(frozen=True)
class HeldOut:
    """What one adapter of a pack was measured at beside the others; None of what it is to be measured at alone."""

    seconds: float
    """of all adapters of the pack"""
    answers: Answers | None = None
    """to the test rows"""
    validation: Losses | None = None
    domain: Losses | None = None
    """on the text of the base's domain"""
    texts: Sequence[Generated] | None = None
    """that it generates as answers to the test rows"""


@dataclass(frozen=True)
class PassLimits:
    """What a training step of one adapter holds, and so a pass of its evaluation at most."""

    positions: int
    labels: int
    kept: int
    """positions whose keys and values take no more than what the step keeps for its backward pass: at least the inputs
    of each layer, twice which are keys and values where no head shares them"""

    @classmethod
    def of(cls, train: Sequence[Example], spec: TrainingSpec, adapters: int) -> PassLimits:
        """Of a step over the longest rows, by which memory is predicted."""
        rows = largest_batch(train, spec.batch_size)
        positions = len(rows) * len(rows[0].ids)
        labels = sum(int(row.predicted[1:].sum()) for row in rows)
        if spec.loss == "chunked":  # never holds more logits than these
            labels = CHUNK // adapters
        kept = positions // 2 if spec.gradient_checkpointing else positions
        return cls(positions, positions if spec.loss == "full" else labels, kept)

    def rows(self, examples: Sequence[Example], batch_size: int) -> int:
        """How many of these rows a pass may take of each adapter: a batch at most; 0 where none fits."""
        longest = max(len(e.ids) for e in examples)
        labels = max(1, *(int(e.predicted[1:].sum()) for e in examples))
        return min(batch_size, len(examples), self.positions // longest, self.labels // labels)

    def rows_answered(self, examples: Sequence[Example], new_tokens: int, batch_size: int) -> int:
        """The same of rows whose answers are generated."""
        longest = max(e.prompt_length for e in examples) + new_tokens
        return min(batch_size, len(examples), self.kept // longest)


class PackEvaluation:
    """A bare base with the trained adapters of a pack on it, for as long as `evaluating` lasts."""

    def __init__(self, model: CausalModel, adapters: int, order: Sequence[int], padding: int) -> None:
        self._model, self._adapters, self._order, self._padding = model, adapters, order, padding

    def losses(self, examples: Sequence[Example], rows: int, loss_of: Loss = token_loss) -> list[Losses]:
        """Of each adapter, in the order in which they were given; so many rows of each in a pass."""
        where = self._model.device
        found = packed_losses(self._model, examples, rows, self._padding, where, loss_of, self._adapters)
        return self._in_order(found)

    def answers(self, examples: Sequence[Example], rows: int) -> list[Answers]:
        """The same of test rows, which may have choices."""
        found = answers(self._model, examples, rows, self._padding, self._model.device, self._adapters)
        return self._in_order(found)

    def texts(
        self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], rows: int, new_tokens: int
    ) -> list[list[Generated]]:
        """The same of what is generated as answers to test rows."""
        model, adapters = self._model, self._adapters
        found = packed_texts(model, tokenizer, examples, new_tokens, rows, model.device, adapters=adapters)
        return self._in_order(found)

    def _in_order(self, found: Sequence[Any]) -> list[Any]:
        by_adapter = dict(zip(self._order, found, strict=True))
        return [by_adapter[index] for index in range(self._adapters)]


@contextmanager
def evaluating(
    model: CausalModel, starts: Sequence[AdapterStart], trained: Sequence[PackedTraining], tokens: int, padding: int
) -> Iterator[PackEvaluation]:
    """Puts what adapters learned on a bare base, which is as it was afterwards; `tokens`: of an adapter in a pass."""
    order, buckets = bucketed(starts, tokens)
    for bucket in buckets:
        for row in range(len(bucket.adapters)):
            bucket.put(row, trained[order[bucket.first + row]].learned)
    streams = Streams([], model.device)  # nothing is dropped

    def begin(module: torch.nn.Module, arguments: object, named: Mapping[str, torch.Tensor]) -> None:
        rows, length = named["input_ids"].shape
        streams.begin(rows // len(starts), length, [length] * len(starts))

    with packed(model, buckets, streams):
        model.eval()
        hook = model.register_forward_pre_hook(begin, with_kwargs=True)
        try:
            yield PackEvaluation(model, len(starts), order, padding)
        finally:
            hook.remove()
