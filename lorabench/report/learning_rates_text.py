"""What is said of chosen learning rates."""

from __future__ import annotations

from collections.abc import Sequence

from lorabench import formatting
from lorabench.analysis.learning_rate_ratios import LearningRateRatios
from lorabench.analysis.tuning import LearningRateResult, Tuning
from lorabench.report.drawing import Line
from lorabench.report.view import View


def caption(tunings: Sequence[Tuning], shown: int, cut: str) -> str:
    """Of the figure over learning rates: `shown` conditions are drawn, `cut` says what lies beyond its axis."""
    words = (
        "Mean validation loss over seeds at each learning rate of the grid, its bar (± in the table) the 95 % interval"
        " of that mean. The one with the lowest mean is chosen for all seeds of a condition; what the report says of it"
        " is measured on the test split, whose data took no part in the choice (a choice among rates that are nearly as"
        " good still favours lucky runs a little). Look for curves whose lowest point is at the edge of the grid: a"
        " better rate may lie outside."
    )
    if any(x.broken or x.missing for t in tunings for x in t.results):
        words += (
            " Only the rates with the most finished seeds and, among these, the fewest broken ones can be chosen: the"
            " mean of the seeds that are left flatters a rate."
        )
    if cut:
        words += f" {cut}"
    if shown < len(tunings):
        words += f" Of {len(tunings)} conditions {shown} are drawn; the table has all."
    return words


def seed_caption(*, several: bool) -> str:
    """Of the figure by seed, which has a menu where there are several conditions."""
    choice = " Choose a condition above the figure." if several else ""
    return (
        "Validation loss of every seed at every learning rate of one condition, measured once at the end of training;"
        f" the star is the learning rate that was chosen, at the mean of its seeds.{choice} Check whether all seeds"
        " have their lowest point at the same learning rate: where they differ, the choice is partly luck."
    )


def lowest(label: str, line: Line) -> str:
    """ "LoRA r=4: seed 0 lowest at 0.003" """
    return f"{label}: {line.label} lowest at {line.x[line.y.index(min(line.y))]:g}"


def choices(view: View) -> tuple[str, ...]:
    """Which rates were chosen, by method."""
    methods: dict[str, list[float]] = {}
    for t in view.analysis.tunings:
        if t.chosen is not None:
            methods.setdefault(view.analysis.summary(t.condition).method, []).append(t.chosen)
    sentences = []
    for method, learning_rates in methods.items():
        low, high = min(learning_rates), max(learning_rates)
        span = f"{low:g} to {high:g}" if low < high else f"{low:g}{' throughout' if len(learning_rates) > 1 else ''}"
        sentences.append(f"{method}: {formatting.plural(len(learning_rates), 'condition')} chose {span}.")
    return tuple(sentences)


def ratio_sentence(r: LearningRateRatios) -> str:
    """What the choices say of LoRA's rate against full fine-tuning's."""
    span = f"{r.lowest:.3g}" if r.lowest == r.highest else f"{r.lowest:.3g} to {r.highest:.3g}"
    caution = (
        f"; in {r.at_an_edge} of {r.conditions} a rate is at the edge of its grid, so the true factor may differ"
        if r.at_an_edge
        else ""
    )
    return (
        f"The adapters' best learning rates are {span} times full fine-tuning's"
        f" ({formatting.plural(r.conditions, 'condition')}), as far as grids with steps of a factor {r.step:.3g} can"
        f" tell{caution}."
    )


def edges(tunings: Sequence[Tuning]) -> tuple[str, ...]:
    """How many chosen rates end their grid, if any do."""
    number = sum(t.edge for t in tunings)
    if not number:
        return ()
    return (
        f"{number} of {len(tunings)} chosen learning rates are at the edge of their grid: a better one may lie"
        " outside.",
    )


def sentence(view: View, t: Tuning) -> str:
    """ "LoRA r=4: chose 0.003 of 0.001 to 0.01 (3.412 nats; 3.455 at 0.001, 3.431 at 0.01)" """
    label = view.analysis.label(t.condition)
    if t.chosen is None:
        return f"{label}: no cell has finished yet"
    best = next(x for x in t.results if x.learning_rate == t.chosen)
    others = ", ".join(f"{_loss(x.mean)} at {x.learning_rate:g}{_incomplete(x)}" for x in t.results if x is not best)
    return (
        f"{label}: chose {t.chosen:g}{', the edge of its grid,' if t.edge else ''} with {_loss(best.mean)}"
        f" nats{_incomplete(best)}; {others}"
    )


def result_words(result: LearningRateResult, chosen: bool) -> str:
    """ "→ 3.412 ± 0.020 (1 broke)": a field of the table; the arrow marks the chosen rate."""
    spread = f" ± {formatting.decimals(result.ci_half_width)}" if result.ci_half_width is not None else ""
    return f"{'→ ' if chosen else ''}{_loss(result.mean)}{spread}{_incomplete(result)}"


def _incomplete(result: LearningRateResult) -> str:
    """ " (1 broke, 2 without a value)": what the mean is not over."""
    parts = [f"{n} {word}" for n, word in ((result.broken, "broke"), (result.missing, "without a value")) if n]
    return f" ({', '.join(parts)})" if parts else ""


def _loss(mean: float | None) -> str:
    return formatting.DASH if mean is None else formatting.decimals(mean)
