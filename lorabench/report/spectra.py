"""The files that tell what a condition learned, for the sections that show them; and which condition stands for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lorabench.analysis import spectra as stored
from lorabench.analysis.aggregate import ConditionSummary, Statistic
from lorabench.record.spectrum import Spectrum
from lorabench.record.truncations import Directions, Truncation
from lorabench.report.drawing import Level, Line
from lorabench.report.style import family_style
from lorabench.report.view import View


def spectra(view: View, condition: str) -> tuple[tuple[Spectrum, ...], ...]:
    """The spectra of the modules, of each finished cell of a condition that stored any."""
    cells = (stored.spectra(path) for _, path in _files(view, condition, "spectra.safetensors"))
    return tuple(s for s in cells if s)


def directions(view: View, condition: str) -> tuple[Mapping[str, Directions], ...]:
    """The leading singular directions by module, of each finished cell of a condition that stored any."""
    return tuple(directions_by_seed(view, condition).values())


def directions_by_seed(view: View, condition: str) -> dict[int, Mapping[str, Directions]]:
    """The same by seed."""
    by_seed = ((seed, stored.directions(path)) for seed, path in _files(view, condition, "directions.safetensors"))
    return {seed: d for seed, d in by_seed if d}


def truncations(view: View, condition: str) -> dict[int, tuple[Truncation, ...]]:
    """The evaluations at lower ranks by seed, of each finished cell of a condition that has any."""
    by_seed = ((seed, stored.truncations(path)) for seed, path in _files(view, condition, "truncation.csv"))
    return {seed: t for seed, t in by_seed if t}


def _files(view: View, condition: str, name: str) -> Iterable[tuple[int, Path]]:
    return (
        (r.cell.seed, view.analysis.file(r.cell.id, name))
        for r in view.analysis.of_condition(condition)
        if r.outcome == "finished"
    )


def rank_of(view: View, condition: str) -> int | None:
    """The rank of a condition's adapters, None where it has none."""
    setting = next(g.setting for g in view.analysis.groups if g.condition == condition)
    return setting.method.rank


def highest(view: View, conditions: Iterable[str]) -> str:
    """The one of highest rank, the first in the study's order among several; without any rank the first."""
    return max(conditions, key=lambda c: rank_of(view, c) or 0)


def tops(view: View, conditions: Iterable[str]) -> tuple[str, ...]:
    """The condition of highest rank of each family."""
    families: dict[str, list[str]] = {}
    for c in conditions:
        families.setdefault(view.analysis.summary(c).label.family, []).append(c)
    return tuple(highest(view, members) for members in families.values())


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
