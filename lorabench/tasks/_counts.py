"""Pairs as examples, and what became of them on the way (record.data).

    dropped    no token of the response fits             cut      the response loses its end
    repeated   prompt and response are an earlier row's of the split; held-out rows are held against the training rows alike
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from lorabench.engine.data import Example
from lorabench.errors import DataError
from lorabench.record.data import WHOLE_SHARE, DataFacts, SplitFacts
from lorabench.tasks._encode import Fitted
from lorabench.tasks._rows import Pair, Splits

Examples = tuple[Example, ...]


def fit(splits: Splits, make: Callable[[Pair], Fitted], sequence_length: int, notes: Sequence[str] = (), items: int | None = None) -> tuple[Examples, Examples, Examples, DataFacts]:
    """(training, validation, test examples, what became of the rows); DataError where a split loses every row."""
    made = [[make(pair) for pair in part] for part in splits[:3]]
    facts = [_facts(pairs, rows, sequence_length) for pairs, rows in zip(splits[:3], made, strict=True)]
    for name, split in zip(("training", "validation", "test"), facts, strict=True):
        if not split.kept:
            raise DataError(
                f"all {split.read:,} prompts of the {name} split fill training.sequence_length {sequence_length} without room for a response; "
                f"{split.whole_at:,} keeps 95 % of its rows whole: raise it, or shorten the prompts"
            )
    train, validation, test = facts
    seen, known = _texts(splits.train), _texts(splits.validation)
    prompts = {prompt for prompt, _ in seen}
    validation = validation.model_copy(update=_shared(splits.validation, seen, prompts))
    test = test.model_copy(update=_shared(splits.test, seen, prompts) | {"in_validation": sum(text in known for text in _all(splits.test))})
    kept = [tuple(row.example for row in rows if row.example is not None) for rows in made]
    return kept[0], kept[1], kept[2], DataFacts(train=train, validation=validation, test=test, items=items, notes=tuple(dict.fromkeys([*splits.notes, *notes])))


def whole_at(lengths: Sequence[int]) -> int | None:
    """The least sequence length at which 95 % of rows of these lengths are whole."""
    rising = sorted(lengths)
    return rising[-int(-WHOLE_SHARE * len(rising) // 1) - 1] if rising else None


def _facts(pairs: Sequence[Pair], rows: Sequence[Fitted], sequence_length: int) -> SplitFacts:
    texts = _all(pairs)
    left = Counter(pair.label for pair, row in zip(pairs, rows, strict=True) if pair.label is not None and row.example is not None)
    return SplitFacts(
        read=len(rows),
        dropped=sum(row.example is None for row in rows),
        cut=sum(row.cut(sequence_length) for row in rows),
        repeated=len(texts) - len(set(texts)),
        empty_prompts=sum(not prompt for prompt, _ in texts),
        labels=dict(sorted(left.items())),
        whole_at=whole_at([row.length for row in rows]),
    )


def _shared(pairs: Sequence[Pair], seen: set[tuple[str, str]], prompts: set[str]) -> dict[str, int]:
    texts = _all(pairs)
    return {"in_training": sum(text in seen for text in texts), "prompt_in_training": sum(prompt in prompts for prompt, _ in texts)}


def _texts(pairs: Sequence[Pair]) -> set[tuple[str, str]]:
    return set(_all(pairs))


def _all(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """Prompts and responses but for white space."""
    return [(" ".join(pair.prompt.split()), " ".join(pair.response.split())) for pair in pairs]
