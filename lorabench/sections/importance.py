"""which axes of the grid the metric depends on: shares of the variance between its conditions"""

from __future__ import annotations

from lorabench import formatting
from lorabench.analysis.importance import Effect, Importance, importances, varied_axes
from lorabench.record.metrics import metric
from lorabench.report.bars import BarPart, Bars, draw_bars
from lorabench.report.blocks import Block, Figure, Section, Text
from lorabench.report.style import BLUE
from lorabench.report.view import View

ORDER = 56
TITLE = "What matters"
_MOST = 12  # bars; the words have all
_TASKS = 4  # of which there are figures
_SEEN = 0.05  # p of the F test
_TIMES = " × "


def section(view: View) -> Section | None:
    """A sentence and a figure for each grid; a sentence alone where the grid has holes; None without a grid of two
    axes."""
    if len(varied_axes(view.analysis.study)) < 2:  # of one axis all variance is its own
        return None
    found, why = importances(view.analysis.groups, view.analysis.data, view.analysis.metric, view.analysis.study)
    if not found:
        return Section(TITLE, (Text(f"The share of each axis cannot be computed yet: {why}."),))
    blocks: list[Block] = []
    for i, info in enumerate(found[:_TASKS]):
        blocks.append(Text(sentence(info)))
        if info.std:
            title = f"share of the variance in {metric(info.metric).label}" + (
                f", {info.within}" if info.within else ""
            )
            blocks.append(
                Figure(
                    f"importance-{i}",
                    draw_bars(bars(info)),
                    title,
                    _caption(view, info),
                    tuple(words(e, info) for e in info.effects),
                )
            )
    return Section(TITLE, tuple(blocks))


def sentence(info: Importance) -> str:
    """ "Of the variance in held-out loss between the 12 conditions of the grid 82 % goes with rank, 10 % with
    quantization, 8 % with combinations of them.\""""
    m = metric(info.metric)
    whose = f" of {info.within}" if info.within else ""
    if not info.std:
        return (
            f"The {formatting.plural(info.conditions, 'condition')} of the grid{whose} all have the same mean"
            f" {m.label}: no axis matters."
        )
    alone = [e for e in info.effects if len(e.axes) == 1]
    together = sum(e.share for e in info.effects if len(e.axes) > 1)
    parts = [
        f"{_percent(e.share)} goes with {_axes(e, info)}" if i == 0 else f"{_percent(e.share)} with {_axes(e, info)}"
        for i, e in enumerate(alone)
    ]
    if len(alone) > 1:
        parts.append(f"{_percent(together)} with combinations of them")
    said = (
        f"Of the variance in {m.label} between the {info.conditions} conditions of the grid{whose}, {', '.join(parts)}."
    )
    unseen = [_axes(e, info) for e in alone if e.p_value is not None and e.p_value >= _SEEN]
    if unseen:
        said += f" Not told from the noise between seeds (F test, p ≥ {_SEEN:g}): {', '.join(unseen)}."
    return said


def bars(info: Importance) -> Bars:
    """A bar for each axis and combination, the largest first, and beside it what noise alone would give."""
    shown = info.effects[:_MOST]
    part = BarPart(
        "share of the variance", BLUE, tuple(100 * e.share for e in shown), tuple(words(e, info) for e in shown)
    )
    return Bars(
        "share of the variance (%)",
        tuple(_axes(e, info) for e in shown),
        (part,),
        "expected from the noise between seeds alone",
        tuple(None if e.noise is None else 100 * e.noise for e in shown),
        tuple(words(e, info) for e in shown),
        tuple(_percent(e.share) for e in shown),
    )


def words(e: Effect, info: Importance) -> str:
    """ "rank: 82 % (noise alone 3 %, p = 0.001)" """
    noise = (
        ""
        if e.noise is None
        else (
            " (noise alone would give"
            f" {_percent(e.noise)}{'' if e.p_value is None else f', F test p = {e.p_value:.2g}'})"
        )
    )
    return f"{_axes(e, info)}: {_percent(e.share)}{noise}"


def _caption(view: View, info: Importance) -> str:
    m = metric(info.metric)
    values = "; ".join(f"{_short(a, info)} ({', '.join(v)})" for a, v in info.axes.items())
    said = [
        f"How far the means of the conditions lie apart (root mean square {formatting.number(info.std, m.unit)}"
        f" {formatting.head_unit(m.unit)}".rstrip()
        + f"), and how much of it goes with each axis: {values}. A bar of two names joined by{_TIMES}is what only their"
        " combination explains. A functional analysis of variance (Hutter et al. 2014), exact on a whole grid, over"
        f" {formatting.plural(info.seeds, 'seed')} that all have."
    ]
    if info.seeds > 1:
        said.append(
            "The diamond is what noise between seeds alone is expected to give: a bar near its diamond shows nothing."
        )
    else:
        said.append("With one seed the noise is unknown, and it is a part of every bar.")
    if info.left_out:
        said.append(
            "Left out, since not every combination has a result or uses the axis:"
            f" {'; '.join(f'{_short(a, info)} {chr(44).join(v)}' for a, v in info.left_out.items())}."
        )
    said.append("Shares belong to the values that were tried: a wider range of an axis gives it a larger share.")
    if view.analysis.tunings:
        said.append("Learning rates were chosen for each condition, so the learning rate is no axis.")
    return " ".join(said)


def _axes(e: Effect, info: Importance) -> str:
    return _TIMES.join(_short(a, info) for a in e.axes)


def _short(axis: str, info: Importance) -> str:
    """ "rank" of method.rank, where no other axis ends so"""
    last = axis.rpartition(".")[2]
    alike = sum(a.rpartition(".")[2] == last for a in info.axes)
    return (last if alike < 2 else axis.replace(".", " ")).replace("_", " ")


def _percent(share: float) -> str:
    return f"{formatting.number(share, 'share')} %"
