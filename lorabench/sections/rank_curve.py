"""what rank buys: each metric against rank, the smallest rank that is enough, and the floor a higher one nears"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np

from lorabench import formatting
from lorabench.analysis.rank_curve import RankCurve, rank_curves
from lorabench.config.paths import short_model
from lorabench.record.metrics import metric
from lorabench.report import rank_curve_text as text
from lorabench.report.blocks import Block, Figure, Points, Section
from lorabench.report.drawing import Axis, Drawing, Level, Line, Ring, Trend, bounded, with_beyond
from lorabench.report.figures import draw
from lorabench.report.metric_text import axis_factor, axis_title, value_words
from lorabench.report.spectra import scaled
from lorabench.report.style import family_style
from lorabench.report.tables import accuracies
from lorabench.report.view import View

ORDER = 50
TITLE = "Rank"
_SMOOTH = 48  # points of a fitted curve
_FEW = 8  # sentences of a second metric that are shown unfolded


def section(view: View) -> Section | None:
    """For the study's metric and the first accuracy: what can be said of each family, and a figure for each model."""
    blocks: list[Block] = []
    names = list(dict.fromkeys((view.analysis.metric, *accuracies(view)[:1])))
    for name in names:
        of_metric = curves(view, name)
        if of_metric:
            sentences = text.sentences(of_metric)
            folded = name != view.analysis.metric and len(sentences) > _FEW
            blocks.append(Points(sentences, f"Every curve in {metric(name).label}" if folded else ""))
            blocks += _figures(view, name, of_metric, sum(isinstance(b, Figure) for b in blocks))
    return Section(TITLE, tuple(blocks)) if blocks else None


def headline(view: View) -> tuple[str, ...]:
    """The smallest sufficient rank of each family in the study's metric, for the first screen."""
    return tuple(
        f"{c.family}: {words[:1].lower()}{words[1:]}"
        for c in curves(view, view.analysis.metric)
        if (words := text.knee_sentence(c))
    )


def curves(view: View, name: str) -> tuple[RankCurve, ...]:
    """One for each family that has two ranks or more."""
    return rank_curves(view.analysis.groups, view.analysis.summaries, view.analysis.verdicts, name)


def compute(view: View, name: str, model: str | None = None) -> Drawing | None:
    """A line for each family, of one model if that is given; levels for what has no rank."""
    of_model = tuple(c for c in curves(view, name) if model in (None, _model(view, c.points[0].condition)))
    return drawing(view, name, of_model, model) if of_model else None


def drawing(view: View, name: str, of_metric: tuple[RankCurve, ...], model: str | None = None) -> Drawing:
    """The same of given curves."""
    m = metric(name)
    factor = axis_factor(m)
    lines, trends, rings = [], [], []
    for i, c in enumerate(of_metric):
        style = family_style(view.styles[c.points[0].condition].colour, i)
        x, y = tuple(float(p.rank) for p in c.points), tuple(factor * p.mean for p in c.points)
        hover = tuple(
            f"{c.family}, rank {p.rank}: {value_words(p.mean, p.ci_half_width, m)}"
            f" ({formatting.plural(p.n, 'seed')}{'' if p.whole else '; some cells did not finish'})"
            for p in c.points
        )
        lines.append(
            Line(
                _short(c.family, model),
                style,
                x,
                y,
                tuple(scaled(p.ci_half_width, factor) for p in c.points),
                hover,
                mode="markers" if c.fit else None,
            )
        )
        if c.fit:
            along = np.geomspace(x[0], x[-1], _SMOOTH)
            trends.append(Trend(style.colour, tuple(map(float, along)), tuple(factor * c.fit.at(r) for r in along)))
        rings += [
            Ring(style.colour, float(p.rank), factor * p.mean)
            for p in c.points
            if p.rank == c.knee.rank and (c.knee.passed or not c.at_the_edge)
        ]
    on_curves, compared = {p.condition for c in of_metric for p in c.points}, set(view.analysis.references.values())
    levels = [
        Level(_short(s.label.text, model), view.styles[s.condition], factor * v.mean, scaled(v.ci_half_width, factor))
        for g, s in zip(view.analysis.groups, view.analysis.summaries, strict=True)
        if (g.setting.method.rank is None or (s.condition in compared and s.condition not in on_curves))
        and (v := s.statistics.get(name))
        and model in (None, g.setting.model.name)
    ]
    ticks = tuple(sorted({x for line in lines for x in line.x}))
    return Drawing(
        Axis("rank", log=True, ticks=ticks),
        Axis(axis_title(m)),
        tuple(lines),
        tuple(levels),
        "lines+markers",
        tuple(trends),
        tuple(rings),
        "smallest sufficient rank",
    )


def legible(info: Drawing) -> Drawing:
    """The drawing with an axis that no level and no bar presses the curves flat on: levels beyond it are named at its
    edge."""
    low, high = (f(chain(*(line.y for line in info.lines))) for f in (min, max))
    far = tuple(v for v in info.levels if low < high and not 2 * low - high <= v.y <= 2 * high - low)
    return with_beyond(bounded(replace(info, levels=tuple(v for v in info.levels if v not in far))), far)


def _figures(view: View, name: str, of_metric: tuple[RankCurve, ...], first: int) -> list[Block]:
    """One for each model where there are several: their metrics lie far apart."""
    m = metric(name)
    models = list(dict.fromkeys(_model(view, c.points[0].condition) for c in of_metric))
    figures: list[Block] = []
    for model in models:
        only = model if len(models) > 1 else None
        shown = legible(
            drawing(
                view, name, tuple(c for c in of_metric if only in (None, _model(view, c.points[0].condition))), only
            )
        )
        title = f"{m.label} against rank" + (f", {short_model(model)}" if only else "")
        figures.append(
            Figure(
                f"rank-{first + len(figures)}",
                draw(shown),
                title,
                text.caption(name, of_metric, shown),
                _words(view, name, only),
            )
        )
    return figures


def _words(view: View, name: str, model: str | None) -> tuple[str, ...]:
    m = metric(name)
    return tuple(
        f"{s.label.text}: {value_words(f.mean, f.ci_half_width, m)}"
        for s in view.analysis.summaries
        if (f := s.statistics.get(name)) and model in (None, _model(view, s.condition))
    )


def _short(label: str, model: str | None) -> str:
    """A label without the model that its whole figure is about."""
    return ", ".join(piece for piece in label.split(", ") if model is None or piece != short_model(model))


def _model(view: View, condition: str) -> str:
    return str(view.analysis.declared(condition)["model"]["name"])
