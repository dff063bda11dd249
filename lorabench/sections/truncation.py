"""what is left of each condition when its changes are cut to a lower rank, beside what was trained at that rank"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lorabench.analysis.aggregate import Statistic
from lorabench.analysis.condition_spectra import rank_of, tops
from lorabench.analysis.truncation import TruncationCurve, compute_truncation
from lorabench.record.metrics import metric
from lorabench.record.truncations import Allocation
from lorabench.report import truncation_text as text
from lorabench.report.blocks import Block, Figure, Section
from lorabench.report.drawing import Axis, Drawing, Level, Line, bounded, cut_off
from lorabench.report.figures import draw
from lorabench.report.metric_text import axis_factor, axis_title
from lorabench.report.spectra import by_rank, over_seeds, scaled
from lorabench.report.style import Style
from lorabench.report.tables import accuracies
from lorabench.report.view import View

ORDER = 74
TITLE = "Truncation"
MOST_LINES = 8  # of cut changes; with more, a family shows its highest rank alone
_DASHES: dict[Allocation, str] = {"uniform": "dash", "energy": "dot"}
_OPEN: dict[Allocation, str] = {"uniform": "circle-open", "energy": "diamond-open"}


def section(view: View) -> Section | None:
    """A figure for the study's metric, for the held-out loss and for the first accuracy; None where no cell was
    evaluated at lower ranks."""
    blocks: list[Block] = []
    for name in dict.fromkeys((view.analysis.metric, "eval_loss", *accuracies(view)[:1])):
        cuts = compute(view, name)
        if cuts:
            info = bounded(drawing(view, name, cuts))
            caption = text.caption(name, cuts, shown(view, cuts), cut_off(info), beyond(view, name, info))
            words = tuple(text.sentence(c, name) for c in cuts)
            title = f"{metric(name).label} against truncated rank"
            blocks.append(Figure(f"truncation-{len(blocks)}", draw(info), title, caption, words))
    return Section(TITLE, tuple(blocks)) if blocks else None


def compute(view: View, name: str) -> tuple[TruncationCurve, ...]:
    """The curves of every condition that has one in this metric."""
    return compute_truncation(view.analysis, name)


def drawing(view: View, name: str, cuts: tuple[TruncationCurve, ...]) -> Drawing:
    """The cut curves over those trained at each rank, with a level for each condition without a rank that lies near
    them."""
    m = metric(name)
    factor = axis_factor(m)
    direct, levels = by_rank(view, lambda s: s.statistics.get(name), factor)
    curves = shown(view, cuts)
    families = {c.family for c in curves}
    lines = [replace(line, label=f"{line.label}, trained at the rank") for line in direct if line.label in families]
    for c in curves:
        ends = [(p.rank, p.value) for p in c.points]
        if c.whole is not None and c.whole[0] not in {rank for rank, _ in ends}:
            ends = sorted([*ends, c.whole], key=lambda end: end[0])
        style = Style(view.styles[c.condition].colour, _DASHES[c.allocation], _OPEN[c.allocation])
        y, error = (
            tuple(factor * v.mean for _, v in ends),
            tuple(scaled(over_seeds(v), factor) for _, v in ends),
        )
        lines.append(
            Line(
                f"{c.label}, {text.ALLOCATIONS[c.allocation]}", style, tuple(float(rank) for rank, _ in ends), y, error
            )
        )
    ranks = sorted({x for line in lines for x in line.x})
    y_axis = Axis(axis_title(m))
    near = tuple(level for level in levels if _near(level, lines))
    return Drawing(Axis("rank", log=True, ticks=tuple(ranks)), y_axis, tuple(lines), near, "lines+markers")


def _near(level: Level, lines: Sequence[Line]) -> bool:
    """Whether it lies no further from the curves than these span; an untrained base may press them flat."""
    low, high = min(y for line in lines for y in line.y), max(y for line in lines for y in line.y)
    return low == high or 2 * low - high <= level.y <= 2 * high - low


def shown(view: View, cuts: tuple[TruncationCurve, ...]) -> tuple[TruncationCurve, ...]:
    """All of them while they are few; else the highest rank of each family, and where that is not enough by one
    allocation alone."""
    if len(cuts) <= MOST_LINES:
        return cuts
    highest_ranks = tops(view.analysis, dict.fromkeys(c.condition for c in cuts))
    curves = tuple(c for c in cuts if c.condition in highest_ranks)
    uniform = tuple(c for c in curves if c.allocation == "uniform")
    return uniform if len(curves) > MOST_LINES and uniform else curves


def beyond(view: View, name: str, info: Drawing) -> dict[str, Statistic]:
    """The conditions without a rank, by label, that lie too far from the curves for a level in the drawing."""
    levels = {level.label for level in info.levels}
    return {
        s.label.text: value
        for s in view.analysis.summaries
        if rank_of(view.analysis, s.condition) is None
        and s.label.text not in levels
        and (value := s.statistics.get(name))
    }
