"""the study's question, what the data decide, and how sure that is"""

from __future__ import annotations

from lorabench import formatting, plugins
from lorabench.analysis.decisions import Decision, compute_decisions
from lorabench.analysis.difference import CONFIDENCE
from lorabench.analysis.verdict import LEVEL, Comparison, leader
from lorabench.record.metrics import metric
from lorabench.report import comparison_text
from lorabench.report.blocks import Block, Points, Section, Text
from lorabench.report.comparison_text import interval, margin, seeds, signed, size
from lorabench.report.tables import accuracies
from lorabench.report.view import View

ORDER = 10
TITLE = "Answer"
_AT_MOST = 12  # sentences for each metric; the table has all
_HEADLINES = 6  # sentences of another section
_DECISIONS = 3  # sentences on the first screen; a study over many models has a reference for each


def section(view: View) -> Section | None:
    """Question, decision, how sure, and below a sentence for each comparison."""
    blocks: list[Block] = [Text(view.analysis.study.question, "question")] if view.analysis.study.question else []
    decisions = compute_decisions(view.analysis.summaries, view.analysis.comparisons, view.analysis.metric)
    blocks += [Text(verdict(view, d), "lead") for d in decisions[:_DECISIONS]]
    if len(decisions) > _DECISIONS:
        blocks.append(Text(f"{len(decisions) - _DECISIONS} more references are answered for below.", "small"))
    standing = best_sentence(view)
    if not decisions:
        blocks.append(
            Text(standing or "No cell has finished with a result to answer with.", "lead" if standing else "plain")
        )
        if standing:
            blocks.append(Text(_why_none(view)))
    if decisions or standing:
        blocks.append(Text(how_sure(view)))
    points = (*headlines(view), *counts(view, decisions), *others(view), standing if decisions else "")
    if any(points):
        blocks.append(Points(tuple(p for p in points if p)))
    for name in _told(view):
        found = [c for c in view.analysis.comparisons if c.metric == name]
        if found:
            more = [f"{len(found) - _AT_MOST} more stand in the table below."] if len(found) > _AT_MOST else []
            lines = (*(sentence(view, c) for c in found[:_AT_MOST]), *more)
            blocks.append(Points(lines, f"Every comparison in {metric(name).label}" if len(found) > 1 else ""))
    return Section(TITLE, tuple(blocks))


def _told(view: View) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(
            (view.analysis.metric, *accuracies(view)[:1], *(m for m in ("forgetting",) if m in view.analysis.metrics))
        )
    )


def others(view: View) -> tuple[str, ...]:
    """The decision in the metrics that the answer is not about, where there is one reference."""
    made = []
    for name in _told(view)[1:]:
        decisions = compute_decisions(view.analysis.summaries, view.analysis.comparisons, name)
        if len(decisions) == 1:
            made.append(f"By {metric(name).label}: {verdict(view, decisions[0])}")
    return tuple(made)


def headlines(view: View) -> tuple[str, ...]:
    """What other sections have to say on the first screen: those with a `headline`, some sentences of each."""
    modules = sorted(
        (plugins.load("sections", n) for n in plugins.names("sections")), key=lambda m: (m.ORDER, m.__name__)
    )
    said = (tuple(m.headline(view)) for m in modules if hasattr(m, "headline"))
    return tuple(
        s
        for each in said
        for s in (
            *each[:_HEADLINES],
            *((f"{len(each) - _HEADLINES} more of this kind stand below.",) if len(each) > _HEADLINES else ()),
        )
    )


def verdict(view: View, d: Decision) -> str:
    """The decision in one sentence, with interval and seeds, and a second one where the reference is not whole."""
    lost = (
        f" {formatting.plural(d.broken, 'cell')} of {view.analysis.label(d.reference)} did not finish, and those that"
        " did may flatter it."
        if d.broken
        else ""
    )
    return _verdict(view, d) + lost


def _verdict(view: View, d: Decision) -> str:
    m = metric(d.chosen.metric)
    ours, theirs, c = view.analysis.label(d.chosen.condition), view.analysis.label(d.reference), d.chosen
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
        return f"{ours} is better than {theirs} by {size(c)} in {m.label} ({interval(c, of_size=True)}){saving}.{among}"
    if d.kind == "near":
        return (
            f"{ours} is not worse than {theirs} by more than {margin(c)} ({comparison_text.bound(c)}){saving}:"
            f" {m.label} {signed(c)} ({interval(c)}); nothing more is shown of the two.{among}"
        )
    if d.kind == "level":
        told = " (a difference from zero is not decisive)" if not c.decisive else ""
        return (
            f"{ours} does as well as {theirs}: {m.label} {signed(c)} ({interval(c)}), within the margin of"
            f" {margin(c)}{saving}{told}.{among}"
        )
    if d.kind == "behind":
        nearest = "" if d.compared == 1 else f"None of the {d.compared} conditions reaches {theirs}: the nearest, "
        return (
            f"{nearest}{ours}{',' if nearest else ''} ends {size(c)} worse{'' if nearest else f' than {theirs}'} in"
            f" {m.label} ({interval(c, of_size=True)})."
        )
    if not c.repeated:
        return (
            f"Not decisive: {ours} ends {signed(c)} from {theirs} in {m.label} ({interval(c)}), and with one seed"
            " nobody knows how far a repetition would land."
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
        f"Not decisive: the data do not tell {ours}{near} from {theirs}{many} in {m.label} ({signed(c)},"
        f" {interval(c)}), nor put it within {margin(c)}."
    )


def counts(view: View, decisions: tuple[Decision, ...]) -> tuple[str, ...]:
    """How all comparisons with each reference came out."""
    made = []
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
            made.append(
                f"Of {d.compared} conditions compared with {view.analysis.label(d.reference)}: {', '.join(parts)}."
            )
    return tuple(made)


def how_sure(view: View) -> str:
    """Replicates, intervals, corrections, and the findings that weaken them, in one paragraph."""
    numbers = sorted({s.outcomes.finished for s in view.analysis.summaries if s.seeds and s.outcomes.finished})
    found = [c for c in view.analysis.comparisons if c.metric == view.analysis.metric]
    seeds = (
        ""
        if not numbers
        else formatting.plural(numbers[0], "seed")
        if len(numbers) == 1
        else f"{numbers[0]} to {numbers[-1]} seeds"
    )
    said = [f"{seeds} a condition" if seeds else "nothing was trained, so there are no seeds"]
    if found:
        bases = dict.fromkeys(c.basis for c in found if c.basis)
        said.append(
            f"{CONFIDENCE:.0%} intervals over {' or '.join(bases)}".replace("%", " %") if bases else "no interval"
        )
        if any("seeds" in b for b in bases):
            said.append("all seeds share their training and test data, so that other data may give another answer")
        said.append(
            f"{formatting.plural(len(found), 'comparison')} corrected by Holm" if len(found) > 1 else "one comparison"
        )
        if found[0].margin is not None:
            said.append(f"a margin of {margin(found[0])} counts as no difference")
        if any(c.verdict == "non-inferior" for c in found):
            said.append("not to be worse by more than it is claimed by a one-sided 95 % bound, taken alone")
    first = f"How sure: {'; '.join(said)}."
    weak = [f.title[:1].lower() + f.title[1:] for f in view.findings if f.severity != "note"]
    return f"{first} What weakens it: {', '.join(weak)} (see below)." if weak else first


def sentence(view: View, c: Comparison) -> str:
    """ "LoRA r=16 ends 0.034 nats above full in held-out loss (95 % interval −0.010 to 0.078, 2 seeds): not
    decisive.\""""
    m = metric(c.metric)
    ours, theirs = view.analysis.label(c.condition), view.analysis.label(c.reference)
    if c.difference == 0 and c.low is None:
        return f"{ours} equals {theirs} in {m.label} ({seeds(c)})."
    where = "above" if c.difference > 0 else "below"
    said = comparison_text.verdict(c)
    if c.difference == 0:
        return f"{ours} has the same mean as {theirs} in {m.label} ({interval(c)}): {said}."
    return f"{ours} ends {size(c)} {where} {theirs} in {m.label} ({interval(c, of_size=True)}): {said}."


def best_sentence(view: View) -> str:
    """Where the base starts and which condition ends best, from the means."""
    m = metric(view.analysis.metric)
    unit = "%" if m.unit == "share" else formatting.head_unit(m.unit)
    if len(view.analysis.by_task()) > 1:  # what is lowest of two tasks says nothing
        return ""
    bases = [(v, s) for s in view.analysis.summaries if s.method == "base" and (v := s.mean(m.name)) is not None]
    said = []
    if len(bases) == 1:
        said.append(
            f"The untrained {bases[0][1].label.text} has {_article(m.label)} of"
            f" {formatting.number(bases[0][0], m.unit)} {unit}".rstrip()
            + "."
        )
    if (best := leader(view.analysis.summaries, m.name)) is not None:
        word = "lowest" if m.better == "lower" else "highest"
        said.append(
            f"The {word} mean {m.label} is {formatting.number(best.statistics[m.name].mean, m.unit)} {unit}".rstrip()
            + f", with {best.label.text} ({formatting.plural(best.outcomes.finished, 'seed')})."
        )
    return " ".join(said)


def _article(label: str) -> str:
    return f"{'an' if label[:1] in 'aeiou' else 'a'} {label}"


def _why_none(view: View) -> str:
    if not view.analysis.references:
        return "There is no reference condition to compare with; name one under `reference` in the study."
    if any(c.metric == view.analysis.metric for c in view.analysis.comparisons):
        return (
            "Of every condition that can be compared with its reference some cells did not finish, so nothing is"
            " decided from those that did; each comparison stands below."
        )
    return "No condition shares a finished seed with its reference, so nothing can be compared yet."
