"""Findings about hyperparameters: learning rates, and scaling beside rank. Each function is named after its kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.findings import design_text as text
from lorabench.analysis.findings.base import Finding
from lorabench.analysis.study import StudyAnalysis
from lorabench.config.fingerprint import canonical_json
from lorabench.config.imported import knows
from lorabench.record.data import FEW_VALIDATION

_ROOT = ("rslora",)  # scaling alpha / sqrt(rank)
_SCALED = ("lora", "dora", "pissa", *_ROOT)  # alpha / rank


def shared_rate(e: StudyAnalysis) -> Finding | None:
    """One rate, given beforehand, serves methods whose best rates differ."""
    groups = _fixed(e).shared
    if not groups:
        return None
    methods = list(dict.fromkeys(g.setting.method.name for g in groups))
    learning_rates = sorted({g.setting.training.fixed_learning_rate for g in groups})
    sentence = text.shared_rate(methods, learning_rates, imported=e.study.imported is not None)
    return Finding(
        "shared_rate",
        "caution",
        "One learning rate for different methods",
        sentence,
        e.labels(groups),
        e.finished(groups),
    )


def untuned_rates(e: StudyAnalysis) -> Finding | None:
    """Rates were given, each method its own, and nobody knows whether a better one is near."""
    groups = _fixed(e).alone
    if not groups:
        return None
    by_method: dict[str, set[float]] = {}
    for g in groups:
        by_method.setdefault(g.setting.method.name, set()).add(g.setting.training.fixed_learning_rate)
    learning_rates = {method: sorted(values) for method, values in by_method.items()}
    sentence = text.untuned_rates(learning_rates, len(groups), len(e.trained), imported=e.study.imported is not None)
    return Finding(
        "untuned_rates",
        "caution",
        "Learning rates are untuned",
        sentence,
        e.labels(groups) if len(groups) < len(e.trained) else (),
        e.finished(groups),
    )


@dataclass(frozen=True)
class _Fixed:
    """Trained conditions whose one rate was given beforehand."""

    shared: tuple[Replicates, ...]
    """at a rate that full fine-tuning and adapters, or all of several methods, have alike"""
    alone: tuple[Replicates, ...]


def _fixed(e: StudyAnalysis) -> _Fixed:
    """A tuned rate is none of them, nor one that is an axis of the study: there the other rates stand beside it."""
    learning_rates: dict[str, set[float]] = {}
    given = [g for g in e.trained if not g.setting.tuned_over and knows(g.setting, "training.learning_rate")]
    untuned = [(g, _without(g, "training.learning_rate")) for g in given]
    for g, key in untuned:
        learning_rates.setdefault(key, set()).add(g.setting.training.fixed_learning_rate)
    fixed = [g for g, key in untuned if len(learning_rates[key]) == 1]
    shared: set[str] = set()
    for marks in {g.setting.fingerprints for g in fixed}:  # methods compete on one model and one task
        here = [g for g in fixed if g.setting.fingerprints == marks]
        common = _common({(g.setting.method.name, g.setting.training.fixed_learning_rate) for g in here})
        shared |= {g.condition for g in here if g.setting.training.fixed_learning_rate in common}
    return _Fixed(
        tuple(g for g in fixed if g.condition in shared), tuple(g for g in fixed if g.condition not in shared)
    )


def _common(used: set[tuple[str, float]]) -> set[float]:
    full, adapters = ({r for m, r in used if (m == "full") == is_full} for is_full in (True, False))
    if full & adapters:
        return full & adapters
    return adapters if not full and len(adapters) == 1 and len({m for m, _ in used}) > 1 else set()


def edge_rate(e: StudyAnalysis) -> Finding | None:
    """A chosen rate ends its grid."""
    hit = [t for t in e.tunings if t.chosen is not None and t.edge]
    if not hit:
        return None
    at_edge = [
        text.ChosenAtEdge(e.label(t.condition), t.chosen, t.results[0].learning_rate, t.results[-1].learning_rate)
        for t in hit
        if t.chosen is not None
    ]
    sentence = text.edge_rate(at_edge, sum(t.chosen is not None for t in e.tunings))
    groups = [e.group(t.condition) for t in hit]
    return Finding(
        "edge_rate",
        "caution",
        "The best learning rate may lie outside the grid",
        sentence,
        e.labels(groups),
        e.finished(groups),
    )


def few_validation_rows(e: StudyAnalysis) -> Finding | None:
    """A learning rate was chosen by a handful of validation rows."""
    few: dict[str, int] = {}
    for t in e.tunings:
        rows = [
            r.resolved.data.validation.rows
            for i in e.group(t.condition).ids
            if (r := e.results.get(i)) and r.resolved and r.resolved.data
        ]
        if t.chosen is not None and rows and min(rows) < FEW_VALIDATION:
            few[t.condition] = min(rows)
    if not few:
        return None
    tuned = sum(t.chosen is not None for t in e.tunings)
    sentence = text.few_validation_rows(len(few), tuned, max(few.values()))
    groups = [e.group(c) for c in few]
    return Finding(
        "few_validation_rows",
        "caution",
        "Rates were chosen by few validation rows",
        sentence,
        e.labels(groups),
        e.finished(groups),
    )


def scaling_moves(e: StudyAnalysis) -> Finding | None:
    """Rank and scaling change together, and no scaling is common to all ranks."""
    families: dict[str, list[Replicates]] = {}
    for g in e.trained:
        if g.setting.method.name in _SCALED and None not in (g.setting.method.alpha, g.setting.method.rank):
            families.setdefault(_without(g, "method.rank", "method.alpha", "training.learning_rate"), []).append(g)
    hit: list[Replicates] = []
    moving: list[text.MovingScale] = []
    for family in families.values():
        by_alpha: dict[float | None, list[Replicates]] = {}
        for g in family:
            by_alpha.setdefault(g.setting.method.alpha, []).append(g)
        widest = max(by_alpha.values(), key=_ranks)
        lines = [
            {scaling(g) for g in family if g.setting.method.rank == rank}
            for rank in {g.setting.method.rank for g in family}
        ]
        if _ranks(widest) > 1 and not set.intersection(*lines):
            low, high = (f(widest, key=lambda g: g.setting.method.rank or 0) for f in (min, max))
            moving.append(_moving_scale(e, low, high))
            hit += widest
    if not hit:
        return None
    sentence = text.scaling_moves(moving)
    return Finding(
        "scaling_moves", "caution", "Rank and scaling change together", sentence, e.labels(hit), e.finished(hit)
    )


def _moving_scale(e: StudyAnalysis, low: Replicates, high: Replicates) -> text.MovingScale:
    method, high_rank = low.setting.method, high.setting.method.rank
    assert method.alpha is not None and method.rank is not None and high_rank is not None
    return text.MovingScale(
        e.by_condition[low.condition].label.family,
        method.alpha,
        method.name in _ROOT,
        method.rank,
        high_rank,
        scaling(low),
        scaling(high),
    )


def scaling(group: Replicates) -> float:
    """What multiplies B A, rounded so that 16/8 and 2.0 are one."""
    m = group.setting.method
    assert m.alpha is not None and m.rank is not None
    return round(m.alpha / (math.sqrt(m.rank) if m.name in _ROOT else m.rank), 9)


def _ranks(groups: list[Replicates]) -> int:
    return len({g.setting.method.rank for g in groups})


def _without(group: Replicates, *fields: str) -> str:
    """A condition's setting as a key, some fields left out."""
    plain = dict(group.declared)
    for part, _, name in (f.partition(".") for f in fields):
        plain[part] = {k: v for k, v in plain[part].items() if k != name}
    return canonical_json(plain)
