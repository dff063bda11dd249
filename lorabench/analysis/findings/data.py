"""Findings about a task's rows: what was dropped, cut, repeated or seen in training. Each function is named after its
kind.

They rest on the counts that are stored with each result (record.data); results from before there were any say nothing.
Shares are of the rows that were read. Where cells differ (by sequence length, task or tokenizer) the sentence is about
the worst of them.
"""

from __future__ import annotations

import math

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.findings.base import Finding, listed
from lorabench.analysis.findings.counts import facts_of, percent, worst
from lorabench.analysis.study import StudyAnalysis
from lorabench.record.data import DataFacts

LEAST_ROWS = 30  # below, a normal interval over sequences is too narrow
MOST, SOME = 0.5, 0.05  # shares of rows that are dropped or cut
LEAKED = {
    "rows": 0.01,
    "blocks": 0.05,
}  # share of the test that is training, too: running text repeats a sentence here and there


def rows_lost(e: StudyAnalysis) -> Finding | None:
    """More than half of a split was too long."""
    found = worst(e, lambda f: _most(f, "dropped"))
    if found is None or found.share <= MOST:
        return None
    sentence = (
        f"{_each(found.facts, 'dropped')} have no room for a response in {found.length} tokens and were dropped: the"
        f" numbers are about the short rest. {_raise(found.facts)}"
    )
    return Finding(
        "rows_lost", "grave", "Most rows were dropped", sentence, e.labels(found.groups), e.finished(found.groups)
    )


def test_leaked(e: StudyAnalysis) -> Finding | None:
    """Test rows that were trained on."""
    found = worst(e, lambda f: f.test.in_training / f.test.read)
    if found is None or found.share < LEAKED[found.facts.unit]:
        return None
    test = found.facts.test
    sentence = (
        f"{test.in_training:,} of {test.read:,} test rows ({percent(found.share)}) are training rows, too, prompt and"
        " response: for them a low loss and a right answer are memory, and more rank remembers more. Take them out of"
        " the training rows or of the test."
    )
    return Finding(
        "test_leaked", "grave", "Test rows were trained on", sentence, e.labels(found.groups), e.finished(found.groups)
    )


def few_test_rows(e: StudyAnalysis) -> Finding | None:
    """A test split of a handful of rows."""
    found = worst(e, lambda f: 1 / f.test.rows if f.unit == "rows" else 0.0)
    if found is None or not found.share or found.facts.test.rows >= LEAST_ROWS:
        return None
    sentence = (
        f"The held-out loss is measured on {found.facts.test.rows:,} rows; other rows could order the conditions"
        f" otherwise. Give {LEAST_ROWS} test rows at the very least, better some hundred."
    )
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
    found = worst(e, lambda f: share if (share := _most(f, "dropped")) <= MOST else 0.0)  # above, it is another finding
    if found is None or found.share < SOME:
        return None
    items = found.facts.items
    apart = (
        f" The loss leaves them out ({found.facts.test.rows:,} test rows), the accuracy does not ({items:,})."
        if items is not None and found.facts.test.dropped
        else ""
    )
    sentence = (
        f"{_each(found.facts, 'dropped')} have no room for a response in {found.length} tokens and were dropped.{apart}"
        f" {_raise(found.facts)}"
    )
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
    found = worst(e, lambda f: _most(f, "cut"))
    if found is None or found.share < SOME:
        return None
    sentence = (
        f"At {found.length} tokens the response of {_each(found.facts, 'cut')} loses its end, where an answer often"
        f" stands, and the end-of-text token with it. {_raise(found.facts)}"
    )
    return Finding(
        "responses_cut", "caution", "Responses were cut", sentence, e.labels(found.groups), e.finished(found.groups)
    )


def prompts_leaked(e: StudyAnalysis) -> Finding | None:
    """Held-out rows whose prompt was trained on, with another response or for single rows with the same."""
    found = worst(
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


def test_rows_differ(e: StudyAnalysis) -> Finding | None:
    """Conditions of one task that are measured on other rows, or on other parts of them."""
    tests: dict[str, dict[tuple[int, int, int], list[Replicates]]] = {}
    for g in e.groups:
        if (facts := facts_of(e, g)) is not None and facts.unit == "rows":
            seen = (min(facts.test.rows, g.setting.evaluation.max_sequences), facts.test.rows, facts.test.cut)
            tests.setdefault(g.setting.task.model_dump_json(), {}).setdefault(seen, []).append(g)
    parts, groups = [], []
    for by_rows in (rows for rows in tests.values() if len(rows) > 1):
        for (measured, kept, cut), members in by_rows.items():
            parts.append(
                f"{measured:,} of {kept:,} rows{f', {cut:,} of those cut,' if cut else ''} in"
                f" {listed(e.labels(members))}"
            )
            groups += members
    if not parts:
        return None
    sentence = (
        f"The test is not the same in all conditions of a task ({'; '.join(parts)}), so a difference between them may"
        " be one of the rows. Give all conditions one training.sequence_length that keeps the test rows whole, and one"
        " evaluation.max_sequences."
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
        if (facts := facts_of(e, g)) is not None
        and facts.unit == "rows"
        and facts.test.rows > g.setting.evaluation.max_sequences
    ]
    if not found:
        return None
    group, facts = min(found, key=lambda one: one[0].setting.evaluation.max_sequences / one[1].test.rows)
    most = group.setting.evaluation.max_sequences
    sentence = (
        f"Every metric of the task is over the first {most:,} of {facts.test.rows:,} test rows, a fair sample of them"
        " (evaluation.max_sequences). All of them would make the intervals over rows"
        f" {math.sqrt(facts.test.rows / most):.1f} times as narrow."
    )
    groups = [g for g, _ in found]
    return Finding(
        "rows_unmeasured", "note", "A part of the test rows is measured", sentence, e.labels(groups), e.finished(groups)
    )


def rows_changed(e: StudyAnalysis) -> Finding | None:
    """Rows dropped, cut or repeated in numbers that hardly matter."""
    found = worst(
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


def _most(facts: DataFacts, what: str) -> float:
    """The highest share of a split's rows that a count of that name has."""
    return max(getattr(split, what) / split.read if split.read else 0.0 for split in facts.splits.values())


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
