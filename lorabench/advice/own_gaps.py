"""The user's own studies as further sources of the meta-analysis: their gaps in accuracy, and how far they move it.

A loss has no points, and a made-up task says nothing of others, so that studies of these stay apart. One seed shows
nothing: its gap does not enter. The variance of a gap is that of the study's own paired comparison. Of conditions that
differ in what is free, such as the rate, the best one enters (selection.tuned); one rate for both sides of a gap, or
another length, is flagged as in published tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lorabench import formatting, plugins
from lorabench.advice.published_evidence import Asked, kind_of
from lorabench.advice.selection import comparison_groups, trained_options, tuned
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.study import StudyAnalysis
from lorabench.config.paths import short_model
from lorabench.evidence.gaps import ADAPTERS, STORAGES, Contrast, Gap
from lorabench.evidence.meta_analysis import MetaAnalysis, Setting, with_own
from lorabench.record.metrics import is_accuracy, metric

_NORMAL = 1.96
"""half a 95 % interval in standard deviations; a t interval of few seeds counts as wider than it is"""


def own_gaps(study: StudyAnalysis) -> tuple[Gap, ...]:
    """Gaps of a study whose metric is an accuracy."""
    if not is_accuracy(study.metric):
        return ()
    return tuple(g for members in comparison_groups(study.groups) for g in _of_group(study, members))


def why_apart(study: StudyAnalysis) -> str:
    """Why a study has no gaps to pool."""
    tasks = {g.setting.task.name for g in study.groups}
    if tasks and all(_is_made_up(t) for t in tasks):
        return "made-up tasks"
    if not is_accuracy(study.metric):
        unit = formatting.head_unit(metric(study.metric).unit)
        return f"judged by {metric(study.metric).label}{f', in {unit}' if unit else ''}"
    return "no pair that repeated seeds tell apart"


def _is_made_up(task: str) -> bool:
    return task in plugins.names("tasks") and bool(getattr(plugins.load("tasks", task), "MADE_UP", False))


def _of_group(study: StudyAnalysis, members: Sequence[Replicates]) -> Iterator[Gap]:
    task = members[0].setting.task.name
    kind = kind_of(task)
    if kind is None or _is_made_up(task):
        return
    options = trained_options(members, study.summaries, study.verdicts, study.metric)
    costs = Counter(o.cost for o in options)
    searched = {o.condition: costs[o.cost] > 1 for o in tuned(options)}
    trained = [m for m in members if m.condition in searched]
    full = [m for m in trained if m.setting.method.name == "full"]
    adapters = [m for m in trained if m.setting.method.name in ADAPTERS and m.setting.method.rank]

    def gap(contrast: Contrast, m: Replicates, others: Sequence[Replicates]) -> Iterator[Gap]:
        if others:
            against = min(others, key=lambda o: _length(o) != _length(m))
            one_rate = not (searched[m.condition] or searched[against.condition]) and _rate(m) == _rate(against)
            yield from _gap(study, contrast, kind, m, against, one_rate)

    for m in adapters:
        own, storage = m.setting.method, m.setting.quantization.name
        if storage == "none":
            yield from gap("full", m, full)
        alike = [o for o in adapters if (o.setting.method.name, _targets(o)) == (own.name, _targets(m)) and o is not m]
        if storage in STORAGES:
            same_rank = [o for o in alike if o.setting.method.rank == own.rank]
            yield from gap("storage", m, [o for o in same_rank if o.setting.quantization.name == "none"])
        lower = [o for o in alike if o.setting.quantization.name == storage and _rank(o) < _rank(m)]
        yield from gap("rank", m, [o for o in lower if _rank(o) == min(map(_rank, lower))])


def _rank(m: Replicates) -> int:
    return m.setting.method.rank or 0


def _targets(m: Replicates) -> object:
    return m.declared["method"]["target_modules"]


def _length(m: Replicates) -> tuple[object, object]:
    return m.declared["training"]["steps"], m.declared["training"]["epochs"]


def _rate(m: Replicates) -> object:
    """The one rate that it ran at; where several were tried, or none is told, equal to no other."""
    rate = m.declared["training"]["learning_rate"]
    return rate if isinstance(rate, float) else object()


def _gap(
    study: StudyAnalysis, contrast: Contrast, kind: str, m: Replicates, against: Replicates, one_rate: bool
) -> Iterator[Gap]:
    found = study.verdicts.of(study.metric, m.condition, against.condition)
    if found is None or not found.repeated or found.low is None or found.high is None:
        return
    summaries, s, other = study.by_condition, m.setting, against.setting
    score, reference = (100 * (summaries[x.condition].mean(study.metric) or 0.0) for x in (m, against))
    deviation = 100 * (found.high - found.low) / 2 / _NORMAL
    rank, alpha = s.method.rank, s.method.alpha
    yield Gap(
        contrast, f"your {study.study.name}", str(study.folder), f"{study.study.name} {s.task.name}",
        short_model(s.model.name), s.task.name, kind, study.metric, "points", s.method.name, other.method.name,
        rank, other.method.rank, s.quantization.name, other.quantization.name, 100 * found.difference, deviation**2,
        score, reference, _parameters(study, against), summaries[m.condition].mean("train_tokens"),
        alpha / rank if alpha and rank else None, s.method.alpha != other.method.alpha, one_rate, False,
        _length(m) != _length(against),
    )  # fmt: skip


def _parameters(study: StudyAnalysis, of: Replicates) -> float | None:
    total = study.by_condition[of.condition].mean("total_parameters")
    trained = study.by_condition[of.condition].mean("trainable_parameters") or 0.0
    return None if total is None else total if of.setting.method.name == "full" else total - trained


def with_studies(asked: Asked, own: Sequence[Gap], apart: Sequence[tuple[str, str]] = ()) -> Asked:
    """With the user's own gaps, and sentences that say how far they moved what is expected, and which of the studies
    could not."""
    if asked.kind is None:
        return asked
    analyses: dict[Contrast, MetaAnalysis] = {c: with_own(m, own) for c, m in asked.analyses.items()}
    moved = tuple(_moved(asked, analyses, own)) if own else ()
    if apart:
        named = "; ".join(f"{name} ({why})" for name, why in apart)
        moved += (f"Not pooled with published tables, whose gaps are in points of a score: {named}.",)
    return replace(asked, analyses=analyses, moved=moved)


def _moved(asked: Asked, analyses: dict[Contrast, MetaAnalysis], own: Iterable[Gap]) -> Iterator[str]:
    known = Setting(asked.kind or "", parameters=asked.parameters, tokens=asked.tokens, alpha_moves=False)
    questions: tuple[tuple[Contrast, str, Setting], ...] = (
        ("full", "LoRA of rank 16 against full fine-tuning", replace(known, rank=16)),
        ("rank", "rank 64 against rank 16", replace(known, rank=64, against_rank=16)),
        ("storage", "nf4 against a 16-bit base", replace(known, storage="nf4")),
    )
    for contrast, what, setting in questions:
        names = sorted({g.source for g in own if g.contrast == contrast})
        if not names:
            continue
        before, after = (of[contrast].predict(setting).mean for of in (asked.analyses, analyses))
        weights = analyses[contrast].weights(setting)
        named = ", ".join(f"{n} with {100 * weights.get(n, 0.0):.0f} %" for n in names)
        yield (
            f"Own studies ({named} of the weight) move what is expected of {what} in {asked.kind} from {before:+.1f} to"
            f" {after:+.1f} points.".replace("-", "−")
            .replace("16−bit", "16-bit")
            .replace("fine−tuning", "fine-tuning")
        )
