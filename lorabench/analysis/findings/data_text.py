"""The sentences of findings about a task's rows and labels. Each function is named after its kind."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lorabench.analysis.findings.base import listed
from lorabench.formatting import plural
from lorabench.record.data import DataFacts, SplitFacts

CHANGES = {
    "dropped": "were dropped for their length",
    "cut": "lose the end of their response",
    "repeated": "repeat an earlier one",
}
"""counts of a split, and what became of those rows"""


def percent(share: float) -> str:
    """ "12.5 %" """
    return f"{100 * share:.1f} %"


def rows_lost(facts: DataFacts, length: int) -> str:
    """`length`: the sequence length."""
    return (
        f"{_each(facts, 'dropped')} leave no room for a response in {length} tokens and were dropped: the"
        f" numbers are about the short ones that are left. {_longer(facts)}"
    )


def test_leaked(test: SplitFacts, share: float) -> str:
    """`share`: of the test rows, 0 to 1."""
    return (
        f"{test.in_training:,} of {test.read:,} test rows ({percent(share)}) are also training rows, prompt and"
        " response: on them a low loss or a right answer is memorization, and a higher rank memorizes more."
        " Remove them from the training rows or from the test."
    )


def few_test_rows(rows: int, least: int) -> str:
    """`rows`: of the test; `least`: how many there should be."""
    return (
        f"The held-out loss is measured on {plural(rows, 'row')}; other rows could rank the conditions"
        f" differently. Use at least {least} test rows, better a few hundred."
    )


def rows_dropped(facts: DataFacts, length: int) -> str:
    """`length`: the sequence length."""
    items = facts.items
    apart = (
        f" The loss leaves them out ({facts.test.rows:,} test rows), the accuracy does not ({items:,})."
        if items is not None and facts.test.dropped
        else ""
    )
    return (
        f"{_each(facts, 'dropped')} leave no room for a response in {length} tokens and were dropped.{apart}"
        f" {_longer(facts)}"
    )


def responses_cut(facts: DataFacts, length: int) -> str:
    """`length`: the sequence length."""
    return (
        f"At {length} tokens the response of {_each(facts, 'cut')} is cut at its end, where the answer often"
        f" is, and loses the end-of-text token. {_longer(facts)}"
    )


def prompts_leaked(test: SplitFacts, validation: SplitFacts) -> str:
    """Of the two splits each count that is not 0."""
    parts = [
        (
            f"{test.prompt_in_training:,} of {test.read:,} test rows have the prompt of a training row"
            f" ({test.in_training:,} its response, too)"
            if test.prompt_in_training
            else ""
        ),
        (
            f"{validation.prompt_in_training:,} of {validation.read:,} validation rows have the prompt of a"
            " training row"
            if validation.prompt_in_training
            else ""
        ),
        (
            f"{test.in_validation:,} of {test.read:,} test rows are validation rows, by which a learning rate may be"
            " chosen"
            if test.in_validation
            else ""
        ),
    ]
    shared = "; ".join(p for p in parts if p)
    return f"{shared}. What is measured on them is partly memorization: remove them from one side."


def test_rows_differ(tests: Sequence[tuple[int, int, int, Sequence[str]]]) -> str:
    """`tests`: rows that are measured, rows of the test, those of them that are cut, and the labels of the conditions
    that have them so."""
    parts = [
        f"{measured:,} of {rows:,} rows{f', {cut:,} of those cut,' if cut else ''} in {listed(labels)}"
        for measured, rows, cut, labels in tests
    ]
    return (
        f"The test is not the same in all conditions of a task ({'; '.join(parts)}), so a difference between them may"
        " come from the rows. Give all conditions one training.sequence_length that keeps the test rows whole, and one"
        " evaluation.max_sequences."
    )


def rows_unmeasured(measured: int, rows: int) -> str:
    """`measured`: of so many rows of the test."""
    return (
        f"Every metric of the task is over the first {measured:,} of {rows:,} test rows, a fair sample of them"
        " (evaluation.max_sequences). With all of them the intervals over rows would be"
        f" {math.sqrt(rows / measured):.1f} times as narrow."
    )


def rows_changed(facts: DataFacts, counts: Sequence[str]) -> str:
    """`counts`: those of CHANGES that are told."""
    parts = [f"{_each(facts, count)} {CHANGES[count]}" for count in counts]
    return (
        f"{'; '.join(parts)}. Repeated rows weigh more in training, and those of a test make its interval too narrow."
    )


def rows_changed_title(facts: DataFacts, counts: Sequence[str]) -> str:
    """ "Two rows": none that says more than was seen."""
    changed = sum(getattr(split, count) for split in facts.splits.values() for count in counts)
    verbs = [{"dropped": "dropped", "cut": "cut", "repeated": "repeated"}[count] for count in counts]
    what = f"{', '.join(verbs[:-1])} or {verbs[-1]}" if len(verbs) > 1 else verbs[0]
    return f"One {facts.unit[:-1]} was {what}" if changed == 1 else f"Some {facts.unit} were {what}"


def unseen_labels(rows: int, test_rows: int, labels: Sequence[str]) -> str:
    """`rows`: of the test that have such a label."""
    return (
        f"{rows:,} of {test_rows:,} test rows have a label that no training row has ({listed(labels)}), which"
        " cannot be learned. Add training rows of every label, or remove those from the test."
    )


def one_sided_labels(label: str, share: float, test_rows: int, best: float | None) -> str:
    """`best`: the best accuracy; None where none was measured."""
    beside = f"; the best accuracy here is {percent(best)}" if best is not None else ""
    return (
        f"{percent(share)} of the {test_rows:,} test rows have the label {label}, so always saying it is"
        f" right as often{beside}. Judge by the loss, or test with as many rows of each label."
    )


def _each(facts: DataFacts, count: str) -> str:
    """ "40 of 57 training rows and 3 of 60 test rows" """
    names = {"train": "training"}
    parts = [
        f"{n:,} of {split.read:,} {names.get(name, name)} {facts.unit}"
        for name, split in facts.splits.items()
        if (n := getattr(split, count))
    ]
    return " and ".join(parts)


def _longer(facts: DataFacts) -> str:
    length = max((split.whole_at or 0 for name, split in facts.splits.items() if name != "validation"), default=0)
    return f"A training.sequence_length of {length:,} keeps 95 % of the rows whole."
