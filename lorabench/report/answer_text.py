"""What the first screen says: the decision, how sure it is, and a sentence for each comparison."""

from __future__ import annotations

from lorabench import formatting
from lorabench.analysis.decisions import Decision
from lorabench.analysis.difference import CONFIDENCE
from lorabench.analysis.verdict import LEVEL, Comparison, leader
from lorabench.record.metrics import metric
from lorabench.report import comparison_text
from lorabench.report.comparison_text import interval, margin, seeds, signed, size
from lorabench.report.view import View


def decision(view: View, d: Decision) -> str:
    """It in one sentence, with interval and seeds, and a second one where the reference is not whole."""
    unfinished = (
        f" {formatting.plural(d.broken, 'cell')} of {view.analysis.label(d.reference)} did not finish, and those that"
        " did may flatter it."
        if d.broken
        else ""
    )
    return _decided(view, d) + unfinished


def _decided(view: View, d: Decision) -> str:
    m = metric(d.chosen.metric)
    condition, reference, c = view.analysis.label(d.chosen.condition), view.analysis.label(d.reference), d.chosen
    saving = (
        f", with {formatting.number(d.memory, 'share')} % of its training memory"
        if d.memory is not None and d.cheapest
        else ""
    )
    level = d.noninferior if d.kind == "near" else d.better + d.equivalent
    among = (
        f" It {'takes the least memory' if d.cheapest else 'has the best mean'} of {level} that"
        f" {'are' if d.kind == 'near' else 'do as well or better'}."
        if level > 1
        else ""
    )
    if d.kind == "level" and c.verdict == "better":
        return (
            f"{condition} is better than {reference} by {size(c)} in {m.label}"
            f" ({interval(c, of_size=True)}){saving}.{among}"
        )
    if d.kind == "near":
        return (
            f"{condition} is not worse than {reference} by more than {margin(c)} ({comparison_text.bound(c)}){saving}:"
            f" {m.label} {signed(c)} ({interval(c)}); nothing more is shown about the two.{among}"
        )
    if d.kind == "level":
        doubt = " (a difference from zero is not decisive)" if not c.decisive else ""
        return (
            f"{condition} does as well as {reference}: {m.label} {signed(c)} ({interval(c)}), within the margin of"
            f" {margin(c)}{saving}{doubt}.{among}"
        )
    if d.kind == "behind":
        nearest = "" if d.compared == 1 else f"None of the {d.compared} conditions reaches {reference}: the nearest, "
        return (
            f"{nearest}{condition}{',' if nearest else ''} ends {size(c)}"
            f" worse{'' if nearest else f' than {reference}'} in"
            f" {m.label} ({interval(c, of_size=True)})."
        )
    if not c.repeated:
        return (
            f"Not decisive: {condition} ends {signed(c)} from {reference} in {m.label} ({interval(c)}), and one seed"
            " says nothing about the noise between seeds."
        )
    many = (
        f" once corrected for {d.family} comparisons"
        if d.family > 1 and c.p_value is not None and c.p_value < LEVEL
        else ""
    )
    ahead = (c.difference < 0) == (m.better == "lower")
    near = (
        ""
        if d.compared == 1
        else (
            f", the {'best' if ahead else 'nearest'} by the mean,"
            if d.undecided == d.compared
            else f", the best by the mean of {d.undecided} that are not decided,"
        )
    )
    return (
        f"Not decisive: the data do not distinguish {condition}{near} from {reference}{many} in {m.label}"
        f" ({signed(c)}, {interval(c)}), nor show it to be within {margin(c)}."
    )


def counts(view: View, decisions: tuple[Decision, ...]) -> tuple[str, ...]:
    """How all comparisons with each reference came out."""
    sentences = []
    for d in decisions:
        if d.compared > 1:
            parts = [
                f"{n} {word}"
                for n, word in (
                    (d.better, "better"),
                    (d.equivalent, "within the margin"),
                    (d.noninferior, "not worse by more than the margin"),
                    (d.worse, "worse"),
                    (d.undecided, "not decisive"),
                )
                if n
            ]
            sentences.append(
                f"Of {d.compared} conditions compared with {view.analysis.label(d.reference)}: {', '.join(parts)}."
            )
    return tuple(sentences)


def how_sure(view: View) -> str:
    """Replicates, intervals, corrections, and the findings that weaken them, in one paragraph."""
    numbers = sorted({s.outcomes.finished for s in view.analysis.summaries if s.seeds and s.outcomes.finished})
    comparisons = [c for c in view.analysis.comparisons if c.metric == view.analysis.metric]
    seeds = (
        ""
        if not numbers
        else formatting.plural(numbers[0], "seed")
        if len(numbers) == 1
        else f"{numbers[0]} to {numbers[-1]} seeds"
    )
    parts = [f"{seeds} per condition" if seeds else "nothing was trained, so there are no seeds"]
    if comparisons:
        bases = dict.fromkeys(c.basis for c in comparisons if c.basis)
        parts.append(
            f"{CONFIDENCE:.0%} intervals over {' or '.join(bases)}".replace("%", " %") if bases else "no interval"
        )
        if any("seeds" in b for b in bases):
            parts.append("all seeds share their training and test data, so that other data may give another answer")
        parts.append(
            f"{formatting.plural(len(comparisons), 'comparison')} corrected by Holm"
            if len(comparisons) > 1
            else "one comparison"
        )
        if comparisons[0].margin is not None:
            parts.append(f"a margin of {margin(comparisons[0])} counts as no difference")
        if any(c.verdict == "non-inferior" for c in comparisons):
            parts.append("the claim 'not worse by more than the margin' rests on a one-sided 95 % bound, taken alone")
    first = f"How sure: {'; '.join(parts)}."
    weak = [f.title[:1].lower() + f.title[1:] for f in view.findings if f.severity != "note"]
    return f"{first} What weakens it: {', '.join(weak)} (see below)." if weak else first


def sentence(view: View, c: Comparison) -> str:
    """ "LoRA r=16 ends 0.034 nats above full in held-out loss (95 % interval −0.010 to 0.078, 2 seeds): not
    decisive.\""""
    m = metric(c.metric)
    condition, reference = view.analysis.label(c.condition), view.analysis.label(c.reference)
    if c.difference == 0 and c.low is None:
        return f"{condition} equals {reference} in {m.label} ({seeds(c)})."
    where = "above" if c.difference > 0 else "below"
    verdict = comparison_text.verdict(c)
    if c.difference == 0:
        return f"{condition} has the same mean as {reference} in {m.label} ({interval(c)}): {verdict}."
    return f"{condition} ends {size(c)} {where} {reference} in {m.label} ({interval(c, of_size=True)}): {verdict}."


def best_sentence(view: View) -> str:
    """Where the base starts and which condition ends best, from the means."""
    m = metric(view.analysis.metric)
    unit = "%" if m.unit == "share" else formatting.head_unit(m.unit)
    if len(view.analysis.by_task()) > 1:  # what is lowest of two tasks says nothing
        return ""
    bases = [(v, s) for s in view.analysis.summaries if s.method == "base" and (v := s.mean(m.name)) is not None]
    sentences = []
    if len(bases) == 1:
        sentences.append(
            f"The untrained {bases[0][1].label.text} has {_article(m.label)} of"
            f" {formatting.number(bases[0][0], m.unit)} {unit}".rstrip()
            + "."
        )
    if (best := leader(view.analysis.summaries, m.name)) is not None:
        word = "lowest" if m.better == "lower" else "highest"
        sentences.append(
            f"The {word} mean {m.label} is {formatting.number(best.statistics[m.name].mean, m.unit)} {unit}".rstrip()
            + f", with {best.label.text} ({formatting.plural(best.outcomes.finished, 'seed')})."
        )
    return " ".join(sentences)


def _article(label: str) -> str:
    return f"{'an' if label[:1] in 'aeiou' else 'a'} {label}"


def why_no_decision(view: View) -> str:
    """Why no comparison decides the question."""
    if not view.analysis.references:
        where = "when importing (--reference)" if view.analysis.study.imported else "under `reference` in the study"
        return f"There is no reference condition to compare with; name one {where}."
    if any(c.metric == view.analysis.metric for c in view.analysis.comparisons):
        return (
            "In every condition that can be compared with its reference some cells did not finish, so nothing is"
            " decided from those that did; each comparison is shown below."
        )
    return "No condition shares a finished seed with its reference, so nothing can be compared yet."
