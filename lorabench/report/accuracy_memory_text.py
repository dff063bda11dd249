"""What is said of conditions by quality and memory: which are on the Pareto front, which are dominated."""

from __future__ import annotations

from lorabench import formatting
from lorabench.analysis.pareto import ParetoPoint
from lorabench.record.metrics import Metric
from lorabench.report.metric_text import value_words
from lorabench.report.view import View

_AT_MOST = 12  # names in a sentence


def sentence(view: View, p: ParetoPoint, m: Metric) -> str:
    """ "LoRA r=1: held-out loss 3.483 ± 0.117 nats at 58.8 MB; dominated by LoRA r=4 nf4" """
    by = view.analysis.label(p.by) if p.by else ""
    outcomes = view.analysis.summary(p.condition).outcomes
    unfinished = (
        f"of {formatting.plural(outcomes.total, 'cell')} {outcomes.broken} did not finish, so it has no place on the"
        " front"
    )
    tier = {
        "front": "on the front",
        "level": f"behind {by} by the mean, and shown to be within the margin of it",
        "open": f"behind {by} by the mean, not beyond doubt",
        "dominated": f"dominated by {by}",
        "broken": unfinished,
    }[p.tier]
    return (
        f"{view.analysis.label(p.condition)}: {m.label} {value_words(p.value, p.ci_half_width, m)}"
        + f" at {formatting.size(p.memory)}; {tier}"
    )


def standings(view: View, points: tuple[ParetoPoint, ...]) -> tuple[str, ...]:
    """Which conditions are on the front, behind it, dominated, or without a place: a sentence for each that has any."""

    def named(tier: str) -> str:
        names = [view.analysis.label(p.condition) for p in points if p.tier == tier]
        return formatting.first_names(names, _AT_MOST)

    heads = {
        "front": "On the front (no condition has a better mean at no more memory)",
        "level": "Behind the front by the mean, but shown to be within the margin",
        "open": "Behind the front by the mean, but not beyond doubt",
        "dominated": "Dominated beyond doubt",
        "broken": "Not placed, since some of their cells did not finish and the mean of the others flatters them",
    }
    sentences = [f"{head}: {named(tier)}." for tier, head in heads.items() if named(tier)]
    if not named("front"):
        sentences.insert(0, "No condition is on the front: every trained one has cells that did not finish.")
    return tuple(sentences)


def caption(m: Metric) -> str:
    """Of the figure in one metric."""
    corner = "upper left" if m.better == "higher" else "lower left"
    return (
        f"Each point is a condition, its bar the 95 % interval of the mean. Look to the {corner}: better at less"
        " memory. The grey line joins the Pareto front by the means. Pale points are dominated beyond doubt: another"
        " condition takes no more memory and is shown to be better (paired by seed, corrected by"
        " Holm); or some of their cells did not finish."
    )
