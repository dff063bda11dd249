"""Pairs as examples, and what became of them on the way (record.data).

    dropped    no token of the response fits             cut      the response loses its end
    repeated   prompt and response are an earlier row's of the split; held-out rows are held against the training rows
               alike

Blocks of running text have no rows: a held-out block counts as trained on where more than half of its runs of RUN
tokens stand in the training text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from lorabench.engine.data import Example
from lorabench.errors import DataError
from lorabench.record.data import WHOLE_SHARE, DataFacts, SplitFacts
from lorabench.tasks._encode import Fitted
from lorabench.tasks._rows import Pair, Splits, each

RUN = 16  # tokens: some ten words, which two texts do not share by chance
Examples = tuple[Example, ...]


def fit(
    splits: Splits,
    make: Callable[[Pair], Fitted],
    sequence_length: int,
    notes: Sequence[str] = (),
    make_test: Callable[[Pair], Fitted] | None = None,
) -> tuple[Examples, Examples, Examples, DataFacts]:
    """(training, validation, test examples, what became of the rows); DataError where training or test loses every row.

    `make_test` makes those of the test, where they bring what their answers are judged by.
    """
    fitted = [each(splits.train, make), each(splits.validation, make), each(splits.test, make_test or make)]
    facts = [_facts(pairs, rows, sequence_length) for pairs, rows in zip(splits[:3], fitted, strict=True)]
    for name, split in (("training", facts[0]), ("test", facts[2])):
        if not split.rows:
            raise DataError(
                f"all {split.read:,} prompts of the {name} split fill training.sequence_length {sequence_length}"
                f" without room for a response; {split.whole_at:,} keeps 95 % of its rows whole: raise it to that, or"
                " shorten the prompts"
            )
    train, validation, test = facts
    train_texts, validation_texts = _texts(splits.train), _texts(splits.validation)
    prompts = {prompt for prompt, _ in train_texts}
    prompts = prompts if len(prompts) > 1 else set()  # a prompt that all rows have says nothing
    validation = validation.model_copy(update=_shared(splits.validation, train_texts, prompts))
    test = test.model_copy(
        update=_shared(splits.test, train_texts, prompts)
        | {"in_validation": sum(text in validation_texts for text in _all(splits.test))}
    )
    examples = [tuple(row.example for row in rows if row.example is not None) for rows in fitted]
    return (
        examples[0],
        examples[1],
        examples[2],
        DataFacts(train=train, validation=validation, test=test, notes=tuple(dict.fromkeys([*splits.notes, *notes]))),
    )


def block_facts(train: Examples, validation: Examples, test: Examples, notes: Sequence[str] = ()) -> DataFacts:
    """The blocks of running text, and how many held-out ones stand in the training text word for word."""
    train_runs = np.sort(_runs(_concatenated(train)))

    def split(blocks: Examples) -> SplitFacts:
        runs = _runs(_concatenated(blocks))
        if not len(runs) or not len(train_runs):
            return SplitFacts(read=len(blocks))
        hits = np.concatenate(
            [[0], np.cumsum(train_runs[np.minimum(np.searchsorted(train_runs, runs), len(train_runs) - 1)] == runs)]
        )
        ends = np.cumsum([len(b.ids) for b in blocks])
        first, last = (
            ends - [len(b.ids) for b in blocks] + 1,
            ends - RUN + 1,
        )  # runs within a block, its begin token left out
        count = np.maximum(last - first, 0)
        inside = hits[np.minimum(np.maximum(last, first), len(runs))] - hits[np.minimum(first, len(runs))]
        return SplitFacts(read=len(blocks), in_training=int(np.sum(2 * inside > np.maximum(count, 1))))

    return DataFacts(
        unit="blocks",
        train=SplitFacts(read=len(train)),
        validation=split(validation),
        test=split(test),
        notes=tuple(notes),
    )


def _concatenated(blocks: Examples) -> np.ndarray:
    return np.concatenate([b.ids for b in blocks]) if blocks else np.zeros(0, dtype=np.int32)


def _runs(ids: np.ndarray) -> np.ndarray:
    """A hash of each run of RUN tokens (n - RUN + 1,) uint64: a polynomial, modulo 2^64."""
    n = max(0, len(ids) - RUN + 1)
    total = np.zeros(n, dtype=np.uint64)
    for j in range(RUN if n else 0):
        total = total * np.uint64(0x9E3779B97F4A7C15) + ids[j : j + n].astype(np.uint64) + np.uint64(1)
    return total


def whole_at(lengths: Sequence[int]) -> int | None:
    """The least sequence length at which 95 % of rows of these lengths are whole."""
    rising = sorted(lengths)
    return rising[-int(-WHOLE_SHARE * len(rising) // 1) - 1] if rising else None


def _facts(pairs: Sequence[Pair], rows: Sequence[Fitted], sequence_length: int) -> SplitFacts:
    texts = _all(pairs)
    labels = Counter(
        pair.label for pair, row in zip(pairs, rows, strict=True) if pair.label is not None and row.example is not None
    )
    return SplitFacts(
        read=len(rows),
        dropped=sum(row.example is None for row in rows),
        cut=sum(row.cut(sequence_length) for row in rows),
        repeated=len(texts) - len(set(texts)),
        empty_prompts=sum(not prompt for prompt, _ in texts),
        labels=dict(sorted(labels.items())),
        whole_at=whole_at([row.length for row in rows]),
    )


def _shared(pairs: Sequence[Pair], train_texts: set[tuple[str, str]], prompts: set[str]) -> dict[str, int]:
    texts = _all(pairs)
    return {
        "in_training": sum(text in train_texts for text in texts),
        "prompt_in_training": sum(prompt in prompts or (prompt, response) in train_texts for prompt, response in texts),
    }


def _texts(pairs: Sequence[Pair]) -> set[tuple[str, str]]:
    return set(_all(pairs))


def _all(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """Prompts and responses but for white space."""
    return [(" ".join(pair.prompt.split()), " ".join(pair.response.split())) for pair in pairs]
