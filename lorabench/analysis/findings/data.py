"""Findings about a task's rows: what was dropped, cut, repeated or seen in training. Each function is named after its kind.

They rest on the counts that are stored with each result (record.data); results from before there were any say nothing. Shares are of the rows
that were read. Where cells differ (by sequence length, task or tokenizer) the sentence is about the worst of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.findings.base import Finding, listed
from lorabench.analysis.study import StudyAnalysis
from lorabench.record.data import DataFacts

LEAST_ROWS = 30  # below, a normal interval over sequences is too narrow
MOST, SOME = 0.5, 0.05  # shares of rows that are dropped or cut
LEAKED = {
    "rows": 0.01,
    "blocks": 0.05,
}  # share of the test that is training, too: running text repeats a sentence here and there
ONE_SIDED = 0.7  # share of the test rows with one label


def rows_lost(e: StudyAnalysis) -> Finding | None:
    """More than half of a split was too long."""
    found = _worst(e, lambda f: _most(f, "dropped"))
    if found is None or found.share <= MOST:
        return None
    sentence = f"{_each(found.facts, 'dropped')} have no room for a response in {found.length} tokens and were dropped: the numbers are about the short rest. {_raise(found.facts)}"
    return Finding(
        "rows_lost", "grave", "Most rows were dropped", sentence, e.labels(found.groups), e.finished(found.groups)
    )


def test_leaked(e: StudyAnalysis) -> Finding | None:
    """Test rows that were trained on."""
    found = _worst(e, lambda f: f.test.in_training / f.test.read)
    if found is None or found.share < LEAKED[found.facts.unit]:
        return None
    test = found.facts.test
    sentence = (
        f"{test.in_training:,} of {test.read:,} test rows ({_percent(found.share)}) are training rows, too, prompt and response: for them a low loss and a right answer are memory, "
        "and more rank remembers more. Take them out of the training rows or of the test."
    )
    return Finding(
        "test_leaked", "grave", "Test rows were trained on", sentence, e.labels(found.groups), e.finished(found.groups)
    )


def few_test_rows(e: StudyAnalysis) -> Finding | None:
    """A test split of a handful of rows."""
    found = _worst(e, lambda f: 1 / f.test.kept if f.unit == "rows" else 0.0)
    if found is None or not found.share or found.facts.test.kept >= LEAST_ROWS:
        return None
    sentence = f"The held-out loss is measured on {found.facts.test.kept:,} rows; other rows could order the conditions otherwise. Give {LEAST_ROWS} test rows at the very least, better some hundred."
    return Finding(
        "few_test_rows",
        "grave",
        "The test split is too small",
        sentence,
        e.labels(found.groups),
        e.finished(found.groups),
    )


def rows_dropped(e: StudyAnalysis) -> Finding | None:
    """A share of a split was too long."""
    found = _worst(
        e, lambda f: share if (share := _most(f, "dropped")) <= MOST else 0.0
    )  # above, it is another finding
    if found is None or found.share < SOME:
        return None
    items = found.facts.items
    apart = (
        f" The loss leaves them out ({found.facts.test.kept:,} test rows), the accuracy does not ({items:,})."
        if items is not None and found.facts.test.dropped
        else ""
    )
    sentence = f"{_each(found.facts, 'dropped')} have no room for a response in {found.length} tokens and were dropped.{apart} {_raise(found.facts)}"
    return Finding(
        "rows_dropped",
        "caution",
        "Rows were dropped for their length",
        sentence,
        e.labels(found.groups),
        e.finished(found.groups),
    )


def responses_cut(e: StudyAnalysis) -> Finding | None:
    """A share of the responses lost their end."""
    found = _worst(e, lambda f: _most(f, "cut"))
    if found is None or found.share < SOME:
        return None
    sentence = f"At {found.length} tokens the response of {_each(found.facts, 'cut')} loses its end, where an answer often stands, and the end-of-text token with it. {_raise(found.facts)}"
    return Finding(
        "responses_cut", "caution", "Responses were cut", sentence, e.labels(found.groups), e.finished(found.groups)
    )


def prompts_leaked(e: StudyAnalysis) -> Finding | None:
    """Held-out rows whose prompt was trained on, with another response or for single rows with the same."""
    found = _worst(
        e,
        lambda f: max(
            f.test.prompt_in_training / f.test.read,
            f.validation.prompt_in_training / f.validation.read,
            f.test.in_validation / f.test.read,
        ),
    )
    if (
        found is None
        or not found.share
        or found.facts.test.in_training / found.facts.test.read >= LEAKED[found.facts.unit]
    ):
        return None
    test, validation = found.facts.test, found.facts.validation
    parts = [
        f"{test.prompt_in_training:,} of {test.read:,} test rows have the prompt of a training row ({test.in_training:,} its response, too)"
        if test.prompt_in_training
        else "",
        f"{validation.prompt_in_training:,} of {validation.read:,} validation rows have the prompt of a training row"
        if validation.prompt_in_training
        else "",
        f"{test.in_validation:,} of {test.read:,} test rows are validation rows, by which a learning rate may be chosen"
        if test.in_validation
        else "",
    ]
    sentence = (
        f"{'; '.join(p for p in parts if p)}. What is measured on them is partly memory: take them out of one side."
    )
    return Finding(
        "prompts_leaked",
        "caution",
        "Test and training share prompts",
        sentence,
        e.labels(found.groups),
        e.finished(found.groups),
    )


def unseen_labels(e: StudyAnalysis) -> Finding | None:
    """Labels of the test that no training row has."""
    found = _worst(e, lambda f: float(len(_unseen(f))))
    if found is None or not found.share:
        return None
    labels = _unseen(found.facts)
    rows = sum(found.facts.test.labels[label] for label in labels)
    sentence = f"{rows:,} of {found.facts.test.kept:,} test rows have a label that no training row has ({listed(labels)}), and cannot be learned. Give training rows of every label, or take those out of the test."
    return Finding(
        "unseen_labels",
        "caution",
        "Labels that were never trained",
        sentence,
        e.labels(found.groups),
        e.finished(found.groups),
    )


def one_sided_labels(e: StudyAnalysis) -> Finding | None:
    """An accuracy that always saying one label would nearly have, or that none is better than."""
    found = _worst(e, lambda f: f.test.majority[1] if f.test.majority and len(f.test.labels) > 1 else 0.0)
    if found is None or not found.share:
        return None
    label, share = found.facts.test.majority or ("", 0.0)
    named = [
        (e.by_condition[g.condition], name) for g in found.groups for name in ("accuracy", f"{g.setting.task.name}/acc")
    ]  # of other items the labels say nothing
    best = max((v for summary, name in named if (v := summary.mean(name)) is not None), default=None)
    chance = 2 * math.sqrt(
        share * (1 - share) / found.facts.test.kept
    )  # two standard errors of a share: the accuracy may be of other rows of the test
    even = (
        share <= 1 / len(found.facts.test.labels) + chance
    )  # then an accuracy that low is one of guessing: at_chance says so
    if share < ONE_SIDED and (even or best is None or best > share + chance):
        return None
    beside = f"; the best accuracy here is {_percent(best)}" if best is not None else ""
    sentence = f"{_percent(share)} of the {found.facts.test.kept:,} test rows have the label {label}, so always saying it is right as often{beside}. Judge by the loss, or test with as many rows of each label."
    return Finding(
        "one_sided_labels",
        "caution",
        "Most test rows have one label",
        sentence,
        e.labels(found.groups),
        e.finished(found.groups),
    )


def test_rows_differ(e: StudyAnalysis) -> Finding | None:
    """Conditions of one task that are measured on other rows, or on other parts of them."""
    tests: dict[str, dict[tuple[int, int, int], list[Replicates]]] = {}
    for g in e.groups:
        if (facts := _facts(e, g)) is not None and facts.unit == "rows":
            seen = (min(facts.test.kept, g.setting.evaluation.max_sequences), facts.test.kept, facts.test.cut)
            tests.setdefault(g.setting.task.model_dump_json(), {}).setdefault(seen, []).append(g)
    parts, groups = [], []
    for by_rows in (rows for rows in tests.values() if len(rows) > 1):
        for (measured, kept, cut), members in by_rows.items():
            parts.append(
                f"{measured:,} of {kept:,} rows{f', {cut:,} of those cut,' if cut else ''} in {listed(e.labels(members))}"
            )
            groups += members
    if not parts:
        return None
    sentence = (
        f"The test is not the same in all conditions of a task ({'; '.join(parts)}), so a difference between them may be one of the rows. "
        "Give all conditions one training.sequence_length that keeps the test rows whole, and one evaluation.max_sequences."
    )
    return Finding(
        "test_rows_differ",
        "caution",
        "Conditions are tested on other rows",
        sentence,
        e.labels(groups),
        e.finished(groups),
    )


def rows_unmeasured(e: StudyAnalysis) -> Finding | None:
    """Test rows beyond evaluation.max_sequences."""
    found = [
        (g, facts)
        for g in e.groups
        if (facts := _facts(e, g)) is not None
        and facts.unit == "rows"
        and facts.test.kept > g.setting.evaluation.max_sequences
    ]
    if not found:
        return None
    group, facts = min(found, key=lambda one: one[0].setting.evaluation.max_sequences / one[1].test.kept)
    most = group.setting.evaluation.max_sequences
    sentence = (
        f"Every metric of the task is over the first {most:,} of {facts.test.kept:,} test rows, a fair sample of them (evaluation.max_sequences). "
        f"All of them would make the intervals over rows {math.sqrt(facts.test.kept / most):.1f} times as narrow."
    )
    groups = [g for g, _ in found]
    return Finding(
        "rows_unmeasured", "note", "A part of the test rows is measured", sentence, e.labels(groups), e.finished(groups)
    )


def rows_changed(e: StudyAnalysis) -> Finding | None:
    """Rows dropped, cut or repeated in numbers that hardly matter."""
    found = _worst(
        e, lambda f: sum(share for what in _CHANGES if (share := _most(f, what)) < SOME or what == "repeated")
    )
    if found is None or not found.share:
        return None
    parts = [
        f"{_each(found.facts, what)} {words}"
        for what, words in _CHANGES.items()
        if (share := _most(found.facts, what)) > 0 and (share < SOME or what == "repeated")
    ]
    sentence = (
        f"{'; '.join(parts)}. Repeated rows weigh more in training, and those of a test make its interval too narrow."
    )
    return Finding(
        "rows_changed",
        "note",
        "Single rows were dropped, cut or repeated",
        sentence,
        e.labels(found.groups),
        e.finished(found.groups),
    )


_CHANGES = {
    "dropped": "were dropped for their length",
    "cut": "lose the end of their response",
    "repeated": "repeat an earlier one",
}


class _Worst(NamedTuple):
    """The counts with the highest share, and the conditions that have any."""

    share: float
    facts: DataFacts
    length: int
    groups: list[Replicates]


def _worst(e: StudyAnalysis, share: Callable[[DataFacts], float]) -> _Worst | None:
    """None where no finished cell has counts."""
    found: list[tuple[float, DataFacts, Replicates]] = []
    for g in e.groups:
        if (facts := _facts(e, g)) is not None:
            found.append((share(facts), facts, g))
    if not found:
        return None
    most, facts, group = max(found, key=lambda row: row[0])
    return _Worst(most, facts, group.setting.training.sequence_length, [g for part, _, g in found if part > 0])


def _facts(e: StudyAnalysis, g: Replicates) -> DataFacts | None:
    """A condition's counts: all its cells read the same rows."""
    return next(
        (r.data for i in e.finished([g]) if (r := e.results[i].resolved) is not None and r.data is not None), None
    )


def _most(facts: DataFacts, what: str) -> float:
    """The highest share of a split's rows that a count of that name has."""
    return max(getattr(split, what) / split.read if split.read else 0.0 for split in facts.splits.values())


def _unseen(facts: DataFacts) -> list[str]:
    return [label for label in facts.test.labels if facts.train.labels and label not in facts.train.labels]


def _each(facts: DataFacts, what: str) -> str:
    """ "40 of 57 training rows and 3 of 60 test rows" """
    named = {"train": "training"}
    parts = [
        f"{n:,} of {split.read:,} {named.get(name, name)} {facts.unit}"
        for name, split in facts.splits.items()
        if (n := getattr(split, what))
    ]
    return " and ".join(parts)


def _raise(facts: DataFacts) -> str:
    wanted = max((split.whole_at or 0 for name, split in facts.splits.items() if name != "validation"), default=0)
    return f"A training.sequence_length of {wanted:,} keeps 95 % of the rows whole."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
