"""Statistics of what was learned as lines and levels of a drawing over rank."""

from __future__ import annotations

from collections.abc import Callable

from lorabench.analysis.aggregate import ConditionSummary, Statistic
from lorabench.report.drawing import Level, Line
from lorabench.report.style import family_style
from lorabench.report.view import View


def by_rank(
    view: View, statistic: Callable[[ConditionSummary], Statistic | None], factor: float = 1.0
) -> tuple[tuple[Line, ...], tuple[Level, ...]]:
    """A line against rank for each family that has two ranks or more, and a level for each condition without a rank;
    bars are 95 % intervals of the mean over seeds."""
    families: dict[str, list[tuple[int, ConditionSummary, Statistic]]] = {}
    levels = []
    for group, s in zip(view.analysis.groups, view.analysis.summaries, strict=True):
        value, rank = statistic(s), group.setting.method.rank
        if value is not None and rank is not None:
            families.setdefault(s.label.family, []).append((rank, s, value))
        elif value is not None:
            levels.append(
                Level(s.label.text, view.styles[s.condition], factor * value.mean, scaled(over_seeds(value), factor))
            )
    lines = []
    for i, (family, members) in enumerate(families.items()):
        members.sort(key=lambda m: m[0])
        if len({rank for rank, _, _ in members}) > 1:
            style = family_style(view.styles[members[0][1].condition].colour, i)
            y = tuple(factor * f.mean for _, _, f in members)
            error = tuple(scaled(over_seeds(f), factor) for _, _, f in members)
            lines.append(Line(family, style, tuple(float(rank) for rank, _, _ in members), y, error))
    return tuple(lines), tuple(levels)


def over_seeds(statistic: Statistic) -> float | None:
    """Half-width of a mean's 95 % interval over seeds; None for one seed, whose interval would be over its items."""
    return statistic.ci_half_width if statistic.n > 1 else None


def scaled(value: float | None, factor: float) -> float | None:
    """A value that may be absent, times a factor."""
    return None if value is None else value * factor
