"""Findings about a task's labels: never trained, or nearly all the same. Each function is named after its kind."""

from __future__ import annotations

import math

from lorabench.analysis.findings import data_text as text
from lorabench.analysis.findings.base import Finding
from lorabench.analysis.findings.counts import worst
from lorabench.analysis.study import StudyAnalysis
from lorabench.record.data import DataFacts

ONE_SIDED = 0.7  # share of the test rows with one label


def unseen_labels(e: StudyAnalysis) -> Finding | None:
    """Labels of the test that no training row has."""
    rows = worst(e, lambda f: float(len(_unseen(f))))
    if rows is None or not rows.share:
        return None
    labels = _unseen(rows.facts)
    number = sum(rows.facts.test.labels[label] for label in labels)
    sentence = text.unseen_labels(number, rows.facts.test.rows, labels)
    return Finding(
        "unseen_labels",
        "caution",
        "Labels that were never trained",
        sentence,
        e.labels(rows.groups),
        e.finished(rows.groups),
    )


def one_sided_labels(e: StudyAnalysis) -> Finding | None:
    """An accuracy that always saying one label would nearly have, or that none is better than."""
    rows = worst(e, lambda f: f.test.majority[1] if f.test.majority and len(f.test.labels) > 1 else 0.0)
    if rows is None or not rows.share:
        return None
    label, share = rows.facts.test.majority or ("", 0.0)
    accuracies = [
        (e.by_condition[g.condition], name) for g in rows.groups for name in ("accuracy", f"{g.setting.task.name}/acc")
    ]  # of other items the labels say nothing
    best = max((v for summary, name in accuracies if (v := summary.mean(name)) is not None), default=None)
    chance = 2 * math.sqrt(
        share * (1 - share) / rows.facts.test.rows
    )  # two standard errors of a share: the accuracy may be of other rows of the test
    even = (
        share <= 1 / len(rows.facts.test.labels) + chance
    )  # then an accuracy that low is one of guessing: at_chance says so
    if share < ONE_SIDED and (even or best is None or best > share + chance):
        return None
    sentence = text.one_sided_labels(label, share, rows.facts.test.rows, best)
    return Finding(
        "one_sided_labels",
        "caution",
        "Most test rows have one label",
        sentence,
        e.labels(rows.groups),
        e.finished(rows.groups),
    )


def _unseen(facts: DataFacts) -> list[str]:
    return [label for label in facts.test.labels if facts.train.labels and label not in facts.train.labels]
