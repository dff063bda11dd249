"""what quantization costs: each quantized condition against its unquantized counterpart"""

from __future__ import annotations

from collections.abc import Sequence

from lorabench import formatting
from lorabench.analysis.families import common_name
from lorabench.analysis.quantization_gap import Gap, TypeGap, quantization_gaps
from lorabench.config.paths import short_model
from lorabench.record.metrics import metric
from lorabench.report import quantization_gap_text as text
from lorabench.report.blocks import Block, Figure, Grid, Points, Section, Text
from lorabench.report.drawing import Axis, Drawing, Line, bounded
from lorabench.report.figures import draw
from lorabench.report.metric_text import axis_factor, with_unit
from lorabench.report.style import family_style, palette
from lorabench.report.tables import accuracies
from lorabench.report.view import View

ORDER = 55
TITLE = "Quantization gap"


def section(view: View) -> Section | None:
    """For the study's metric and the first accuracy a sentence for each type and a figure; then a table of all gaps."""
    gaps = {
        name: types
        for name in dict.fromkeys((view.analysis.metric, *accuracies(view)[:1]))
        if (types := compute(view, name))
    }
    if not gaps:
        return None
    blocks: list[Block] = []
    for i, (name, types) in enumerate(gaps.items()):
        m = metric(name)
        blocks.append(Points(tuple(s for t in types for s in text.type_sentences(view, t, name, stored=i == 0))))
        info = drawing(view, types, name)
        words = tuple(text.line(view, g, m) for t in types for g in (*t.gaps, *t.bases))
        title = f"gap in {m.label} against {info.x.title}"
        blocks.append(Figure(f"gap-{i}", draw(info), title, text.caption(types, info, m), words))
    return Section(TITLE, (*blocks, grid(view, gaps), Text(text.NOTE, "small")))


def headline(view: View) -> tuple[str, ...]:
    """What each type costs in the study's metric, for the first screen."""
    name = view.analysis.metric
    return tuple(s for t in compute(view, name) for s in text.type_sentences(view, t, name))


def compute(view: View, name: str) -> tuple[TypeGap, ...]:
    """The gaps of each type of quantization."""
    return quantization_gaps(view.analysis.groups, view.analysis.summaries, view.analysis.verdicts, name)


def drawing(view: View, types: tuple[TypeGap, ...], name: str) -> Drawing:
    """Gaps against rank; by model where fewer than two ranks are there to be told apart."""
    m = metric(name)
    factor = axis_factor(m)
    trained = [g for t in types for g in t.gaps]
    ranks = sorted({g.rank for g in trained if g.rank is not None})
    shown = (
        [g for g in trained if g.rank is not None] if len(ranks) > 1 else trained or [g for t in types for g in t.bases]
    )
    models = list(dict.fromkeys(g.model for g in shown))
    series: dict[tuple[str, str], list[Gap]] = {}
    for g in shown:
        family = view.analysis.summary(g.unquantized_counterpart).label.family
        rest = g.family if len(ranks) > 1 else ", ".join(p for p in family.split(", ") if p != short_model(g.model))
        series.setdefault((g.kind, rest), []).append(g)
    several = len({rest for _, rest in series}) > 1
    colours = (
        [view.styles[gaps[0].condition].colour for gaps in series.values()]
        if trained
        else [s.colour for s in palette(len(series))]
    )
    lines = []
    for i, ((kind, rest), gaps) in enumerate(series.items()):
        gaps.sort(key=lambda g: g.rank or 0)
        others = (
            common_name([view.analysis.summary(g.unquantized_counterpart).label.family for g in gaps])
            if len(ranks) > 1
            else rest
        )
        ends = [g.difference.interval or (g.difference.value, g.difference.value) for g in gaps]
        lines.append(
            Line(
                f"{kind}, {others}" if several else kind,
                family_style(colours[i], i),
                tuple(float(ranks.index(g.rank or 0) if len(ranks) > 1 else models.index(g.model)) for g in gaps),
                tuple(factor * g.difference.value for g in gaps),
                tuple(factor * (e[1] - g.difference.value) for g, e in zip(gaps, ends, strict=True)),
                tuple(text.line(view, g, m) for g in gaps),
                tuple(factor * (g.difference.value - e[0]) for g, e in zip(gaps, ends, strict=True)),
            )
        )
    unit = formatting.head_unit(m.unit, signed=True)
    limit = next((factor * t.pooled.margin for t in types if t.pooled and t.pooled.margin), None)
    names = tuple(map(str, ranks)) if len(ranks) > 1 else _names(models)
    x = Axis("rank" if len(ranks) > 1 else "model", names=names, span=(-0.5, len(names) - 0.5))
    info = Drawing(
        x,
        Axis(with_unit("gap", unit)),
        tuple(lines),
        mode="lines+markers" if len(ranks) > 1 else "markers",
        band=(-limit, limit) if limit else (0.0, 0.0),
        beside=len(lines) > 1,
    )
    return bounded(info)


def _names(models: Sequence[str]) -> tuple[str, ...]:
    short = tuple(map(short_model, models))
    return short if len(set(short)) == len(models) else tuple(models)


def grid(view: View, types: dict[str, tuple[TypeGap, ...]]) -> Grid:
    """A row for each pair of conditions."""
    by = {name: {g.condition: g for t in gaps for g in (*t.gaps, *t.bases)} for name, gaps in types.items()}
    units = {name: formatting.head_unit(metric(name).unit, signed=True) for name in types}
    heads = [
        "condition",
        *(with_unit(f"Δ {metric(n).label}", u) for n, u in units.items()),
        "seeds",
        "weights",
    ]
    rows = []
    for c in dict.fromkeys(c for gaps in by.values() for c in gaps):
        gaps = [of_metric.get(c) for of_metric in by.values()]
        one = next(g for g in gaps if g is not None)
        values = [formatting.DASH if g is None else text.gap_words(g, metric(n)) for n, g in zip(by, gaps, strict=True)]
        seeds = (
            (str(one.difference.pairs) + (f" ({one.broken} broke)" if one.broken else ""))
            if view.analysis.summary(c).seeds
            else "untrained"
        )
        rows.append(
            (
                view.analysis.label(c),
                *values,
                seeds,
                formatting.DASH if one.share is None else formatting.percent(100 * one.share),
            )
        )
    return Grid(tuple(heads), tuple(rows))
