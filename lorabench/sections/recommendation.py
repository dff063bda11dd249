"""which of the study's own conditions to take, at its margin and at any other, and whether what was learned says the
same"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from lorabench import formatting
from lorabench.advice.published_evidence import published_sentence
from lorabench.advice.selection import Option, best_option, comparison_groups, enough, select, trained_options, tuned
from lorabench.advice.spectral_check import spectral_check
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.verdict import margin_of
from lorabench.config.fingerprint import flattened
from lorabench.config.gpus import gpus
from lorabench.config.paths import short_model
from lorabench.record.metrics import Metric, metric
from lorabench.report import recommendation_text as text
from lorabench.report.blocks import Block, ChoiceGroup, Panel, PanelOption, Points, Section, Text
from lorabench.report.metric_text import axis_factor
from lorabench.report.recommendation_text import Recommended
from lorabench.report.view import View

ORDER = 12
TITLE = "Recommendation"
MOST_ROWS = 200  # of a panel's table
_AT_MOST = 12  # sentences; the panel has all
_SIZES = 8  # memory sizes of the study itself
_FARTHEST = 100  # margins: where the range of tolerated losses ends at the latest


def section(view: View) -> Section | None:
    """A sentence and what the spectra say of it for each comparison group, and a panel for other memories and margins;
    no headline, since it stands next to the answer."""
    choices = compute(view)
    if not choices:
        return None
    m = metric(view.analysis.metric)
    sentences = [text.sentence(r, m) for r in choices]
    checks = [(r.name, r.spectral_check.sentence) for r in choices if r.spectral_check]
    published = [Text(sentence) for sentence in published_tables(view)]
    if len(choices) == 1:
        witness = (Text(sentence) for _, sentence in checks)
        return Section(TITLE, (Text(sentences[0], "lead"), *witness, *published, *_panels(view, choices)))
    more = len(choices) - _AT_MOST
    lines = [f"{r.name}: {sentence}" for r, sentence in zip(choices[:_AT_MOST], sentences, strict=False)]
    if more > 0:
        lines.append(f"{more} more can be chosen in the panel below.")
    blocks: list[Block] = [Points(tuple(lines))]
    if checks:
        blocks.append(Points(tuple(f"{name}: {s}" for name, s in checks), text.second_witness(choices)))
    return Section(TITLE, (*blocks, *published, *_panels(view, choices)))


def published_tables(view: View) -> tuple[str, ...]:
    """What published tables say of the study's ranks, a sentence for each of its tasks that they have."""
    members: dict[str, list[Replicates]] = {}
    for g in view.analysis.groups:
        if g.trains and g.setting.method.name == "lora":
            members.setdefault(g.setting.task.name, []).append(g)
    found = []
    for task, groups in members.items():
        summary = view.analysis.by_condition[groups[0].condition]
        ranks = [r for g in groups if (r := g.setting.method.rank)]
        known = summary.mean("total_parameters"), summary.mean("train_tokens")
        found += [s] if (s := published_sentence(task, *known, ranks)) else []
    return tuple(found)


def _panels(view: View, choices: Sequence[Recommended]) -> tuple[Panel, ...]:
    """The panel; none of an imported study without training peaks, where nothing can be chosen by memory."""
    peaks = any(o.peak_bytes is not None for r in choices for o in r.options)
    return (panel(view, choices),) if peaks or view.analysis.study.imported is None else ()


def compute(view: View) -> tuple[Recommended, ...]:
    """One for each comparison group of two options or more."""
    name, margin = view.analysis.metric, margin_of(view.analysis.metric, view.analysis.study.comparison)
    recommended = []
    by_group = comparison_groups(view.analysis.groups)
    for label, groups in zip(_names(by_group), by_group, strict=True):
        options = trained_options(groups, view.analysis.summaries, view.analysis.verdicts, name)
        options = _short(options) if label else options
        if len(options) < 2:
            continue
        best, chosen = best_option(options), select(options, margin or 0.0)
        beside = text.nearest(options, best) if chosen is None or chosen is best else chosen
        d = None if beside is None else view.analysis.verdicts.of(name, beside.condition, best.condition)
        check = (
            None
            if chosen is None
            else spectral_check(chosen, options, view.analysis.of_condition, view.analysis.file, name, margin)
        )
        unable = sum(g.trains for g in groups) - len(options)
        recommended.append(Recommended(label, options, unable, best, chosen, margin, d.pairs if d else 0, check))
    return tuple(recommended)


def panel(view: View, choices: Sequence[Recommended]) -> Panel:
    """The same for any memory and any tolerated loss; the page computes it."""
    m = metric(view.analysis.metric)
    margin = choices[0].margin or 0.0
    groups = [_group(view, r, m) for r in choices]
    able = [option for group in groups for option in choosable(group.rows)]
    spread = (
        max((o.needed for o in able if o.needed is not None), default=0.0)
        or max((o.worse for group in groups for o in group.rows), default=0.0)
        or 1.0
    )
    most = max(2 * margin, min(1.1 * spread, _FARTHEST * margin if margin else math.inf))
    cards = tuple((f"{g.name} ({formatting.size(g.memory_bytes)})", g.memory_bytes) for g in gpus().values())
    unit, factor = formatting.head_unit(m.unit, signed=True), axis_factor(m)
    return Panel(
        "choice",
        "Choice by memory and tolerated loss",
        text.caption(choices, groups),
        m.label,
        unit,
        factor,
        margin,
        most,
        _sizes(able),
        cards,
        tuple(groups),
    )


def _group(view: View, r: Recommended, m: Metric) -> ChoiceGroup:
    """The rows in the order of advice.selection.select; those that it may choose, and of the others the best, stay."""
    families: dict[int, list[Option]] = {}
    for o in r.options:
        families.setdefault(o.family, []).append(o)
    rows = {
        o.condition: _row(view, r, o, m, families[o.family] if o.family >= 0 else [o])
        for o in sorted(tuned(r.options), key=lambda o: (o.trainable_parameters, o.peak_bytes or 0, o.condition))
    }
    able = {id(option) for option in choosable(tuple(rows.values()))}
    by_merit = sorted(rows, key=lambda c: (id(rows[c]) not in able, rows[c].worse))
    shown = set(by_merit[: max(MOST_ROWS, len(able))])
    return ChoiceGroup(
        r.name, r.best.label, tuple(row for c, row in rows.items() if c in shown), len(rows) - len(shown)
    )


def choosable(rows: Sequence[PanelOption]) -> tuple[PanelOption, ...]:
    """The rows that some memory and some tolerated loss would choose: none before takes no more memory and is good
    enough as soon."""
    options: list[PanelOption] = []
    for c in rows:
        peak = math.inf if c.peak is None else c.peak
        if c.needed is not None and not any(
            (math.inf if p.peak is None else p.peak) <= peak and (p.needed or 0.0) <= c.needed for p in options
        ):
            options.append(c)
    return tuple(options)


def _row(view: View, r: Recommended, o: Option, m: Metric, family: Sequence[Option]) -> PanelOption:
    beside = formatting.difference(o.worse, m.unit) + (
        f" [{formatting.number(o.bound, m.unit)}]" if o.bound is not None and o is not r.best else ""
    )
    d = None if o is r.best else view.analysis.verdicts.of(view.analysis.metric, o.condition, r.best.condition)
    return PanelOption(
        o.label,
        view.styles[o.condition].colour,
        o.peak_bytes,
        o.worse,
        o.bound,
        needed(o, family),
        formatting.count(o.trainable_parameters),
        formatting.DASH if o.peak_bytes is None else formatting.size(o.peak_bytes),
        formatting.number(o.mean, m.unit),
        beside,
        text.bound_words(o, d.pairs, m) if d else "",
    )


def needed(o: Option, family: Sequence[Option]) -> float | None:
    """The least tolerated loss at which an option is good enough: a bound of its family (the option alone where it has
    none), found by asking for each."""
    bounds = sorted({p.bound for p in family if p.bound is not None and p.repeated})
    at = bisect_left(bounds, True, key=lambda b: enough(o, family, b))
    return bounds[at] if at < len(bounds) else None


def _sizes(able: Sequence[PanelOption]) -> tuple[tuple[str, int], ...]:
    """What the choosable options take, rounded up to three digits so that each fits into its size."""
    sizes = sorted({_up(c.peak) for c in able if c.peak})
    shown = (
        sizes if len(sizes) <= _SIZES else [sizes[round(i * (len(sizes) - 1) / (_SIZES - 1))] for i in range(_SIZES)]
    )
    return tuple((formatting.size(b), b) for b in shown)


def _up(value: int) -> int:
    one = int(10 ** max(0, len(str(value)) - 3))
    return -(-value // one) * one


def _names(by_group: Sequence[Sequence[Replicates]]) -> tuple[str, ...]:
    """By what tells the groups apart: the model, the task, its options; by a number where that is not enough. Empty for
    a single one."""
    if len(by_group) == 1:
        return ("",)
    flat = [
        flattened({"model": short_model(str(g[0].declared["model"]["name"])), "task": g[0].declared["task"]})
        for g in by_group
    ]
    differing = [
        f for f in dict.fromkeys(f for each in flat for f in each) if len({str(each.get(f)) for each in flat}) > 1
    ]
    options_differ = any(f.startswith("task.") for f in differing)
    names = []
    for each in flat:
        head = [str(each[f]) for f in ("model", "task.name") if f in differing or (f == "task.name" and options_differ)]
        names.append(
            ", ".join(
                head
                + [
                    f"{f.removeprefix('task.')}={_listed(each[f])}"
                    for f in differing
                    if f.startswith("task.") and f != "task.name" and each.get(f) is not None
                ]
            )
        )
    return tuple(
        name if names.count(name) == 1 and name else f"{name or 'group'} ({i + 1})" for i, name in enumerate(names)
    )


def _listed(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(options: Sequence[Option]) -> tuple[Option, ...]:
    """Labels without what all of a group have in common: its name says it."""
    pieces = [o.label.split(", ") for o in options]
    common = set.intersection(*(set(p[1:]) for p in pieces)) if pieces else set()
    return tuple(
        replace(o, label=", ".join(part for i, part in enumerate(p) if i == 0 or part not in common))
        for o, p in zip(options, pieces, strict=True)
    )
