"""What is said of how much of a metric's variance goes with each axis of a grid."""

from __future__ import annotations

from lorabench import formatting
from lorabench.analysis.importance import Effect, Importance, NoImportance
from lorabench.record.metrics import metric

_LEVEL = 0.05  # p of the F test


_TIMES = " × "


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
        f"{percent(e.share)} goes with {axes(e, info)}" if i == 0 else f"{percent(e.share)} with {axes(e, info)}"
        for i, e in enumerate(alone)
    ]
    if len(alone) > 1:
        parts.append(f"{percent(together)} with combinations of them")
    words = (
        f"Of the variance in {m.label} between the {info.conditions} conditions of the grid{whose}, {', '.join(parts)}."
    )
    undistinguished = [e for e in alone if e.p_value is not None and e.p_value >= _LEVEL]
    if alone and undistinguished == alone:
        return (
            f"No axis can be told apart from the noise between seeds (F test, p ≥ {_LEVEL:g} for each), which alone"
            f" could have made these shares. {words}"
        )
    if undistinguished:
        names = ", ".join(axes(e, info) for e in undistinguished)
        words += f" Not distinguishable from the noise between seeds (F test, p ≥ {_LEVEL:g}): {names}."
    return words


def absent(why: NoImportance, metric_name: str) -> str:
    """ "The share of each axis cannot be computed yet: the conditions of the grid have no seed in common." """
    because = {
        "no axis": "the study's grid has no axis with two values or more",
        "no reading": f"no finished cell has {metric(metric_name).label}",
        "no complete part": "no part of the grid with two values of an axis has a result at every point",
        "no common seed": "the conditions of the grid have no seed in common",
    }[why]
    return f"The share of each axis cannot be computed yet: {because}."


def effect_words(e: Effect, info: Importance) -> str:
    """ "rank: 82 % (noise alone 3 %, p = 0.001)" """
    noise = (
        ""
        if e.noise is None
        else (
            " (noise alone would give"
            f" {percent(e.noise)}{'' if e.p_value is None else f', F test p = {e.p_value:.2g}'})"
        )
    )
    return f"{axes(e, info)}: {percent(e.share)}{noise}"


def caption(info: Importance, *, tuned: bool) -> str:
    """Of the figure of one grid; `tuned`: learning rates were chosen for each condition."""
    m = metric(info.metric)
    values = "; ".join(f"{_short(a, info)} ({', '.join(v)})" for a, v in info.axes.items())
    sentences = [
        f"How far the means of the conditions lie apart (root mean square {formatting.number(info.std, m.unit)}"
        f" {formatting.head_unit(m.unit)}".rstrip()
        + f"), and how much of it goes with each axis: {values}. A bar of two names joined by{_TIMES}is what only their"
        " combination explains. A functional analysis of variance (Hutter et al. 2014), exact on a whole grid, over"
        f" the {formatting.plural(info.seeds, 'seed')} that all conditions have."
    ]
    if info.seeds > 1:
        sentences.append(
            "The diamond is what noise between seeds alone is expected to give: a bar near its diamond shows nothing."
        )
    else:
        sentences.append("With one seed the noise is unknown, and it is a part of every bar.")
    if info.left_out:
        sentences.append(
            "Left out, since not every combination has a result or uses the axis:"
            f" {'; '.join(f'{_short(a, info)} {chr(44).join(v)}' for a, v in info.left_out.items())}."
        )
    sentences.append("Shares belong to the values that were tried: a wider range of an axis gives it a larger share.")
    if tuned:
        sentences.append("Learning rates were chosen for each condition, so the learning rate is not an axis.")
    return " ".join(sentences)


def axes(e: Effect, info: Importance) -> str:
    """ "rank × quantization" """
    return _TIMES.join(_short(a, info) for a in e.axes)


def _short(axis: str, info: Importance) -> str:
    """ "rank" of method.rank, where no other axis ends so"""
    last = axis.rpartition(".")[2]
    alike = sum(a.rpartition(".")[2] == last for a in info.axes)
    return (last if alike < 2 else axis.replace(".", " ")).replace("_", " ")


def percent(share: float) -> str:
    """ "82 %" """
    return f"{formatting.number(share, 'share')} %"
