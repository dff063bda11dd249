"""The sentences of findings about measured values. Each function is named after its kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorabench.analysis.findings.base import listed
from lorabench.record.metrics import metric


@dataclass(frozen=True)
class BesideBase:
    """A condition's value beside that of the untrained base."""

    metric: str
    label: str
    value: float
    base_label: str
    base_value: float


def base_better(worse: Sequence[BesideBase], conditions: int, trained: int) -> str:
    """`conditions`: of the trained ones those that are worse in any metric."""
    parts = [
        f"{metric(b.metric).label} of {b.label} {_value(b.metric, b.value)}, of {b.base_label}"
        f" {_value(b.metric, b.base_value)}"
        for b in worse
    ]
    return (
        f"{conditions} of {trained} trained conditions are worse than the untrained base by a 95 % interval"
        f" ({listed(parts, '; ')}). Training made them worse: check the learning rate, the steps and the data"
        " before comparing them."
    )


@dataclass(frozen=True)
class Chance:
    """An accuracy that guessing, or the untrained base, would have as well."""

    metric: str
    label: str
    value: float
    low: float
    """of the 95 % interval over items: of the value, or of its difference from the base"""
    high: float
    choices: int | None
    """how many answers an item offers; None where the accuracy is held against the base"""
    base_value: float | None = None


def at_chance(accuracies: Sequence[Chance], conditions: int, total: int, *, trained: bool) -> str:
    """`conditions`: of so many in total those with such an accuracy; `trained`: whether they are trained ones."""
    shows = "that anything was learned" if trained else "what the model can do, nor what quantization takes from it"
    parts = [f"{metric(a.metric).label} of {a.label} {_chance(a)}" for a in accuracies]
    return (
        f"{conditions} of {total} conditions have an accuracy that does not show {shows}"
        f" ({listed(parts, '; ')}). Judge them by the loss, {'train longer, ' if trained else ''}or test with more"
        " items."
    )


def _chance(a: Chance) -> str:
    if a.base_value is None:
        guessing = f"of guessing among {a.choices} choices {_value(a.metric, 1 / (a.choices or 1))}"
        return f"{_value(a.metric, a.value)} ({_interval(a.low, a.high)}), {guessing}"
    return (
        f"{_value(a.metric, a.value)}, of the untrained base {_value(a.metric, a.base_value)} (the difference"
        f" {_interval(a.low, a.high)})"
    )


@dataclass(frozen=True)
class ItemsNeeded:
    """What the items of an accuracy leave uncertain, in the comparison that they tell most of."""

    metric: str
    label: str
    reference_label: str
    items: int
    ci_half_width: float
    """of the difference, as a share"""
    needed: int
    """items at which that would be the margin"""


def few_items(
    accuracies: Sequence[ItemsNeeded], uncertain: int, comparisons: int, margin: float, *, limited: bool
) -> str:
    """`uncertain`: of so many comparisons; `limited`: whether evaluation.limit keeps the items few."""
    parts = [
        f"{metric(a.metric).label}: {a.items:,} items leave a difference uncertain by ±{100 * a.ci_half_width:.1f}"
        " points"
        f" or more ({a.label} against {a.reference_label}), and about {_two_digits(a.needed):,} would be needed"
        for a in accuracies
    ]
    who = (
        "No two conditions can"
        if uncertain == comparisons
        else f"In {uncertain} of {comparisons} comparisons the two conditions cannot"
    )
    return (
        f"{who} be called equivalent within {100 * margin:g} point{'' if margin == 0.01 else 's'} of accuracy"
        f" ({listed(parts, '; ')}). {'Raise evaluation.limit' if limited else 'Test on more items'}, accept a larger"
        " comparison.accuracy_margin, or judge by the loss."
    )


def _value(name: str, value: float) -> str:
    unit = metric(name).unit
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.3f}{f' {unit}' if unit in ('nats', 'bits') else ''}"


def _interval(low: float, high: float) -> str:
    ends = [f"{100 * end:.1f}".replace("-", "−") for end in (low, high)]
    return f"95 % interval over items {ends[0]} to {ends[1]} %"


def _two_digits(n: int) -> int:
    """13,427 as 13,000: an estimate says no more."""
    return round(n, 2 - len(str(n))) if n > 99 else n
