"""quality against the peak of training memory, and which conditions are worth theirs"""

from __future__ import annotations

from collections.abc import Collection

from lorabench.analysis.pareto import ParetoPoint, pareto
from lorabench.record.metrics import metric
from lorabench.report import accuracy_memory_text as text
from lorabench.report.blocks import Block, Figure, Points, Section, Text
from lorabench.report.drawing import Axis, Drawing, Line
from lorabench.report.figures import draw
from lorabench.report.metric_text import axis_factor, axis_title
from lorabench.report.spectra import scaled
from lorabench.report.style import GREY, Style
from lorabench.report.view import View

ORDER = 40
TITLE = "Quality and memory"


def section(view: View) -> Section | None:
    """For each task a figure and what stands on the front; None where no condition has both values."""
    tasks = view.analysis.by_task()
    blocks = [
        b
        for i, (name, members) in enumerate(tasks.items())
        for b in _of_task(view, compute(view, set(members)), name if len(tasks) > 1 else "", i)
    ]
    return Section(TITLE, tuple(blocks)) if blocks else None


def _of_task(view: View, points: tuple[ParetoPoint, ...], task: str, i: int) -> list[Block]:
    if not points:
        return []
    m = metric(view.analysis.metric)
    one_seed = all(s.outcomes.finished < 2 for s in view.analysis.summaries)
    words = tuple(text.sentence(view, p, m) for p in points)
    title = f"{m.label} against train peak{f', {task}' if task else ''}"
    return [
        *([Text(f"{task}:")] if task else []),
        Points(text.standings(view, points)),
        *(
            [Text("With one seed nothing is dominated beyond doubt.", "small")]
            if one_seed and all(p.tier != "dominated" for p in points)
            else []
        ),
        Figure(f"accuracy-memory{f'-{i}' if i else ''}", draw(drawing(view, points)), title, text.caption(m), words),
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
    factor = axis_factor(m)
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
        lines.append(
            Line(
                view.analysis.label(p.condition),
                view.styles[p.condition],
                (p.memory / one,),
                (p.value * factor,),
                (scaled(p.ci_half_width, factor),),
                (text.sentence(view, p, m),),
                faint=p.tier in ("dominated", "broken"),
            )
        )
    return Drawing(Axis(f"train peak ({name})"), Axis(axis_title(m)), tuple(lines), mode="markers")
