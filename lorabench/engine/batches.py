"""Examples as batches of tensors: which rows, in which order, and how they lie beside each other.

    padded      (rows, longest)      rows padded on the right: in a causal model no real token sees the padding, so no
                                     attention mask is needed and the fast causal kernel is kept
    end to end  (1, tokens)          no padding; the positions start anew with each row, by which transformers keeps
                                     rows from seeing each other (masking_utils.find_packed_sequence_indices)

The loss of each row is the same either way, to rounding. End to end costs 6 hidden * tokens + sum of length^2 products
where attention is computed row by row (row_attention), and tokens * (6 hidden + tokens) elsewhere, against
rows * longest * (6 hidden + longest) (24 hidden^2 of a layer's matrices and 4 hidden * length of its attention for each
token, Kaplan et al. 2020, Table 1), so that it is taken where it is the cheaper of the two.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lorabench.engine.data import Example

IGNORED = -100


@dataclass(frozen=True)
class Layout:
    """How the rows of a batch are laid, and which of their positions go through the head."""

    padding: int
    """the token that fills rows up"""
    end_to_end: int | None = None
    """the model's hidden size where rows may lie end to end; None where they are padded"""
    by_rows: bool = False
    """whether attention over rows end to end is computed row by row"""
    labelled: bool = True
    """whether only positions that predict a label go through the head"""


@dataclass(frozen=True)
class Batch:
    """ids and labels (rows, length) int64; labels are -100 where nothing is predicted. tokens counts non-padding."""

    ids: torch.Tensor
    labels: torch.Tensor
    tokens: int
    predicting: torch.Tensor | None = None
    """(labels,) int64: flat positions of ids whose next token is a label, which alone go through the head; None: all
    do"""
    positions: torch.Tensor | None = None
    """(1, tokens) where several rows lie end to end"""

    @property
    def inputs(self) -> dict[str, object]:
        """What the model is called with; without a cache, which would make it take rows end to end for one."""
        if self.positions is None:
            return {"input_ids": self.ids}
        return {"input_ids": self.ids, "position_ids": self.positions, "use_cache": False}

    @property
    def predicted(self) -> int:
        """The number of labels."""
        if self.predicting is not None:
            return len(self.predicting)
        return int((self.labels[:, 1:] != IGNORED).sum())

    @property
    def lengths(self) -> list[int]:
        """of the rows that lie end to end; empty where they do not"""
        if self.positions is None:
            return []
        starts = (self.positions[0] == 0).nonzero().flatten().tolist()
        return [end - start for start, end in itertools.pairwise([*starts, self.positions.shape[1]])]

    def to(self, where: torch.device) -> Batch:
        """The same on a device."""
        predicting = None if self.predicting is None else self.predicting.to(where)
        positions = None if self.positions is None else self.positions.to(where)
        return Batch(self.ids.to(where), self.labels.to(where), self.tokens, predicting, positions)


def collate(examples: Sequence[Example], layout: Layout, where: torch.device) -> Batch:
    """Examples as one batch: padded to the longest, or end to end where the layout allows it and it costs less."""
    lengths = [len(e.ids) for e in examples]
    longest, tokens = max(lengths), sum(lengths)
    joined = lies_end_to_end(lengths, layout)
    shape = (1, tokens) if joined else (len(examples), longest)
    starts = list(itertools.accumulate(lengths, initial=0)) if joined else [i * longest for i in range(len(examples))]
    ids = np.full(shape, layout.padding, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    flat, flat_labels = ids.reshape(-1), labels.reshape(-1)
    for start, example in zip(starts, examples, strict=False):
        end = start + len(example.ids)
        flat[start:end] = example.ids
        flat_labels[start + 1 : end] = np.where(example.predicted, example.ids, IGNORED)[1:]
    predicting = np.flatnonzero(flat_labels[1:] != IGNORED) if layout.labelled else None
    if predicting is not None and len(predicting) == len(examples) * (longest - 1):
        predicting = None  # all but the last position of each row: nothing to leave out
    positions = np.concatenate([np.arange(n) for n in lengths])[None] if joined else None
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(labels),
        tokens,
        None if predicting is None else torch.from_numpy(predicting),
        None if positions is None else torch.from_numpy(positions),
    ).to(where)


def largest_batch(examples: Sequence[Example], size: int) -> list[Example]:
    """The longest examples, as many as a batch has; few come several times, as in training."""
    longest = sorted(examples, key=lambda e: -len(e.ids))[:size]
    return [longest[i % len(longest)] for i in range(size)]


def drawn_length(examples: Sequence[Example], size: int) -> float:
    """Positions of a row of a random batch, padding included: the mean of the longest of so many."""
    lengths = sorted(len(e.ids) for e in examples)
    n = len(lengths)
    return sum(length * ((i / n) ** size - ((i - 1) / n) ** size) for i, length in enumerate(lengths, 1))


def read_positions(examples: Sequence[Example], size: int) -> int:
    """Positions of the batches in which examples are evaluated, longest first."""
    lengths = sorted((len(e.ids) for e in examples), reverse=True)
    return sum(lengths[i] * len(lengths[i : i + size]) for i in range(0, len(lengths), size))


def lies_end_to_end(lengths: Sequence[int], layout: Layout) -> bool:
    """Whether a layout lays rows of these lengths end to end."""
    if layout.end_to_end is None:
        return False
    tokens, padded, longest = sum(lengths), len(lengths) * max(lengths), max(lengths)
    attended = sum(n * n for n in lengths) if layout.by_rows else tokens * tokens
    costs = 6 * layout.end_to_end * tokens + attended
    return tokens < padded and costs < padded * (6 * layout.end_to_end + longest)


def skip_batches(rows: Iterator[list[Example]], count: int) -> None:
    """Draws the batches of steps that were taken before: the seed alone decides the order, so their place is all the
    state there is.
    """
    next(itertools.islice(rows, count, count), None)


def batches(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """Endless batches: every example once an epoch, in an order that the seed alone decides; epochs run on across
    batches.
    """
    generator = np.random.default_rng(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting.extend(generator.permutation(len(examples)).tolist())
        yield [examples[i] for i in waiting[:size]]
        del waiting[:size]
