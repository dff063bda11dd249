"""Findings about hyperparameters: learning rates, and scaling beside rank. Each function is named after its kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.findings.base import Finding, listed
from lorabench.analysis.labels import method_label
from lorabench.analysis.study import StudyAnalysis
from lorabench.config.fingerprint import canonical_json
from lorabench.record.data import FEW_VALIDATION

_ROOT = ("rslora",)  # scaling alpha / sqrt(rank)
_SCALED = ("lora", "dora", "pissa", *_ROOT)  # alpha / rank
_TUNE = "training.learning_rate: {tune: [...]}"


def shared_rate(e: StudyAnalysis) -> Finding | None:
    """One rate, given beforehand, serves methods whose best rates differ."""
    found = _fixed(e).shared
    if not found:
        return None
    rates = ", ".join(f"{r:g}" for r in sorted({g.setting.training.fixed_learning_rate for g in found}))
    methods = list(dict.fromkeys(g.setting.method.name for g in found))
    if "full" in methods:
        said = (
            f"Adapters and full fine-tuning share one learning rate ({rates}). LoRA's best rate is about ten times full"
            " fine-tuning's, so at least one of them is likely ill served."
        )
    else:
        said = (
            f"{' and '.join(map(method_label, methods))} share one learning rate ({rates}), which may suit one of them"
            " better."
        )
    sentence = f"{said} Let each condition choose its own with {_TUNE}."
    return Finding(
        "shared_rate",
        "caution",
        "One learning rate for different methods",
        sentence,
        e.labels(found),
        e.finished(found),
    )


def untuned_rates(e: StudyAnalysis) -> Finding | None:
    """Rates were given, each method its own, and nobody knows whether a better one is near."""
    found = _fixed(e).alone
    if not found:
        return None
    rates: dict[str, set[float]] = {}
    for g in found:
        rates.setdefault(g.setting.method.name, set()).add(g.setting.training.fixed_learning_rate)
    each = "; ".join(
        f"{method_label(method)} {', '.join(f'{r:g}' for r in sorted(values))}" for method, values in rates.items()
    )
    some = f" for {len(found)} of {len(e.trained)} trained conditions" if len(found) < len(e.trained) else ""
    sentence = (
        f"Learning rates were chosen beforehand, not tuned for each condition{some} ({each}). A better rate may change"
        f" the order: tune with {_TUNE}."
    )
    return Finding(
        "untuned_rates",
        "caution",
        "Learning rates are untuned",
        sentence,
        e.labels(found) if some else (),
        e.finished(found),
    )


@dataclass(frozen=True)
class _Fixed:
    """Trained conditions whose one rate was given beforehand."""

    shared: tuple[Replicates, ...]
    """at a rate that full fine-tuning and adapters, or all of several methods, have alike"""
    alone: tuple[Replicates, ...]


def _fixed(e: StudyAnalysis) -> _Fixed:
    """A tuned rate is none of them, nor one that is an axis of the study: there the other rates stand beside it."""
    rates: dict[str, set[float]] = {}
    untuned = [(g, _without(g, "training.learning_rate")) for g in e.trained if not g.setting.tuned_over]
    for g, key in untuned:
        rates.setdefault(key, set()).add(g.setting.training.fixed_learning_rate)
    fixed = [g for g, key in untuned if len(rates[key]) == 1]
    shared: set[str] = set()
    for marks in {g.setting.fingerprints for g in fixed}:  # methods compete on one model and one task
        here = [g for g in fixed if g.setting.fingerprints == marks]
        common = _common({(g.setting.method.name, g.setting.training.fixed_learning_rate) for g in here})
        shared |= {g.condition for g in here if g.setting.training.fixed_learning_rate in common}
    return _Fixed(
        tuple(g for g in fixed if g.condition in shared), tuple(g for g in fixed if g.condition not in shared)
    )


def _common(used: set[tuple[str, float]]) -> set[float]:
    full, adapters = ({r for m, r in used if (m == "full") == wanted} for wanted in (True, False))
    if full & adapters:
        return full & adapters
    return adapters if not full and len(adapters) == 1 and len({m for m, _ in used}) > 1 else set()


def edge_rate(e: StudyAnalysis) -> Finding | None:
    """A chosen rate ends its grid."""
    hit = [t for t in e.tunings if t.chosen is not None and t.edge]
    if not hit:
        return None
    parts = []
    for side, beyond in (("lowest", "lower"), ("highest", "higher")):
        here = [t for t in hit if (t.chosen == t.tried[0].rate) == (side == "lowest")]
        if here:
            each = listed(
                [f"{e.label(t.condition)} ({t.chosen:g} of {t.tried[0].rate:g} to {t.tried[-1].rate:g})" for t in here]
            )
            parts.append(f"the {side} was chosen by {each}: try {beyond} ones")
    numbers = f"{len(hit)} of {sum(t.chosen is not None for t in e.tunings)}"
    sentence = f"{numbers} chosen learning rates end their grid, and a better one may lie outside: {'; '.join(parts)}."
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
    sentence = (
        f"{len(few)} of {sum(t.chosen is not None for t in e.tunings)} learning rates were chosen by no more than"
        f" {max(few.values())} validation rows, on which two rates may not be told apart: task.validation_percent takes"
        " more of the training data."
    )
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
        if g.setting.method.name in _SCALED:
            families.setdefault(_without(g, "method.rank", "method.alpha", "training.learning_rate"), []).append(g)
    hit, parts = [], []
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
            name = e.by_condition[low.condition].label.family
            ratio = "alpha / sqrt(rank)" if low.setting.method.name in _ROOT else "alpha / rank"
            parts.append(
                f"{name}: alpha {low.setting.method.alpha:g}, {ratio} from {scaling(low):.3g} at rank"
                f" {low.setting.method.rank} to {scaling(high):.3g} at rank {high.setting.method.rank}"
            )
            hit += widest
    if not hit:
        return None
    sentence = (
        "Alpha stays while the rank varies, so rank and scaling change together and the effect of one cannot be told"
        f" from the other's ({listed(parts, '; ')}). Let alpha grow with the rank, or vary alpha too."
    )
    return Finding(
        "scaling_moves", "caution", "Rank and scaling change together", sentence, e.labels(hit), e.finished(hit)
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
