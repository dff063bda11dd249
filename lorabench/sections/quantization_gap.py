"""what quantisation costs: each quantised condition against its unquantised counterpart"""

from __future__ import annotations

from collections.abc import Sequence

from lorabench import formatting
from lorabench.analysis.families import common_name
from lorabench.analysis.quantization_gap import Gap, TypeGap, quantization_gaps
from lorabench.config.paths import short_model
from lorabench.record.metrics import Metric, metric
from lorabench.report.blocks import Block, Figure, Grid, Points, Section, Text
from lorabench.report.drawing import Axis, Drawing, Line
from lorabench.report.figures import draw
from lorabench.report.quantization_gap_text import (
    gap_words,
    sentences,
)
from lorabench.report.style import Style, palette
from lorabench.report.tables import accuracies
from lorabench.report.view import View

ORDER = 55
TITLE = "Quantisation gap"
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x")
_BEYOND = 0.7  # of what gaps and margin span: as far as error bars may stretch the y axis


def section(view: View) -> Section | None:
    """For the study's metric and the first accuracy a sentence for each type and a figure; then a table of all gaps."""
    found = {
        name: gaps
        for name in dict.fromkeys((view.analysis.metric, *accuracies(view)[:1]))
        if (gaps := compute(view, name))
    }
    blocks: list[Block] = []
    for i, (name, gaps) in enumerate(found.items()):
        m = metric(name)
        blocks.append(Points(tuple(s for t in gaps for s in sentences(view, t, name, stored=i == 0))))
        info = drawing(view, gaps, name)
        comparison_text = tuple(_line(view, g, m) for t in gaps for g in (*t.gaps, *t.bases))
        blocks.append(
            Figure(
                f"gap-{i}",
                draw(info),
                f"gap in {m.label} against {info.x.title}",
                _caption(gaps, info, m),
                comparison_text,
            )
        )
    if not found:
        return None
    return Section(TITLE, (*blocks, grid(view, found), Text(_NOTE, "small")))


def headline(view: View) -> tuple[str, ...]:
    """What each type costs in the study's metric, for the first screen."""
    return tuple(s for t in compute(view, view.analysis.metric) for s in sentences(view, t, view.analysis.metric))


_NOTE = (
    "A gap is the quantised condition minus its unquantised counterpart, which has the same setting otherwise, paired"
    " by seed. Pooled over a type: the mean over its pairs at each seed, with t over seeds, corrected by Holm over the"
    " types (a single pair that the study compares anyway: over its comparisons); of accuracies the items' error is"
    " added as if all pairs shared it. Intervals of single gaps are taken alone."
)


def compute(view: View, name: str) -> tuple[TypeGap, ...]:
    """The gaps of each type of quantisation."""
    return quantization_gaps(view.analysis.groups, view.analysis.summaries, view.analysis.verdicts, name)


def drawing(view: View, found: tuple[TypeGap, ...], name: str) -> Drawing:
    """Gaps against rank; by model where fewer than two ranks are there to be told apart."""
    m = metric(name)
    factor = 100.0 if m.unit == "share" else 1.0
    trained = [g for t in found for g in t.gaps]
    ranks = sorted({g.rank for g in trained if g.rank is not None})
    shown = (
        [g for g in trained if g.rank is not None] if len(ranks) > 1 else trained or [g for t in found for g in t.bases]
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
        told = (
            common_name([view.analysis.summary(g.unquantized_counterpart).label.family for g in gaps])
            if len(ranks) > 1
            else rest
        )
        ends = [g.difference.interval or (g.difference.value, g.difference.value) for g in gaps]
        lines.append(
            Line(
                f"{kind}, {told}" if several else kind,
                Style(colours[i], "solid", _SYMBOLS[i % len(_SYMBOLS)]),
                tuple(float(ranks.index(g.rank or 0) if len(ranks) > 1 else models.index(g.model)) for g in gaps),
                tuple(factor * g.difference.value for g in gaps),
                tuple(factor * (e[1] - g.difference.value) for g, e in zip(gaps, ends, strict=True)),
                tuple(_line(view, g, m) for g in gaps),
                tuple(factor * (g.difference.value - e[0]) for g, e in zip(gaps, ends, strict=True)),
            )
        )
    unit = formatting.head_unit(m.unit, signed=True)
    limit = next((factor * t.pooled.margin for t in found if t.pooled and t.pooled.margin), None)
    names = tuple(map(str, ranks)) if len(ranks) > 1 else _names(models)
    x = Axis("rank" if len(ranks) > 1 else "model", names=names, span=(-0.5, len(names) - 0.5))
    y = Axis(f"gap ({unit})" if unit else "gap", span=_span(lines, limit))
    return Drawing(
        x,
        y,
        tuple(lines),
        mode="lines+markers" if len(ranks) > 1 else "markers",
        band=(-limit, limit) if limit else (0.0, 0.0),
        beside=len(lines) > 1,
    )


def _names(models: Sequence[str]) -> tuple[str, ...]:
    short = tuple(map(short_model, models))
    return short if len(set(short)) == len(models) else tuple(models)


def _span(lines: Sequence[Line], limit: float | None) -> tuple[float, float] | None:
    core = [y for line in lines for y in line.y] + [0.0, limit or 0.0, -(limit or 0.0)]
    low, high = min(core), max(core)
    ends = [
        (y - b, y + a)
        for line in lines
        for y, a, b in zip(line.y, line.error, line.below, strict=True)
        if a is not None and b is not None
    ]
    room = _BEYOND * (high - low)
    low, high = max(min([low, *(e[0] for e in ends)]), low - room), min(max([high, *(e[1] for e in ends)]), high + room)
    pad = 0.06 * (high - low)
    return (low - pad, high + pad) if pad else None


def _caption(found: tuple[TypeGap, ...], info: Drawing, m: Metric) -> str:
    worse = "above" if m.better == "lower" else "below"
    said = [
        "Each point is a quantised condition minus its unquantised counterpart, with the 95 % interval of the"
        f" difference; {worse} zero is worse."
    ]
    if info.band and info.band[1]:
        said.append(
            f"The grey band is the margin of the study, ±{info.band[1]:g}: a gap is called equivalent where two"
            " one-sided tests, corrected by Holm, put it inside."
        )
    said.append(
        "Look whether the intervals leave zero"
        + (", and whether the gap changes with rank." if info.x.title == "rank" else ".")
    )
    span = info.y.span
    if span and any(
        not (span[0] <= y - (b or 0) and y + (a or 0) <= span[1])
        for line in info.lines
        for y, a, b in zip(line.y, line.error, line.below, strict=True)
    ):
        said.append("Bars that reach the edge go on beyond it.")
    bases = {g.difference.basis for t in found for g in t.gaps}
    if "items" in bases:
        which = (
            "The intervals are over the items of one seed"
            if bases == {"items"}
            else "Intervals of pairs with one seed are over its items alone"
        )
        said.append(f"{which}: how far a repetition would land is unknown.")
    if any(t.gaps and not any(g.difference.interval for g in t.gaps) for t in found):
        said.append("Points without a bar have no interval: one seed does not tell how far a repetition would land.")
    return " ".join(said)


def _line(view: View, g: Gap, m: Metric) -> str:
    unit = formatting.head_unit(m.unit, signed=True)
    parts = [
        f"{formatting.plural(n, 'cell')}{of} did not finish"
        for n, of in ((g.broken, ""), (g.counterpart_broken, " of the counterpart"))
        if n
    ]
    lost = f" ({', '.join(parts)})" if parts else ""
    return (
        f"{view.analysis.label(g.condition)} − {view.analysis.label(g.unquantized_counterpart)}: {gap_words(g, m)}"
        f" {unit}".rstrip()
        + lost
    )


def grid(view: View, found: dict[str, tuple[TypeGap, ...]]) -> Grid:
    """A row for each pair of conditions."""
    by = {name: {g.condition: g for t in gaps for g in (*t.gaps, *t.bases)} for name, gaps in found.items()}
    units = {name: formatting.head_unit(metric(name).unit, signed=True) for name in found}
    heads = [
        "condition",
        *(f"Δ {metric(n).label}" + (f" ({u})" if u else "") for n, u in units.items()),
        "seeds",
        "weights",
    ]
    rows = []
    for c in dict.fromkeys(c for gaps in by.values() for c in gaps):
        gaps = [known.get(c) for known in by.values()]
        one = next(g for g in gaps if g is not None)
        values = [formatting.DASH if g is None else gap_words(g, metric(n)) for n, g in zip(by, gaps, strict=True)]
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
