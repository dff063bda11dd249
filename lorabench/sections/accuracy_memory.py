"""quality against the peak of training memory, and which conditions are worth theirs"""

from __future__ import annotations

from collections.abc import Collection

from lorabench import formatting
from lorabench.analysis.pareto import ParetoPoint, pareto
from lorabench.record.metrics import Metric, metric
from lorabench.report.blocks import Block, Figure, Points, Section, Text
from lorabench.report.drawing import Axis, Drawing, Line
from lorabench.report.figures import draw
from lorabench.report.style import GREY, Style
from lorabench.report.view import View

ORDER = 40
TITLE = "Quality and memory"
_AT_MOST = 12  # names in a sentence


def section(view: View) -> Section | None:
    """For each task a figure and what stands on the front; None where no condition has both values."""
    tasks = view.analysis.by_task()
    blocks = [
        b
        for i, (name, members) in enumerate(tasks.items())
        for b in _of_task(view, compute(view, members), name if len(tasks) > 1 else "", i)
    ]
    return Section(TITLE, tuple(blocks)) if blocks else None


def _of_task(view: View, points: tuple[ParetoPoint, ...], task: str, i: int) -> list[Block]:
    if not points:
        return []
    m = metric(view.analysis.metric)
    corner = "upper left" if m.better == "higher" else "lower left"
    caption = (
        f"Each point is a condition, its bar the 95 % interval of the mean. Look to the {corner}: better at less"
        " memory. The grey line joins the Pareto front by the means. Pale points are dominated beyond doubt: another"
        " condition takes no more memory and is better by more than does not matter (paired by seed, corrected by"
        " Holm); or some of their cells did not finish."
    )
    words = tuple(sentence(view, p, m) for p in points)
    title = f"{m.label} against train peak{f', {task}' if task else ''}"
    return [
        *([Text(f"{task}:")] if task else []),
        *_told(view, points),
        Figure(f"accuracy-memory{f'-{i}' if i else ''}", draw(drawing(view, points)), title, caption, words),
    ]


def compute(view: View, conditions: Collection[str] | None = None) -> tuple[ParetoPoint, ...]:
    """The standing of every condition with both values, or of some: those of one task, since values of two do not
    compare."""
    return pareto(
        [s for s in view.analysis.summaries if conditions is None or s.condition in conditions],
        view.analysis.metric,
        view.analysis.verdicts,
    )


def drawing(view: View, points: tuple[ParetoPoint, ...]) -> Drawing:
    """The figure: the front as a line, a point for each condition, those dominated beyond doubt pale."""
    m = metric(view.analysis.metric)
    one, name = (1e9, "GB") if max(p.memory for p in points) >= 1e9 else (1e6, "MB")
    factor = 100.0 if m.unit == "share" else 1.0
    lines = []
    front = [p for p in points if p.tier == "front"]
    if len(front) > 1:
        steps = Style(GREY, "solid", "circle")
        lines.append(
            Line(
                "Pareto front",
                steps,
                tuple(p.memory / one for p in front),
                tuple(p.value * factor for p in front),
                mode="lines",
            )
        )
    for p in points:
        half = None if p.ci_half_width is None else p.ci_half_width * factor
        hover = sentence(view, p, m)
        lines.append(
            Line(
                view.analysis.label(p.condition),
                view.styles[p.condition],
                (p.memory / one,),
                (p.value * factor,),
                (half,),
                (hover,),
                faint=p.tier in ("dominated", "broken"),
            )
        )
    return Drawing(Axis(f"train peak ({name})"), Axis(titled(m)), tuple(lines), mode="markers")


def sentence(view: View, p: ParetoPoint, m: Metric) -> str:
    """ "LoRA r=1: held-out loss 3.483 ± 0.117 nats at 58.8 MB; dominated by LoRA r=4 nf4" """
    spread = f" ± {formatting.number(p.ci_half_width, m.unit)}" if p.ci_half_width is not None else ""
    unit = "%" if m.unit == "share" else formatting.head_unit(m.unit)
    by = view.analysis.label(p.by) if p.by else ""
    lost = (
        f"of {formatting.plural(view.analysis.summary(p.condition).outcomes.total, 'cell')}"
        f" {view.analysis.summary(p.condition).outcomes.broken} did not finish, so it has no place on the front"
    )
    tier = {
        "front": "on the front",
        "level": f"behind {by} by the mean, and shown to be within the margin of it",
        "open": f"behind {by} by the mean, not beyond doubt",
        "dominated": f"dominated by {by}",
        "broken": lost,
    }[p.tier]
    return (
        f"{view.analysis.label(p.condition)}: {m.label} {formatting.number(p.value, m.unit)}{spread} {unit}".rstrip()
        + f" at {formatting.size(p.memory)}; {tier}"
    )


def _told(view: View, points: tuple[ParetoPoint, ...]) -> list[Block]:
    def named(tier: str) -> str:
        names = [view.analysis.label(p.condition) for p in points if p.tier == tier]
        return ", ".join(names[:_AT_MOST]) + (f" and {len(names) - _AT_MOST} more" if len(names) > _AT_MOST else "")

    front = f"On the front (no condition has a better mean at no more memory): {named('front')}."
    items = [front if named("front") else "Nothing stands on the front, since no trained condition finished whole."]
    if named("level"):
        items.append(f"Behind the front by the mean, but shown to be within the margin: {named('level')}.")
    if named("open"):
        items.append(f"Behind the front by the mean, but not beyond doubt: {named('open')}.")
    if named("dominated"):
        items.append(f"Dominated beyond doubt: {named('dominated')}.")
    if named("broken"):
        items.append(
            "Without a place, since some of their cells did not finish and the mean of those that did flatters:"
            f" {named('broken')}."
        )
    if not named("dominated") and all(s.outcomes.finished < 2 for s in view.analysis.summaries):
        return [Points(tuple(items)), Text("With one seed nothing is dominated beyond doubt.", "small")]
    return [Points(tuple(items))]


def titled(m: Metric) -> str:
    """A metric's label with its unit, for an axis."""
    unit = formatting.head_unit(m.unit)
    return f"{m.label} ({unit})" if unit else m.label
