"""What is said of the gaps between quantized conditions and their unquantized counterparts."""

from __future__ import annotations

from collections.abc import Sequence

from lorabench import formatting
from lorabench.analysis.quantization_gap import Gap, TypeGap
from lorabench.analysis.verdict import Comparison
from lorabench.config.paths import short_model
from lorabench.record.metrics import Metric, metric
from lorabench.report import comparison_text
from lorabench.report.comparison_text import difference_unit, margin
from lorabench.report.drawing import Drawing, cut_off
from lorabench.report.view import View


def type_sentences(view: View, t: TypeGap, name: str, stored: bool = True) -> tuple[str, ...]:
    """ "nf4 stores the weights in 26 % of the bytes and raises held-out loss by 0.007 nats [−0.001, 0.015] (6 pairs of
    conditions, 2 seeds): not decisive.\""""
    m, sentences = metric(name), []
    bytes_ = f"stores the weights in {_shares(t.shares)} of the bytes and " if stored and t.shares else ""
    if t.gaps:
        pairs = (
            formatting.plural(t.expected, "pair")
            if len(t.gaps) == t.expected
            else f"{len(t.gaps)} of {formatting.plural(t.expected, 'pair')}"
        )
        if t.pooled is None:
            sentences.append(
                f"{t.kind} {bytes_}is not pooled ({pairs} of conditions): there is no seed at which all of them"
                " finished."
            )
        else:
            ends = None if t.pooled.low is None or t.pooled.high is None else (t.pooled.low, t.pooled.high)
            cost = _cost(t.pooled.difference, ends, m)
            caution = (
                f" {formatting.plural(t.pooled.broken, 'cell')} with {t.kind} did not finish, which may flatter it."
                if t.pooled.broken
                else ""
            )
            if counterparts := sum({g.unquantized_counterpart: g.counterpart_broken for g in t.gaps}.values()):
                caution += (
                    f" {formatting.plural(counterparts, 'cell')} of the unquantized counterparts did not finish, which"
                    " may flatter them."
                )
            sentences.append(
                f"{t.kind} {bytes_}{cost} ({pairs} of conditions, {_over(t.pooled)}): {_verdict(t.pooled)}.{caution}"
            )
    if t.bases:
        each = [(_where(view, g, t.bases), _cost(g.difference.value, g.difference.interval, m)) for g in t.bases]
        over = (
            "95 % intervals over items"
            if any(g.difference.interval for g in t.bases)
            else "no interval: nothing is known about the items"
        )
        costs = "; ".join(f"{cost}{where}" for where, cost in each)
        sentences.append(f"{t.kind} {'' if t.gaps else bytes_}without training {costs} ({over}).")
    return tuple(sentences)


def _cost(value: float, ends: tuple[float, float] | None, m: Metric) -> str:
    """ "raises held-out loss by 0.007 nats [−0.001, 0.015]"; of what falls the fall is positive, and the interval is of
    the fall."""
    verb = "raises" if value >= 0 else "lowers"
    turned = ends if ends is None or value >= 0 else (-ends[1], -ends[0])
    amount = f"{_number(abs(value), m)} {difference_unit(m.unit)}".rstrip()
    return f"{verb} {m.label} by {amount}{_interval(turned, m)}"


def _number(value: float, m: Metric, plus: str = "") -> str:
    """Three decimals of a loss, however small: what is beyond them does not matter here."""
    shown = formatting.number(abs(value), m.unit) if m.unit == "share" or abs(value) >= 10 else f"{abs(value):.3f}"
    return shown if not float(shown.replace(",", "")) else f"{'−' if value < 0 else plus}{shown}"


def _interval(ends: tuple[float, float] | None, m: Metric) -> str:
    return "" if ends is None else f" [{_number(ends[0], m)},\N{NO-BREAK SPACE}{_number(ends[1], m)}]"


def _over(c: Comparison) -> str:
    if c.pairs == 1:
        return "1 seed, so no interval: the noise between seeds is unknown"
    if c.low is None:
        return f"{formatting.plural(c.pairs, 'seed')}, no interval, since the gaps do not vary"
    return formatting.plural(c.pairs, "seed") + (" and items" if c.basis == "seeds and items" else "")


def _verdict(c: Comparison) -> str:
    if c.verdict == "equivalent":
        return f"equivalent within {margin(c)}"
    explained = c.verdict == "not decisive" and (
        c.flattered or c.reference_broken or not c.repeated
    )  # the reason stands beside it
    return c.verdict if explained else comparison_text.verdict(c)


def _shares(shares: Sequence[float]) -> str:
    ends = dict.fromkeys(formatting.percent(100 * f(shares)) for f in (min, max))
    return " to ".join(ends)


def _where(view: View, g: Gap, among: Sequence[Gap]) -> str:
    if len(among) == 1:
        return ""
    models = {x.model for x in among}
    return f" ({short_model(g.model) if len(models) == len(among) else view.analysis.label(g.unquantized_counterpart)})"


def gap_words(g: Gap, m: Metric) -> str:
    """ "+0.012 [0.003, 0.021]": quantized minus unquantized, positive where the metric rises."""
    return _number(g.difference.value, m, "+") + _interval(g.difference.interval, m)


NOTE = (
    "A gap is the quantized condition minus its unquantized counterpart, which has the same setting otherwise, paired"
    " by seed. Pooled over a type: the mean over its pairs at each seed, with t over seeds, corrected by Holm over the"
    " types (a single pair that the study compares anyway: over its comparisons); of accuracies the items' error is"
    " added as if all pairs shared it. Intervals of single gaps are taken alone."
)


def caption(types: tuple[TypeGap, ...], info: Drawing, m: Metric) -> str:
    """Of the figure of one metric."""
    worse = "above" if m.better == "lower" else "below"
    sentences = [
        "Each point is a quantized condition minus its unquantized counterpart, with the 95 % interval of the"
        f" difference; {worse} zero is worse."
    ]
    if info.band and info.band[1]:
        sentences.append(
            f"The grey band is the margin of the study, ±{info.band[1]:g}: a gap is called equivalent where two"
            " one-sided tests, corrected by Holm, put it inside."
        )
    sentences.append(
        "Check whether the intervals exclude zero"
        + (", and whether the gap changes with rank." if info.x.title == "rank" else ".")
    )
    if cut_off(info):
        sentences.append(cut_off(info))
    bases = {g.difference.basis for t in types for g in t.gaps}
    if "items" in bases:
        which = (
            "The intervals are over the items of one seed"
            if bases == {"items"}
            else "Intervals of pairs with one seed are over its items alone"
        )
        sentences.append(f"{which}: the noise between seeds is unknown.")
    if any(t.gaps and not any(g.difference.interval for g in t.gaps) for t in types):
        sentences.append("Points without a bar have no interval: one seed says nothing about the noise between seeds.")
    return " ".join(sentences)


def line(view: View, g: Gap, m: Metric) -> str:
    """ "LoRA r=4 nf4 − LoRA r=4: +0.012 [0.003, 0.021] nats" """
    unit = formatting.head_unit(m.unit, signed=True)
    parts = [
        f"{formatting.plural(n, 'cell')}{of} did not finish"
        for n, of in ((g.broken, ""), (g.counterpart_broken, " of the counterpart"))
        if n
    ]
    unfinished = f" ({', '.join(parts)})" if parts else ""
    return (
        f"{view.analysis.label(g.condition)} − {view.analysis.label(g.unquantized_counterpart)}: {gap_words(g, m)}"
        f" {unit}".rstrip()
        + unfinished
    )
