"""what is left of each condition when its changes are cut to a lower rank, beside what was trained at that rank"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lorabench import formatting
from lorabench.analysis.aggregate import Statistic
from lorabench.analysis.spectra import over_seeds
from lorabench.record.metrics import metric
from lorabench.record.truncations import Allocation
from lorabench.report import spectra
from lorabench.report.blocks import Block, Figure, Section
from lorabench.report.drawing import Axis, Drawing, Level, Line, bounded, cut_off
from lorabench.report.figures import draw
from lorabench.report.style import Style
from lorabench.report.tables import accuracies
from lorabench.report.view import View

ORDER = 74
TITLE = "Truncation"
MOST_LINES = 8  # of cut changes; with more, a family shows its highest rank alone
_HOW: dict[Allocation, str] = {"uniform": "cut", "energy": "cut by energy"}
_DASHES: dict[Allocation, str] = {"uniform": "dash", "energy": "dot"}
_OPEN: dict[Allocation, str] = {"uniform": "circle-open", "energy": "diamond-open"}


def section(view: View) -> Section | None:
    """A figure for the study's metric, for the held-out loss and for the first accuracy; None where no cell was
    evaluated at lower ranks."""
    blocks: list[Block] = []
    for name in dict.fromkeys((view.analysis.metric, "eval_loss", *accuracies(view)[:1])):
        cuts = compute(view, name)
        if cuts:
            m = metric(name)
            words = tuple(sentence(c, name) for c in cuts)
            info = bounded(drawing(view, name, cuts))
            caption = _caption(view, name, cuts, info)
            blocks.append(
                Figure(f"truncation-{len(blocks)}", draw(info), f"{m.label} against truncated rank", caption, words)
            )
    return Section(TITLE, tuple(blocks)) if blocks else None


@dataclass(frozen=True)
class TruncationPoint:
    """A condition's changes cut to one rank."""

    rank: int
    value: Statistic
    """over seeds"""
    trained: Statistic | None = None
    """of the condition of the same family that was trained at that rank"""
    ahead: int = 0
    """seeds of both in which the cut one is better"""
    pairs: int = 0
    """seeds of both"""


@dataclass(frozen=True)
class TruncationCurve:
    """A condition's curve under one allocation."""

    condition: str
    label: str
    family: str
    allocation: Allocation
    points: tuple[TruncationPoint, ...]
    """by rising rank"""
    whole: tuple[int, Statistic] | None
    """the condition's own rank and value, where nothing is cut"""


def compute(view: View, name: str) -> tuple[TruncationCurve, ...]:
    """The curves of every condition that has one in this metric."""
    trained = {
        (s.label.family, rank): s.condition
        for s in view.analysis.summaries
        if (rank := spectra.rank_of(view, s.condition)) is not None
    }
    made = []
    for s in view.analysis.summaries:
        found: dict[tuple[Allocation, int], dict[int, float]] = {}
        for seed, rows in spectra.truncations(view, s.condition).items():
            for t in rows:
                if (value := t.value(name)) is not None:
                    found.setdefault((t.allocation, t.rank), {})[seed] = value
        for allocation in _HOW:
            points = tuple(
                _point(
                    view,
                    name,
                    rank,
                    by_seed,
                    direct if (direct := trained.get((s.label.family, rank))) != s.condition else None,
                )
                for (how, rank), by_seed in sorted(found.items())
                if how == allocation
            )
            if points:
                made.append(
                    TruncationCurve(
                        s.condition, s.label.text, s.label.family, allocation, points, _whole(view, name, s.condition)
                    )
                )
    return tuple(made)


def _point(view: View, name: str, rank: int, by_seed: dict[int, float], direct: str | None) -> TruncationPoint:
    value = over_seeds(list(by_seed.values()))
    assert value is not None
    trained = view.analysis.summary(direct).statistics.get(name) if direct else None
    if direct is None or trained is None:
        return TruncationPoint(rank, value)
    other = {
        r.cell.seed: v
        for r in view.analysis.of_condition(direct)
        if r.outcome == "finished" and (v := r.value(name)) is not None
    }
    shared = [seed for seed in by_seed if seed in other]
    sign = 1 if metric(name).better == "higher" else -1
    return TruncationPoint(
        rank, value, trained, sum(sign * (by_seed[seed] - other[seed]) > 0 for seed in shared), len(shared)
    )


def _whole(view: View, name: str, condition: str) -> tuple[int, Statistic] | None:
    """Unless the change can have more rank than its adapters (pissa: twice as much): then a cut to theirs is a cut
    still."""
    rank, value = spectra.rank_of(view, condition), view.analysis.summary(condition).statistics.get(name)
    held = {s.rank for cell in spectra.spectra(view, condition) for s in cell if s.rank is not None}
    return (rank, value) if rank is not None and value is not None and max(held, default=rank) <= rank else None


def drawing(view: View, name: str, cuts: tuple[TruncationCurve, ...]) -> Drawing:
    """The cut curves over those trained at each rank, with a level for each condition without a rank that lies near
    them."""
    m = metric(name)
    factor = 100.0 if m.unit == "share" else 1.0
    direct, levels = spectra.by_rank(view, lambda s: s.statistics.get(name), factor)
    shown = drawn(view, cuts)
    families = {c.family for c in shown}
    lines = [replace(line, label=f"{line.label}, trained at the rank") for line in direct if line.label in families]
    for c in shown:
        ends = [(p.rank, p.value) for p in c.points]
        if c.whole is not None and c.whole[0] not in {rank for rank, _ in ends}:
            ends = sorted([*ends, c.whole], key=lambda end: end[0])
        style = Style(view.styles[c.condition].colour, _DASHES[c.allocation], _OPEN[c.allocation])
        y, error = (
            tuple(factor * v.mean for _, v in ends),
            tuple(spectra.scaled(spectra.over_seeds(v), factor) for _, v in ends),
        )
        lines.append(Line(f"{c.label}, {_HOW[c.allocation]}", style, tuple(float(rank) for rank, _ in ends), y, error))
    ranks = sorted({x for line in lines for x in line.x})
    unit = formatting.head_unit(m.unit)
    y_axis = Axis(f"{m.label} ({unit})" if unit else m.label)
    near = tuple(level for level in levels if _near(level, lines))
    return Drawing(Axis("rank", log=True, ticks=tuple(ranks)), y_axis, tuple(lines), near, "lines+markers")


def _near(level: Level, lines: Sequence[Line]) -> bool:
    """Whether it lies no further from the curves than these span; an untrained base may press them flat."""
    low, high = min(y for line in lines for y in line.y), max(y for line in lines for y in line.y)
    return low == high or 2 * low - high <= level.y <= 2 * high - low


def drawn(view: View, cuts: tuple[TruncationCurve, ...]) -> tuple[TruncationCurve, ...]:
    """All of them while they are few; else the highest rank of each family, and where that is not enough by one
    allocation alone."""
    if len(cuts) <= MOST_LINES:
        return cuts
    tops = spectra.tops(view, dict.fromkeys(c.condition for c in cuts))
    kept = tuple(c for c in cuts if c.condition in tops)
    uniform = tuple(c for c in kept if c.allocation == "uniform")
    return uniform if len(kept) > MOST_LINES and uniform else kept


def sentence(cut: TruncationCurve, name: str) -> str:
    """ "LoRA r=16, cut: 2.31 at rank 1, 2.25 at 4 (nats); trained at 4 2.27 (the cut one is better in 2 of 2
    seeds).\""""
    unit = formatting.head_unit(metric(name).unit)
    points = ", ".join(
        f"{_number(p.value, name)} at {'rank ' if i == 0 else ''}{p.rank}" for i, p in enumerate(cut.points)
    )
    said = f"{cut.label}, {_HOW[cut.allocation]}: {points}{f' ({unit})' if unit else ''}"
    beside = [
        f"trained at {p.rank} {_number(p.trained, name)}"
        + (f" (the cut one is better in {p.ahead} of {formatting.plural(p.pairs, 'seed')})" if p.pairs else "")
        for p in cut.points
        if p.trained is not None
    ]
    return said + (f"; {', '.join(beside)}." if beside else ".")


def _number(value: Statistic, name: str) -> str:
    unit = metric(name).unit
    half = spectra.over_seeds(value)
    return formatting.number(value.mean, unit) + (f" ± {formatting.number(half, unit)}" if half is not None else "")


def _caption(view: View, name: str, cuts: tuple[TruncationCurve, ...], info: Drawing) -> str:
    m, shown = metric(name), drawn(view, cuts)
    said = [
        "Open symbols: each learned change is cut to a lower rank by its singular values, without further training,"
        " and evaluated again; mean over seeds with its 95 % interval (±). Filled symbols: adapters that were trained"
        f" at that rank. Look where a cut curve runs {'above' if m.better == 'higher' else 'below'} the trained one:"
        " there it pays to train at a high rank and cut. And from which rank on it is flat: what is cut off there,"
        " this metric does not miss."
    ]
    if any(c.allocation == "energy" for c in shown):
        said.append(
            "Cut by energy: as many parameters as at the uniform rank, given to the modules where the energy is."
        )
    if len(shown) < len(cuts):
        said.append(
            f"Of {len(cuts)} curves {len(shown)} are drawn (the highest rank of each family); the others stand below in"
            " words."
        )
    if cut_off(info):
        said.append(cut_off(info))
    drawn_levels = {level.label for level in info.levels}
    for s in view.analysis.summaries:
        if (
            spectra.rank_of(view, s.condition) is None
            and s.label.text not in drawn_levels
            and (value := s.statistics.get(name))
        ):
            said.append(
                f"Too far away to be drawn: {s.label.text} at"
                f" {_number(value, name)}{' %' if m.unit == 'share' else ''}."
            )
    return " ".join(said)
