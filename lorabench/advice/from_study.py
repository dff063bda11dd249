"""What a stored study says: of each method and quantization the smallest rank that is enough, and how
far it is behind full fine-tuning.

Enough is what is not worse than the comparison group's best, full fine-tuning included, by more than is tolerated;
where no rank of a method is, what is not worse than that method's own best. Without full fine-tuning in the comparison
group its best stands in its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorabench import formatting, plugins
from lorabench.advice.evidence import FULL, ComparisonGroup, Here, Key, MethodResult, key_of
from lorabench.advice.published_evidence import kind_of
from lorabench.advice.selection import Option, best_option, comparison_groups, select, trained_options, tuned
from lorabench.advice.spectral_check import spectral_check
from lorabench.advice.types import EvidenceItem, Quality, Shown
from lorabench.analysis.aggregate import ConditionSummary
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.study import StudyAnalysis
from lorabench.analysis.verdict import Comparison, margin_of
from lorabench.config.architectures import model_type
from lorabench.config.imported import knows
from lorabench.config.paths import short_model
from lorabench.record.metrics import metric as described


def comparison_groups_in(source: StudyAnalysis, here: Here, folder: Path) -> tuple[ComparisonGroup, ...]:
    """Every comparison group of a study, which lies in a folder or archive; none where its metric has no better and
    worse, or no loss that is tolerated."""
    margin = margin_of(source.metric, source.study.comparison)
    if here.tolerated is not None:
        margin = formatting.as_computed(here.tolerated, described(source.metric).unit)
    if margin is None:
        return ()
    return tuple(
        c
        for members in comparison_groups(source.groups)
        if (c := _comparison_group(source, folder, here, members, margin)) is not None
    )


def _comparison_group(
    source: StudyAnalysis, folder: Path, here: Here, members: Sequence[Replicates], tolerated: float
) -> ComparisonGroup | None:
    all_members, members = members, [g for g in members if _can_be_advised(g)]
    summaries, of = source.by_condition, {g.condition: g for g in members}
    options = trained_options(members, source.summaries, source.verdicts, source.metric)
    if not options:
        return None
    full = [o for o in options if of[o.condition].setting.method.name == "full"]
    best = best_option(options)
    field = _Field(
        source, folder, tolerated, best, min(full, key=lambda o: (not o.best, o.worse)) if full else best, bool(full)
    )
    keys: dict[Key, list[Option]] = {}
    for o in options:
        keys.setdefault(key_of(of[o.condition]), []).append(o)
    results = [_method_result(field, [of[o.condition] for o in among], among) for among in keys.values()]
    setting = members[0].setting
    distance, far = _distance(results[0].group, summaries[results[0].option.condition], here)
    ranks = {g.setting.method.rank for g in members if g.trains}
    own_task = setting.imported is None
    made_up = own_task and bool(getattr(plugins.load("tasks", setting.task.name), "MADE_UP", False))
    return ComparisonGroup(
        source.study.name,
        setting.model.name,
        setting.task.name,
        made_up,
        tuple(results),
        distance,
        far,
        len(ranks - {None}),
        best,
        key_of(of[best.condition]),
        len(all_members) - len(members),
    )


def _can_be_advised(group: Replicates) -> bool:
    """Whether a condition is one that lorabench can run; of an imported one whether its source tells what to set."""
    setting = group.setting
    if setting.imported is None:
        return True
    if setting.method.name not in plugins.names("methods") or setting.quantization.name not in plugins.names(
        "quantizations"
    ):
        return False
    needed = [f"method.{field}" for field in plugins.load("methods", setting.method.name).FIELDS if field != "dropout"]
    return all(knows(setting, name) for name in ("training.learning_rate", *needed))


@dataclass(frozen=True)
class _Field:
    """What every result of a comparison group is held against."""

    source: StudyAnalysis
    folder: Path
    """what its evidence is cited by"""
    tolerated: float
    best: Option
    """of all results"""
    against: Option
    """the best full fine-tuning, else the best of all"""
    full: bool
    """whether there is a full fine-tuning"""


def _method_result(field: _Field, members: Sequence[Replicates], among: Sequence[Option]) -> MethodResult:
    """`among` are the options of the members, beside the best of the whole comparison group."""
    source, tolerated = field.source, field.tolerated
    own = trained_options(members, source.summaries, source.verdicts, source.metric)
    best, level = best_option(own), select(among, tolerated)
    took = level or select(own, tolerated) or best
    decided = took.trainable_parameters < best.trainable_parameters or (
        level is not None and took.condition != field.best.condition
    )
    behind = (
        None
        if took.condition == field.against.condition
        else source.verdicts.of(source.metric, took.condition, field.against.condition)
    )
    alone = len(tuned(among)) == 1
    evidence = [_evidence_item(field, took, best, level is not None, not alone, behind)]
    second = spectral_check(took, among, source.of_condition, source.file, source.metric, tolerated)
    if second is not None:
        evidence.append(
            EvidenceItem(
                "cells",
                second.sentence,
                str(field.folder),
                source.by_condition[took.condition].cells,
            )
        )
    ranks = sorted({o.rank for o in among if o.rank is not None})
    group = next(g for g in members if g.condition == took.condition)
    return MethodResult(
        group,
        took,
        _quality(field, took, behind),
        tuple(evidence),
        decided,
        len(ranks) > 1 and took.rank == ranks[-1],
        alone,
        _tuned(group, took, among),
    )


def _tuned(group: Replicates, took: Option, among: Sequence[Option]) -> bool:
    return isinstance(group.declared["training"]["learning_rate"], dict) or sum(o.cost == took.cost for o in among) > 1


def _quality(field: _Field, took: Option, behind: Comparison | None) -> Quality:
    metric, against = (
        field.source.metric,
        FULL if field.full else f"{field.against.label}, the best of {field.source.study.name}",
    )
    if took.condition == field.against.condition:
        return Quality("measured", against, metric, 0.0, 0.0, 0.0, 0.0, field.tolerated)
    if behind is None:
        return Quality("none")
    lower = described(metric).better == "lower"
    low, high = (
        (None, None)
        if behind.low is None or behind.high is None
        else (behind.low, behind.high)
        if lower
        else (-behind.high, -behind.low)
    )
    shown = True if behind.within(field.tolerated) else False if behind.beyond(field.tolerated) else None
    return Quality(
        "measured",
        against,
        metric,
        behind.difference if lower else -behind.difference,
        low,
        high,
        behind.worse_at_most,
        field.tolerated,
        Shown(shown, behind.repeated, behind.family),
    )


def _evidence_item(
    field: _Field, took: Option, best: Option, level: bool, several: bool, behind: Comparison | None
) -> EvidenceItem:
    """`took` beside the best of all where it is level with it, else beside `best`, the best of its kind."""
    source, summaries = field.source, field.source.by_condition
    m, setting = described(source.metric), next(g.setting for g in source.groups if g.condition == took.condition)
    seeds = formatting.plural(took.seeds, "seed")
    within = f"within {formatting.number(field.tolerated, m.unit)} {formatting.head_unit(m.unit, True)}".strip()
    text = (
        f"{source.study.name} ({setting.task.name} on {short_model(setting.model.name)}): {took.label}, {m.label}"
        f" {formatting.number(took.mean, m.unit)},"
    )
    bound = f"bound {formatting.number(took.bound or 0.0, m.unit)}, {seeds}"
    if took.condition == field.best.condition:
        text += (
            f" the best mean of all; nothing smaller of its kind is shown to be as good ({seeds})"
            if several
            else f" the best mean of all ({seeds})"
        )
    elif level:
        text += (
            f" is {'the smallest of its kind that is ' if several else ''}{within} of {field.best.label}, the best"
            f" of all ({bound})"
        )
    elif not several:
        text += (
            f" is the only one of its kind, and not shown to be {within} of {field.best.label}, the best of all"
            f" ({seeds})"
        )
    elif took.condition == best.condition:
        text += f" has the best mean of its kind, and nothing smaller is shown to be as good ({seeds})"
    else:
        text += (
            f" is the smallest that is {within} of {best.label}, the best of its kind, of which none is shown to be"
            f" that close to {field.best.label}, the best of all ({bound})"
        )
    if behind is not None and (field.full or not level):
        interval = (
            ""
            if behind.low is None or behind.high is None
            else f" [{formatting.number(behind.low, m.unit)}, {formatting.number(behind.high, m.unit)}]"
        )
        text += (
            f"; {formatting.difference(behind.difference, m.unit)}{interval} {m.label} against"
            f" {FULL if field.full else field.against.label}"
        )
    cells = (
        *summaries[took.condition].cells,
        *(summaries[field.against.condition].cells if behind is not None else ()),
    )
    return EvidenceItem("cells", text, str(field.folder), cells)


def _distance(group: Replicates, s: ConditionSummary, here: Here) -> tuple[float, str]:
    there = (s.mean("total_parameters") or 0.0) - (
        0.0 if group.setting.method.rank is None else s.mean("trainable_parameters") or 0.0
    )
    tokens = s.mean("train_tokens")
    architectures = model_type(group.setting.model.name), here.architecture
    model, task = group.setting.model.name, group.setting.task.name
    same_model = len({name.rsplit("/", 1)[-1].lower() for name in (model, here.model)}) == 1
    unknown = 0.0 if same_model else -math.inf  # of imported results, which need not tell the size
    size = math.log10(there / here.parameters) if there > 0 else unknown
    same_task = here.task in (None, task) or (here.kind is not None and kind_of(task) == here.kind)
    data = 0.5 * math.log10(tokens / here.tokens) if tokens and here.tokens else 0.0
    parts = {
        f"{formatting.count(there) if there > 0 else 'an unknown number of'} parameters, here"
        f" {formatting.count(here.parameters)}": abs(size),
        f"architecture {architectures[0]}, here {architectures[1]}": (
            0.5 if None not in architectures and architectures[0] != architectures[1] else 0.0
        ),
        f"task {task}, here {here.task}": 0.0 if same_task else 0.5,
        f"{formatting.count(round(tokens or 0))} training tokens, here {formatting.count(here.tokens or 0)}": abs(data),
    }
    most = max(parts, key=lambda name: parts[name])
    return sum(parts.values()), most if parts[most] > 0 else ""
