"""What is said of a rank curve: its smallest sufficient rank, its fit, and what limits either."""

from __future__ import annotations

from lorabench import formatting
from lorabench.analysis.rank_curve import RankCurve, RankDifference
from lorabench.analysis.saturation import FEWEST, Fit, NoFit
from lorabench.record.metrics import Metric, metric
from lorabench.report.comparison_text import amount
from lorabench.report.drawing import Drawing, cut_off

_DOUBTFUL = 0.05  # p of lack of fit
_NO_KNEE = {
    "no margin": "no margin is known for this metric",
    "no complete rank": "no rank has all its cells finished",
    "one seed": "with one seed the noise between seeds is unknown",
}
_NO_BOUND = {
    "unfinished cells": "not all of its cells finished",
    "fewer than two common seeds": "it shares fewer than two seeds with the best",
    "constant difference": "its difference does not vary over seeds, so its noise is unknown",
}


def sentences(curves: tuple[RankCurve, ...]) -> tuple[str, ...]:
    """What can be said of each family, and once for all that share it what limits that."""
    of_family = [
        f"{c.family}: {words[:1].lower()}{words[1:]}"
        for c in curves
        if (words := " ".join(part for part in (knee_sentence(c), fit_sentence(c)) if part))
    ]
    limits: dict[str, list[str]] = {}
    for c in curves:
        if c.knee.rank is not None and c.at_the_edge:
            highest = "tried" if c.best == c.points[-1].rank else "of those whose cells all finished"
            limits.setdefault(
                f"rank {c.best}, the best, is the highest {highest}, so a higher one may do better", []
            ).append(c.family)
        if c.knee.why:
            limits.setdefault(f"no smallest sufficient rank is named, since {_NO_KNEE[c.knee.why]}", []).append(
                c.family
            )
        if c.unfitted:
            limits.setdefault(f"no curve is fitted, since {unfitted(c.unfitted, metric(c.metric))}", []).append(
                c.family
            )
    return (*of_family, *(f"{_listed(names, len(curves))}: {why}." for why, names in limits.items()))


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


def _why(step: RankDifference, m: Metric, bound: str = "one-sided 95 % bound") -> str:
    if step.bound is None:
        return _NO_BOUND[step.why] if step.why else ""
    return f"{bound} {formatting.number(step.bound, m.unit)}, {formatting.plural(step.seeds, 'seed')}"


def unfitted(no: NoFit, m: Metric) -> str:
    """ "rank 32 is worse than rank 4 beyond noise" """
    beyond = " beyond noise" if no.beyond_noise else ""
    end = "floor" if m.better == "lower" else "ceiling"
    if no.ranks is not None:
        return f"rank {no.ranks[0]} is worse than rank {no.ranks[1]}{beyond}"
    if no.lack_of_fit is not None:
        return f"no saturating curve fits (lack of fit p = {no.lack_of_fit:.1g})"
    return {
        "no direction": "neither more nor less of this metric is better",
        "no complete rank": _NO_KNEE["no complete rank"],
        "few ranks": f"a curve needs {FEWEST} ranks or more",
        "no common seed": "the ranks have no seed in common",
        "equal": f"the ranks do not differ{beyond}",
        "not converged": "the fit did not converge",
        "steep": "nearly everything is gained at the lowest ranks, so the exponent cannot be determined",
        "logarithmic": f"it changes with the logarithm of the rank, with no {end} in sight",
        "far": f"its {end} lies too far beyond these ranks to be estimated",
    }[no.reason]


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
    floor_named = fit.levelled
    if (
        floor_named
        and fit.c.low is not None
        and fit.c.high is not None
        and fit.c.high - fit.c.low > 2 * (max(p.mean for p in c.points) - min(p.mean for p in c.points))
    ):
        floor_named = False
        value = f", but the interval of its {end},{interval}, is wider than the whole effect of rank"
    if not fit.levelled:
        value = f", but has not levelled off by rank {c.points[-1].rank}, so no {end} is named"
    if fit.lack_of_fit is None:
        return (
            f"The curve {formula(fit, m)} runs through the means{value}; with one seed it is unknown how well it fits."
        )
    over = (
        ""
        if not floor_named
        else (
            " over the items of one seed; another seed may differ"
            if fit.basis == "items"
            else f" over {formatting.plural(fit.seeds, 'seed')}"
        )
    )
    fits = "fits" if fit.lack_of_fit >= _DOUBTFUL else "is not rejected, but fits poorly"
    return f"The curve {formula(fit, m)} {fits} (lack of fit p = {fit.lack_of_fit:.2g}){value}{over}."


def formula(fit: Fit, m: Metric) -> str:
    """ "1.210 + 0.340 r^−0.520" """
    sign = "+" if fit.a.value >= 0 else "−"
    return (
        f"{formatting.number(fit.c.value, m.unit)} {sign} {formatting.number(abs(fit.a.value), m.unit)}"
        f" r^−{formatting.decimals(fit.b.value)}".replace(" ", "\N{NO-BREAK SPACE}")
    )


def _listed(names: list[str], of: int) -> str:
    """Names may hold commas."""
    return "All curves" if len(names) == of > 2 else "; ".join(names)


def caption(name: str, curves: tuple[RankCurve, ...], info: Drawing) -> str:
    """Of the figure of one metric."""
    m = metric(name)
    sentences = [
        f"Mean {m.label} at each rank with its 95 % interval ({m.better} is better). Look for where a curve"
        " flattens: more rank buys nothing there."
    ]
    if info.rings:
        sentences.append("A ring marks the smallest rank that is non-inferior to the best of its curve.")
    if info.trends:
        sentences.append("Thin lines are the fitted curves c + a r^−b.")
    if any(p.n > 1 for c in curves for p in c.points):
        sentences.append(
            "A seed shifts all ranks alike, which the bars show and the paired comparisons leave out: bars may overlap"
            " where a difference is clear."
        )
    if cut_off(info):
        sentences.append(cut_off(info))
    if any(not p.whole for c in curves for p in c.points):
        unfinished = dict.fromkeys(f"{c.family} at rank {p.rank}" for c in curves for p in c.points if not p.whole)
        sentences.append(
            "Some cells did not finish, so that the mean of those that did flatters, and it is neither called best nor"
            f" fitted: {', '.join(unfinished)}."
        )
    if info.levels:
        sentences.append("Level lines are conditions without a rank, or the reference where it is on no curve.")
    if info.beyond:
        named = ", ".join(f"{v.label} at {_axis_value(v.y, m)}" for v in info.beyond)
        sentences.append(
            "Left beyond the axis, since they would flatten the curves, and named at its edge beside an arrow:"
            f" {named}. Double-click the plot to see all."
        )
    return " ".join(sentences)


def _axis_value(y: float, m: Metric) -> str:
    """A value of the y axis, where shares are percent already."""
    return f"{y:.1f} %" if m.unit == "share" else formatting.number(y, m.unit)
