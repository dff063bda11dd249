"""Findings about a task's rows: what was dropped, cut, repeated or seen in training. Each function is named after its
kind.

They rest on the counts that are stored with each result (record.data); results from before there were any say nothing.
Shares are of the rows that were read. Where cells differ (by sequence length, task or tokenizer) the sentence is about
the worst of them.
"""

from __future__ import annotations

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.findings import data_text as text
from lorabench.analysis.findings.base import Finding
from lorabench.analysis.findings.counts import facts_of, worst
from lorabench.analysis.findings.data_text import CHANGES
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
    rows = worst(e, lambda f: _most(f, "dropped"))
    if rows is None or rows.share <= MOST:
        return None
    sentence = text.rows_lost(rows.facts, rows.length)
    return Finding(
        "rows_lost", "grave", "Most rows were dropped", sentence, e.labels(rows.groups), e.finished(rows.groups)
    )


def test_leaked(e: StudyAnalysis) -> Finding | None:
    """Test rows that were trained on."""
    rows = worst(e, lambda f: f.test.in_training / f.test.read)
    if rows is None or rows.share < LEAKED[rows.facts.unit]:
        return None
    sentence = text.test_leaked(rows.facts.test, rows.share)
    return Finding(
        "test_leaked", "grave", "Test rows were trained on", sentence, e.labels(rows.groups), e.finished(rows.groups)
    )


def few_test_rows(e: StudyAnalysis) -> Finding | None:
    """A test split of a handful of rows."""
    rows = worst(e, lambda f: 1 / f.test.rows if f.unit == "rows" else 0.0)
    if rows is None or not rows.share or rows.facts.test.rows >= LEAST_ROWS:
        return None
    sentence = text.few_test_rows(rows.facts.test.rows, LEAST_ROWS)
    return Finding(
        "few_test_rows",
        "grave",
        "The test split is too small",
        sentence,
        e.labels(rows.groups),
        e.finished(rows.groups),
    )


def rows_dropped(e: StudyAnalysis) -> Finding | None:
    """A share of a split was too long."""
    rows = worst(e, lambda f: share if (share := _most(f, "dropped")) <= MOST else 0.0)  # above, it is another finding
    if rows is None or rows.share < SOME:
        return None
    sentence = text.rows_dropped(rows.facts, rows.length)
    return Finding(
        "rows_dropped",
        "caution",
        "Rows were dropped for their length",
        sentence,
        e.labels(rows.groups),
        e.finished(rows.groups),
    )


def responses_cut(e: StudyAnalysis) -> Finding | None:
    """A share of the responses lost their end."""
    rows = worst(e, lambda f: _most(f, "cut"))
    if rows is None or rows.share < SOME:
        return None
    sentence = text.responses_cut(rows.facts, rows.length)
    return Finding(
        "responses_cut", "caution", "Responses were cut", sentence, e.labels(rows.groups), e.finished(rows.groups)
    )


def prompts_leaked(e: StudyAnalysis) -> Finding | None:
    """Held-out rows whose prompt was trained on, with another response or for single rows with the same."""
    rows = worst(
        e,
        lambda f: max(
            f.test.prompt_in_training / f.test.read,
            f.validation.prompt_in_training / f.validation.read,
            f.test.in_validation / f.test.read,
        ),
    )
    if rows is None or not rows.share or rows.facts.test.in_training / rows.facts.test.read >= LEAKED[rows.facts.unit]:
        return None
    sentence = text.prompts_leaked(rows.facts.test, rows.facts.validation)
    return Finding(
        "prompts_leaked",
        "caution",
        "Test and training share prompts",
        sentence,
        e.labels(rows.groups),
        e.finished(rows.groups),
    )


def test_rows_differ(e: StudyAnalysis) -> Finding | None:
    """Conditions of one task that are measured on other rows, or on other parts of them."""
    tests: dict[str, dict[tuple[int, int, int], list[Replicates]]] = {}
    for g in e.groups:
        if (facts := facts_of(e, g)) is not None and facts.unit == "rows":
            rows = (min(facts.test.rows, g.setting.evaluation.max_sequences), facts.test.rows, facts.test.cut)
            tests.setdefault(g.setting.task.model_dump_json(), {}).setdefault(rows, []).append(g)
    differing = [row for by_rows in tests.values() if len(by_rows) > 1 for row in by_rows.items()]
    if not differing:
        return None
    groups = [g for _, members in differing for g in members]
    sentence = text.test_rows_differ([(*rows, e.labels(members)) for rows, members in differing])
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
    partly_measured = [
        (g, facts)
        for g in e.groups
        if (facts := facts_of(e, g)) is not None
        and facts.unit == "rows"
        and facts.test.rows > g.setting.evaluation.max_sequences
    ]
    if not partly_measured:
        return None
    group, facts = min(partly_measured, key=lambda one: one[0].setting.evaluation.max_sequences / one[1].test.rows)
    most = group.setting.evaluation.max_sequences
    sentence = text.rows_unmeasured(most, facts.test.rows)
    groups = [g for g, _ in partly_measured]
    return Finding(
        "rows_unmeasured", "note", "A part of the test rows is measured", sentence, e.labels(groups), e.finished(groups)
    )


def rows_changed(e: StudyAnalysis) -> Finding | None:
    """Rows dropped, cut or repeated in numbers that hardly matter."""
    rows = worst(
        e, lambda f: sum(share for count in CHANGES if (share := _most(f, count)) < SOME or count == "repeated")
    )
    if rows is None or not rows.share:
        return None
    counts = [
        count for count in CHANGES if (share := _most(rows.facts, count)) > 0 and (share < SOME or count == "repeated")
    ]
    sentence = text.rows_changed(rows.facts, counts)
    return Finding(
        "rows_changed",
        "note",
        text.rows_changed_title(rows.facts, counts),
        sentence,
        e.labels(rows.groups),
        e.finished(rows.groups),
    )


def _most(facts: DataFacts, count: str) -> float:
    """The highest share of a split's rows that a count of that name has."""
    return max(getattr(split, count) / split.read if split.read else 0.0 for split in facts.splits.values())
