"""Findings about a task's labels: never trained, or nearly all the same. Each function is named after its kind."""

from __future__ import annotations

import math

from lorabench.analysis.findings.base import Finding, listed
from lorabench.analysis.findings.counts import percent, worst
from lorabench.analysis.study import StudyAnalysis
from lorabench.record.data import DataFacts

ONE_SIDED = 0.7  # share of the test rows with one label


def unseen_labels(e: StudyAnalysis) -> Finding | None:
    """Labels of the test that no training row has."""
    found = worst(e, lambda f: float(len(_unseen(f))))
    if found is None or not found.share:
        return None
    labels = _unseen(found.facts)
    rows = sum(found.facts.test.labels[label] for label in labels)
    sentence = (
        f"{rows:,} of {found.facts.test.rows:,} test rows have a label that no training row has ({listed(labels)}), and"
        " cannot be learned. Give training rows of every label, or take those out of the test."
    )
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
    found = worst(e, lambda f: f.test.majority[1] if f.test.majority and len(f.test.labels) > 1 else 0.0)
    if found is None or not found.share:
        return None
    label, share = found.facts.test.majority or ("", 0.0)
    named = [
        (e.by_condition[g.condition], name) for g in found.groups for name in ("accuracy", f"{g.setting.task.name}/acc")
    ]  # of other items the labels say nothing
    best = max((v for summary, name in named if (v := summary.mean(name)) is not None), default=None)
    chance = 2 * math.sqrt(
        share * (1 - share) / found.facts.test.rows
    )  # two standard errors of a share: the accuracy may be of other rows of the test
    even = (
        share <= 1 / len(found.facts.test.labels) + chance
    )  # then an accuracy that low is one of guessing: at_chance says so
    if share < ONE_SIDED and (even or best is None or best > share + chance):
        return None
    beside = f"; the best accuracy here is {percent(best)}" if best is not None else ""
    sentence = (
        f"{percent(share)} of the {found.facts.test.rows:,} test rows have the label {label}, so always saying it is"
        f" right as often{beside}. Judge by the loss, or test with as many rows of each label."
    )
    return Finding(
        "one_sided_labels",
        "caution",
        "Most test rows have one label",
        sentence,
        e.labels(found.groups),
        e.finished(found.groups),
    )


def _unseen(facts: DataFacts) -> list[str]:
    return [label for label in facts.test.labels if facts.train.labels and label not in facts.train.labels]
