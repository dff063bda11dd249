"""what rank buys: each metric against rank, the smallest rank that is enough, and the floor a higher one nears"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np

from lorabench import formatting
from lorabench.analysis.rank_curve import RankCurve, Step, rank_curves
from lorabench.analysis.saturation import Fit
from lorabench.config.paths import short_model
from lorabench.record.metrics import Metric, metric
from lorabench.report.blocks import Block, Figure, Points, Section
from lorabench.report.comparison_text import amount
from lorabench.report.drawing import Axis, Drawing, Level, Line, Ring, Trend, bounded, cut_off, with_beyond
from lorabench.report.figures import draw
from lorabench.report.spectra import scaled
from lorabench.report.style import Style
from lorabench.report.tables import accuracies
from lorabench.report.view import View

ORDER = 50
TITLE = "Rank"
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x")
_DOUBTFUL = 0.05  # p of lack of fit
_SMOOTH = 48  # points of a fitted curve
_FEW = 8  # sentences of a second metric that are shown unfolded


def section(view: View) -> Section | None:
    """For the study's metric and the first accuracy: what can be said of each family, and a figure for each model."""
    blocks: list[Block] = []
    names = list(dict.fromkeys((view.metric, *accuracies(view)[:1])))
    for name in names:
        found = curves(view, name)
        if found:
            said = sentences(found)
            blocks.append(
                Points(said)
                if name == view.metric or len(said) <= _FEW
                else Points(said, f"Every curve in {metric(name).label}")
            )
            blocks += _figures(view, name, found, sum(isinstance(b, Figure) for b in blocks))
    return Section(TITLE, tuple(blocks)) if blocks else None


def headline(view: View) -> tuple[str, ...]:
    """The smallest sufficient rank of each family in the study's metric, for the first screen."""
    return tuple(
        f"{c.family}: {told[:1].lower()}{told[1:]}" for c in curves(view, view.metric) if (told := knee_sentence(c))
    )


def curves(view: View, name: str) -> tuple[RankCurve, ...]:
    """One for each family that has two ranks or more."""
    return rank_curves(view.groups, view.summaries, view.verdicts, name)


def compute(view: View, name: str, model: str | None = None) -> Drawing | None:
    """A line for each family, of one model if that is given; levels for what has no rank."""
    found = tuple(c for c in curves(view, name) if model in (None, _model(view, c.points[0].condition)))
    return drawing(view, name, found, model) if found else None


def drawing(view: View, name: str, found: tuple[RankCurve, ...], model: str | None = None) -> Drawing:
    """The same of given curves."""
    m = metric(name)
    factor = 100.0 if m.unit == "share" else 1.0
    lines, trends, rings = [], [], []
    for i, c in enumerate(found):
        style = Style(
            view.styles[c.points[0].condition].colour, "solid", _SYMBOLS[i % len(_SYMBOLS)]
        )  # dashes are for what has no rank
        x, y = tuple(float(p.rank) for p in c.points), tuple(factor * p.mean for p in c.points)
        hover = tuple(
            f"{c.family}, rank {p.rank}: {_number(p.mean, p.ci_half_width, m)}"
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
    drawn, compared = {p.condition for c in found for p in c.points}, set(view.references.values())
    levels = [
        Level(_short(s.label.text, model), view.styles[s.condition], factor * v.mean, scaled(v.ci_half_width, factor))
        for g, s in zip(view.groups, view.summaries, strict=True)
        if (g.setting.method.rank is None or (s.condition in compared and s.condition not in drawn))
        and (v := s.statistics.get(name))
        and model in (None, g.setting.model.name)
    ]
    ticks = tuple(sorted({x for line in lines for x in line.x}))
    return Drawing(
        Axis("rank", log=True, ticks=ticks),
        Axis(_titled(m)),
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


def sentences(found: tuple[RankCurve, ...]) -> tuple[str, ...]:
    """What can be said of each family, and once for all that share it what limits that."""
    said = [
        f"{c.family}: {told[:1].lower()}{told[1:]}"
        for c in found
        if (told := " ".join(part for part in (knee_sentence(c), fit_sentence(c)) if part))
    ]
    silent: dict[str, list[str]] = {}
    for c in found:
        if c.knee.rank is not None and c.at_the_edge:
            highest = "tried" if c.best == c.points[-1].rank else "of those whose cells all finished"
            silent.setdefault(
                f"rank {c.best}, the best, is the highest {highest}, so a higher one may do better", []
            ).append(c.family)
        if c.knee.why:
            silent.setdefault(f"no smallest sufficient rank is named, since {c.knee.why}", []).append(c.family)
        if c.unfitted:
            silent.setdefault(f"no curve is fitted, since {c.unfitted}", []).append(c.family)
    return (*said, *(f"{_listed(names, len(found))}: {why}." for why, names in silent.items()))


def knee_sentence(c: RankCurve) -> str:
    """ "Rank 8 is the smallest that is non-inferior to rank 16, the best, within 0.02 nats (one-sided 95 % bound 0.013,
    3 seeds).\""""
    knee, m = c.knee, metric(c.metric)
    if knee.rank is None or knee.margin is None:
        return ""
    margin = amount(knee.margin, m)
    if not knee.passed and knee.failed is None:
        return (
            f"Rank {c.best}, the lowest"
            f" tried{'' if all(p.whole for p in c.points) else ' among those whose cells all finished'}, has the best"
            " mean."
        )
    if not knee.passed and knee.failed is not None:
        return (
            f"Rank {c.best} has the best mean; rank {knee.failed.rank} is not shown to be within {margin} of it"
            f" ({_why(knee.failed, m)})."
        )
    least = knee.passed[-1]
    ended = f"; rank {knee.failed.rank} is not shown to be ({_why(knee.failed, m, 'bound')})" if knee.failed else ""
    return (
        f"Rank {least.rank} is the smallest that is non-inferior to rank {c.best}, the best, within {margin}"
        f" ({_why(least, m)}){ended}."
    )


def _why(step: Step, m: Metric, bound: str = "one-sided 95 % bound") -> str:
    return (
        step.why
        if step.bound is None
        else f"{bound} {formatting.number(step.bound, m.unit)}, {formatting.plural(step.seeds, 'seed')}"
    )


def fit_sentence(c: RankCurve) -> str:
    """ "The curve 1.210 + 0.340 r^−0.520 fits (lack of fit p = 0.4): extrapolated, its floor is 1.210 nats [1.190,
    1.230] over 3 seeds.\""""
    if c.fit is None:
        return ""
    m, fit = metric(c.metric), c.fit
    end, unit = (
        "floor" if m.better == "lower" else "ceiling",
        "%" if m.unit == "share" else formatting.head_unit(m.unit),
    )
    interval = (
        f" [{formatting.number(fit.c.low, m.unit)}, {formatting.number(fit.c.high, m.unit)}]"
        if fit.c.low is not None and fit.c.high is not None
        else ""
    )
    value = f": extrapolated, its {end} is {formatting.number(fit.c.value, m.unit)} {unit}".rstrip() + interval
    told = fit.levelled
    if (
        told
        and fit.c.low is not None
        and fit.c.high is not None
        and fit.c.high - fit.c.low > 2 * (max(p.mean for p in c.points) - min(p.mean for p in c.points))
    ):
        told, value = False, f", but the interval of its {end},{interval}, is wider than all that rank changes"
    if not fit.levelled:
        value = f", but has not levelled off by rank {c.points[-1].rank}, so no {end} is named"
    if fit.lack_of_fit is None:
        return (
            f"The curve {formula(fit, m)} runs through the means{value}; with one seed it is unknown how well it fits."
        )
    over = (
        ""
        if not told
        else (
            " over the items of one seed, another may land elsewhere"
            if fit.basis == "items"
            else f" over {formatting.plural(fit.seeds, 'seed')}"
        )
    )
    fits = "fits" if fit.lack_of_fit >= _DOUBTFUL else "is not rejected, but fits doubtfully"
    return f"The curve {formula(fit, m)} {fits} (lack of fit p = {fit.lack_of_fit:.2g}){value}{over}."


def formula(fit: Fit, m: Metric) -> str:
    """ "1.210 + 0.340 r^−0.520" """
    sign = "+" if fit.a.value >= 0 else "−"
    return (
        f"{formatting.number(fit.c.value, m.unit)} {sign} {formatting.number(abs(fit.a.value), m.unit)}"
        f" r^−{formatting.decimals(fit.b.value)}".replace(" ", "\N{NO-BREAK SPACE}")
    )


def _figures(view: View, name: str, found: tuple[RankCurve, ...], first: int) -> list[Block]:
    """One for each model where there are several: their metrics lie far apart."""
    m = metric(name)
    models = list(dict.fromkeys(_model(view, c.points[0].condition) for c in found))
    made: list[Block] = []
    for model in models:
        only = model if len(models) > 1 else None
        shown = legible(
            drawing(view, name, tuple(c for c in found if only in (None, _model(view, c.points[0].condition))), only)
        )
        title = f"{m.label} against rank" + (f", {short_model(model)}" if only else "")
        made.append(
            Figure(
                f"rank-{first + len(made)}", draw(shown), title, _caption(name, found, shown), _words(view, name, only)
            )
        )
    return made


def _caption(name: str, found: tuple[RankCurve, ...], info: Drawing) -> str:
    m = metric(name)
    said = [
        f"Mean {m.label} at each rank with its 95 % interval ({m.better} is better). Look where a curve flattens: more"
        " rank buys nothing there."
    ]
    if info.rings:
        said.append("A ring marks the smallest rank that is non-inferior to the best of its curve.")
    if info.trends:
        said.append("Thin lines are the fitted curves c + a r^−b.")
    if any(p.n > 1 for c in found for p in c.points):
        said.append(
            "A seed shifts all ranks alike, which the bars show and the paired comparisons leave out: bars may overlap"
            " where a difference is clear."
        )
    if cut_off(info):
        said.append(cut_off(info))
    if any(not p.whole for c in found for p in c.points):
        lost = dict.fromkeys(f"{c.family} at rank {p.rank}" for c in found for p in c.points if not p.whole)
        said.append(
            "Some cells did not finish, so that the mean of those that did flatters, and it is neither called best nor"
            f" fitted: {', '.join(lost)}."
        )
    if info.levels:
        said.append("Level lines are conditions without a rank, or the reference where it is on no curve.")
    if info.beyond:
        named = ", ".join(f"{v.label} at {_drawn(v.y, m)}" for v in info.beyond)
        said.append(
            f"Beyond the axis, which would press the curves flat, and named at its edge beside an arrow: {named}. A"
            " double click on the plot shows all."
        )
    return " ".join(said)


def _words(view: View, name: str, model: str | None) -> tuple[str, ...]:
    m = metric(name)
    return tuple(
        f"{s.label.text}: {_number(f.mean, f.ci_half_width, m)}"
        for s in view.summaries
        if (f := s.statistics.get(name)) and model in (None, _model(view, s.condition))
    )


def _number(mean: float, half: float | None, m: Metric) -> str:
    spread = f" ± {formatting.number(half, m.unit)}" if half is not None else ""
    return f"{formatting.number(mean, m.unit)}{spread} {formatting.head_unit(m.unit)}".rstrip()


def _drawn(y: float, m: Metric) -> str:
    """A value of the y axis, where shares are percent already."""
    return f"{y:.1f} %" if m.unit == "share" else formatting.number(y, m.unit)


def _short(label: str, model: str | None) -> str:
    """A label without the model that its whole figure is about."""
    return ", ".join(piece for piece in label.split(", ") if model is None or piece != short_model(model))


def _model(view: View, condition: str) -> str:
    return str(view.declared(condition)["model"]["name"])


def _titled(m: Metric) -> str:
    unit = formatting.head_unit(m.unit)
    return f"{m.label} ({unit})" if unit else m.label


def _listed(names: list[str], of: int) -> str:
    """Names may hold commas."""
    return "All curves" if len(names) == of > 2 else "; ".join(names)
