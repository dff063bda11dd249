"""Findings about measured values: accuracies and what their items can tell. Each function is named after its kind.

Items that a margin needs: over n items that two conditions share, with accuracies near p whose right answers
correlate by rho,

    Var(difference) = 2 p (1 - p) (1 - rho) / n      (Miller 2024, arXiv:2411.00640: questions drawn from many, pairs
                                                     correlated)
    n for 1.96 standard errors <= margin = n now * (1.96 * standard error now / margin)^2

so that the standard error of today's difference, taken item by item, brings rho along; without stored items it is that
of rho = 0. Two one-sided tests at 5 % (Schuirmann 1987) need 1.64 standard errors within the margin even for a
difference of zero: above that, a condition cannot be called equivalent. 1.96 and 1.64 are of the normal distribution,
of t below 100 items.
"""

from __future__ import annotations

import math

import numpy as np

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.difference import Difference, difference, item_errors, normal_error, quantile_over_items
from lorabench.analysis.findings import values_text as text
from lorabench.analysis.findings.base import Finding
from lorabench.analysis.intervals import exact, few_of_a_kind
from lorabench.analysis.study import StudyAnalysis
from lorabench.config.study import Cell
from lorabench.record.items import FILE, Items, load_items
from lorabench.record.metrics import is_accuracy, metric

_CLOZE_CHOICES = 4  # tasks._cloze: the true word and three distractors, each place equally often


def base_better(e: StudyAnalysis) -> Finding | None:
    """Training left a condition worse than it began."""
    hit: dict[str, Replicates] = {}
    worse: list[text.BesideBase] = []
    for name in (m for m in dict.fromkeys((e.metric, *filter(is_accuracy, e.metrics))) if metric(m).better != "none"):
        for g in e.trained:
            base = _base_of(e, g)
            value, base_value = _mean(e, name, g), _mean(e, name, base)
            if base is None or value is None or base_value is None or not _surely_worse(e, name, g, base):
                continue
            hit[g.condition], hit[base.condition] = g, base
            worse.append(text.BesideBase(name, e.label(g.condition), value, e.label(base.condition), base_value))
    trained = [g for g in hit.values() if g.trains]
    if not trained:
        return None
    sentence = text.base_better(worse, len(trained), len(e.trained))
    return Finding(
        "base_better",
        "grave",
        "The untrained base is better",
        sentence,
        e.labels(trained),
        e.finished(list(hit.values())),
    )


def at_chance(e: StudyAnalysis) -> Finding | None:
    """Accuracies that guessing, or the untrained base, would have as well."""
    hit: dict[str, Replicates] = {}
    accuracies: list[text.Chance] = []
    among = e.trained or e.groups
    for name in filter(is_accuracy, e.metrics):
        for g in among:
            chance = _by_guessing(e, name, g) if _offered(e, name, g) else _by_base(e, name, g) if g.trains else None
            if chance is not None:
                hit[g.condition] = g
                accuracies.append(chance)
    if not hit:
        return None
    groups = list(hit.values())
    sentence = text.at_chance(accuracies, len(groups), len(among), trained=bool(e.trained))
    return Finding(
        "at_chance", "caution", "Accuracies no better than chance", sentence, e.labels(groups), e.finished(groups)
    )


def choices(name: str, cell: Cell) -> int | None:
    """How many answers an accuracy's items offer; None where the study does not say (lm-eval's own tasks)."""
    if (cell.task.name, name) == ("python-docs", "python-docs-cloze/acc"):
        return _CLOZE_CHOICES
    return (
        len({*getattr(cell.task, "choices", {}).values()}) or None
        if cell.task.name == "classify" and name in ("accuracy", "classify/acc")
        else None
    )


def _offered(e: StudyAnalysis, name: str, g: Replicates) -> int | None:
    """The same of a condition: where labels stand for themselves, they are those of the data."""
    number, declared = choices(name, g.setting), getattr(g.setting.task, "choices", {})
    data = next(
        (r.data for i in e.finished([g]) if (r := e.results[i].resolved) is not None and r.data is not None), None
    )
    labels = {*data.train.labels, *data.validation.labels, *data.test.labels} if data else set()
    return len(labels) if number and labels - declared.keys() else number


def _surely_worse(e: StudyAnalysis, name: str, g: Replicates, base: Replicates) -> bool:
    """Whether a trained condition lies on the base's wrong side by its 95 % interval: over seeds, of shares over items
    as well, with one seed over items."""
    values, base_value = np.array([*e.pairing.seeds(name, g.condition).values()]), _mean(e, name, base)
    if base_value is None or not len(values):
        return False
    errors, count = None, None
    if len(values) == 1 or metric(name).unit == "share":
        items = [i for c in e.finished([g]) if (i := _items(e, name, c)) is not None]
        base_items = [i for c in e.finished([base]) if (i := _items(e, name, c)) is not None]
        error = _paired_error(e, name, g, base)
        errors = (
            item_errors(items, base_items * len(items))
            if len(items) == len(values) and len(base_items) == 1
            else (error, error)
            if error
            else None
        )
        count = len(base_items[0].sums) if len(base_items) == 1 else None
    ends = difference(values, np.full(len(values), base_value), errors, count).interval
    return ends is not None and (ends[0] > 0 if metric(name).better == "lower" else ends[1] < 0)


def _by_guessing(e: StudyAnalysis, name: str, g: Replicates) -> text.Chance | None:
    mean, error, number, items = _mean(e, name, g), _error(e, name, g), _offered(e, name, g), _count(e, name, g)
    if mean is None or error is None or number is None:
        return None
    ci_half_width = quantile_over_items(items) * error
    low, high = (
        exact(mean, items)
        if items is not None and few_of_a_kind(mean, items)
        else (mean - ci_half_width, mean + ci_half_width)
    )
    return text.Chance(name, e.label(g.condition), mean, low, high, number) if low <= 1 / number else None


def _by_base(e: StudyAnalysis, name: str, g: Replicates) -> text.Chance | None:
    base = _base_of(e, g)
    value, base_value = _mean(e, name, g), _mean(e, name, base)
    if base is None or value is None or base_value is None or _surely_worse(e, name, g, base):
        return None  # what is surely worse is another finding
    error = _paired_error(e, name, g, base)
    if error is None:
        return None
    ci_half_width, apart = quantile_over_items(_count(e, name, g)) * error, value - base_value
    if apart - ci_half_width > 0:
        return None
    return text.Chance(
        name, e.label(g.condition), value, apart - ci_half_width, apart + ci_half_width, None, base_value
    )


def _paired_error(e: StudyAnalysis, name: str, left: Replicates, right: Replicates) -> float | None:
    """Standard error over items of the difference of two means over seeds; as if unpaired where items were not kept."""
    each = [[_items(e, name, i) for i in e.finished([g])] for g in (left, right)]
    sums = [[i.sums for i in side if i is not None and i.weights is None] for side in each]
    if list(map(len, sums)) == list(map(len, each)) and len({len(s) for side in sums for s in side}) == 1:
        apart = np.mean(sums[0], axis=0) - np.mean(sums[1], axis=0)
        return normal_error(apart, None, float(apart.mean())) if len(apart) > 1 and np.any(apart) else None
    errors = [_error(e, name, g) for g in (left, right)]
    return math.hypot(*[x for x in errors if x is not None]) if None not in errors else None


def few_items(e: StudyAnalysis) -> Finding | None:
    """Too few items for any equivalence within the study's margin, of all comparisons or of some."""
    margin = e.study.comparison.accuracy_margin
    accuracies: list[text.ItemsNeeded] = []
    hit: dict[str, Replicates] = {}
    short = total = 0
    for name in (m for m in e.metrics if metric(m).unit == "share"):
        compared = [
            (error, d.items, c)
            for c in e.comparisons
            if c.metric == name
            and (d := e.pairing.difference(name, c.condition, c.reference))
            and (error := _over_items(d))
        ]
        uncertain = [row for row in compared if quantile_over_items(row[1], 0.05) * row[0] >= margin]
        total += len(compared)
        if not uncertain:
            continue
        least, items, best = min(uncertain, key=lambda row: row[0])
        count = items or _count(e, name, e.group(best.condition))
        error = _paired_error(e, name, e.group(best.condition), e.group(best.reference)) or least
        if count is None:
            continue
        short += len(uncertain)
        ci_half_width = quantile_over_items(count) * error
        accuracies.append(
            text.ItemsNeeded(
                name,
                e.label(best.condition),
                e.label(best.reference),
                count,
                ci_half_width,
                math.ceil(count * (ci_half_width / margin) ** 2),
            )
        )
        hit |= {i: e.group(i) for _, _, c in uncertain for i in (c.condition, c.reference)}
    if not accuracies:
        return None
    limited = any(g.setting.evaluation.limit for g in e.groups)
    sentence = text.few_items(accuracies, short, total, margin, limited=limited)
    return Finding(
        "few_items",
        "caution",
        "Too few items for the margin",
        sentence,
        e.labels(list(hit.values())),
        e.finished(list(hit.values())),
    )


def _over_items(d: Difference) -> float | None:
    """The standard error over items; where no answer differs, that of one item in as many and two."""
    return max(d.item_errors) if d.item_errors else 1 / (d.items + 2) if d.items else None


def _base_of(e: StudyAnalysis, g: Replicates) -> Replicates | None:
    """The untrained base on the same model, task and evaluation; of the same quantization where there is one, else
    unquantized."""
    alike = [b for b in e.bases if _ground(b) == _ground(g)]
    same = [b for b in alike if b.setting.quantization == g.setting.quantization]
    return next(iter(same or [b for b in alike if b.setting.quantization.name == "none"]), None)


def _ground(g: Replicates) -> tuple[object, ...]:
    s = g.setting
    return s.model, s.fingerprints, s.evaluation, s.training.sequence_length


def _mean(e: StudyAnalysis, name: str, g: Replicates | None) -> float | None:
    return e.by_condition[g.condition].mean(name) if g is not None else None


def _error(e: StudyAnalysis, name: str, g: Replicates) -> float | None:
    """Standard error over items of one cell: of the mean over seeds it is an upper bound."""
    errors = [
        r.stderr for i in e.finished([g]) for r in e.results[i].readings if r.metric == name and r.stderr is not None
    ]
    return sum(errors) / len(errors) if errors else None


def _count(e: StudyAnalysis, name: str, g: Replicates) -> int | None:
    return next((r.count for i in e.finished([g]) for r in e.results[i].readings if r.metric == name and r.count), None)


def _items(e: StudyAnalysis, name: str, cell: str) -> Items | None:
    return load_items(e.file(cell, FILE)).get(name)
