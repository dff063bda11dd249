"""What a study's own recommendation is, and the sentence that says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorabench import formatting
from lorabench.advice.selection import Option, enough, tuned
from lorabench.advice.spectral_check import SpectralCheck
from lorabench.record.metrics import Metric
from lorabench.report.blocks import ChoiceGroup
from lorabench.report.comparison_text import amount, one_sided_bound


@dataclass(frozen=True)
class Recommended:
    """What to take of one comparison group, at the study's margin."""

    name: str
    """tells the group from the others; empty where it is the only one"""
    options: tuple[Option, ...]
    unable: int
    """trained conditions that did not finish whole, or lack the metric"""
    best: Option
    chosen: Option | None
    margin: float | None
    """absent where the study names none in this metric"""
    pairs: int
    """seeds that the bound of the chosen one is over; of the best, those of the nearest other"""
    spectral_check: SpectralCheck | None

    @property
    def enough(self) -> tuple[Option, ...]:
        """Those that are shown to be within the margin, the best among them."""
        return tuple(o for o in self.options if enough(o, self.options, self.margin or 0.0))


def sentence(r: Recommended, m: Metric) -> str:
    """ "LoRA r=4 nf4: the fewest trained parameters (12,288) that are not worse than LoRA r=16, the best, by more than
    0.02 nats (one-sided 95 % bound ...\""""
    best, chosen, within = r.best, r.chosen, amount(r.margin or 0.0, m)
    if not best.repeated:
        return (
            f"Nothing is chosen: there is one seed, and a repetition may end in another order. {best.label} has the"
            f" best mean {m.label} of it. `lorabench recommend` rests on what is published until more seeds have run."
        )
    if chosen is not None and chosen is not best:
        peak = (
            "its train peak was not measured"
            if chosen.peak_bytes is None
            else f"train peak {formatting.size(chosen.peak_bytes)}"
        )
        why = (
            "for fewer parameters"
            if chosen.trainable_parameters < best.trainable_parameters
            else "for less memory"
            if _lighter(chosen, best)
            else "as one of several with equally few parameters"
        )
        return (
            f"{chosen.label}: the fewest trained parameters ({formatting.count(chosen.trainable_parameters)}) that are"
            f" not worse than {best.label}, the best, by more than {within} ({bound_words(chosen, r.pairs, m)});"
            f" {peak}. It is chosen {why}, not for a better {m.label}.{_alike(r)}"
        )
    if r.margin is None:
        return (
            f"{best.label} has the best mean {m.label}; the study tolerates no loss in this metric, so nothing"
            " smaller is chosen."
        )
    others = [o for o in r.options if o is not best]
    if all(o.bound is None for o in others):
        return (
            f"No evidence: the noise of the differences is unknown, which leaves {best.label}, the best by its mean"
            f" {m.label}."
        )
    if not any(o.repeated for o in others):
        return (
            f"{best.label}, the best by its mean {m.label}: one seed shows nothing about the others, neither that"
            " they are as good nor that they are worse, since a repetition may differ."
        )
    near = nearest(r.options, best)
    within_margin = [o for o in others if o.repeated and o.bound is not None and o.bound <= r.margin]
    if within_margin and len(r.enough) < 2:
        named = formatting.first_names([o.label for o in within_margin], 3)
        return (
            f"{best.label}, the best by its mean {m.label}: {named} {'is' if len(within_margin) == 1 else 'are'} shown"
            f" to be within {within} of it, but not every higher rank of the same family is, so nothing smaller is"
            " chosen."
        )
    if chosen is None or len(r.enough) < 2:
        named = "" if len(others) == 1 or near is None else f"the nearest by its bound, {near.label}: "
        evidence = f" ({named}{bound_words(near, r.pairs, m)})" if near else ""
        who = f"{others[0].label} is not shown" if len(others) == 1 else f"none of the {len(others)} others is shown"
        return f"{best.label}, the best by its mean {m.label}: {who} to be within {within} of it{evidence}."
    return (
        f"{best.label}: the fewest trained parameters ({formatting.count(best.trainable_parameters)}) of the"
        f" {len(r.enough)} conditions that are shown to be within {within} of the best mean, which it has, too. It is"
        f" chosen for fewer parameters, not because its {m.label} is shown to be better than theirs."
    )


def bound_words(o: Option, pairs: int, m: Metric) -> str:
    """ "one-sided 95 % bound 0.013, 3 seeds", over as many pairs."""
    seeds = "" if o.bound is None else f", {formatting.plural(pairs, 'seed')}"
    return one_sided_bound(o.bound, m) + seeds


def second_witness(choices: Sequence[Recommended]) -> str:
    """With how many of several choices the spectra agree."""
    leans = [r.spectral_check.lean for r in choices if r.spectral_check]
    agree, silent = leans.count("agrees"), leans.count("open")
    return (
        f"The spectra agree with {agree} of {formatting.plural(len(leans), 'choice')} and disagree with"
        f" {len(leans) - agree - silent}"
    )


def nearest(options: Sequence[Option], best: Option) -> Option | None:
    """The other option of the lowest bound."""
    return min(
        (o for o in options if o is not best and o.repeated and o.bound is not None),
        key=lambda o: o.bound or 0.0,
        default=None,
    )


def _lighter(one: Option, other: Option) -> bool:
    return one.peak_bytes is not None and other.peak_bytes is not None and one.peak_bytes < other.peak_bytes


def _alike(r: Recommended) -> str:
    """Between those of as many parameters as the chosen one the metric decides nothing."""
    chosen = r.chosen
    alike = [
        o
        for o in tuned(r.enough)
        if chosen and o is not chosen and o.trainable_parameters == chosen.trainable_parameters
    ]
    if chosen is None or not alike:
        return ""
    names = formatting.first_names([o.label for o in alike], 3)
    why = (
        f"{chosen.label} takes the least memory of these"
        if all(_lighter(chosen, o) for o in alike)
        else f"no measurement prefers {chosen.label} to them"
    )
    return f" Also good enough with as many parameters: {names}; {why}."


def caption(choices: Sequence[Recommended], groups: Sequence[ChoiceGroup]) -> str:
    """Of the panel."""
    sentences = [
        "A point is a condition: its measured peak of training, and how much worse its mean is than the best; the bar"
        " ends at the one-sided 95 % bound. It is good enough where that bound lies within the tolerated loss, and so"
        " do those of the higher ranks of its family, up to the family's best. Of those that are good enough and fit,"
        " the one with the fewest trained parameters is chosen, then the one with the least memory: the first such row."
        " The grey line joins the Pareto front of those that fit. A card needs some memory beyond the peak, for its"
        " context and for fragmentation."
    ]
    if any(not o.repeated and o.bound is not None for r in choices for o in r.options):
        sentences.append("With one seed the bound covers only the items and shows nothing of other seeds.")
    if any(len(tuned(r.options)) < len(r.options) for r in choices):
        sentences.append(
            "Of conditions that differ in the learning rate or another setting that costs nothing, the one with the"
            " best mean is shown."
        )
    if any(o.peak_bytes is None for r in choices for o in r.options):
        sentences.append("Where no peak was measured there is no point.")
    if unable := sum(r.unable for r in choices):
        sentences.append(
            f"{formatting.plural(unable, 'condition')} {'has' if unable == 1 else 'have'} cells that did not finish and"
            f" {'is' if unable == 1 else 'are'} left out."
        )
    if left := sum(c.left_out for c in groups):
        sentences.append(
            f"{formatting.plural(left, 'more condition')} that would not be chosen at any memory and tolerated loss"
            f" {'is' if left == 1 else 'are'} not shown."
        )
    return " ".join(sentences)
