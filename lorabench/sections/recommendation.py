"""which of the study's own conditions to take, at its margin and at any other, and whether what was learned says the
same"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from lorabench import formatting
from lorabench.advice.selection import Option, best_option, comparison_groups, enough, select, trained_options, tuned
from lorabench.advice.spectral_check import spectral_check
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.verdict import margin_of
from lorabench.config.fingerprint import flattened
from lorabench.config.gpus import gpus
from lorabench.config.paths import short_model
from lorabench.record.metrics import Metric, metric
from lorabench.report.blocks import Block, ChoiceGroup, Panel, PanelOption, Points, Section, Text
from lorabench.report.recommendation_text import Recommended, bound_words, nearest, sentence
from lorabench.report.view import View

ORDER = 12
TITLE = "Recommendation"
MOST_ROWS = 200  # of a panel's table
_AT_MOST = 12  # sentences; the panel has all
_SIZES = 8  # memory sizes of the study itself
_FARTHEST = 100  # margins: where the range of tolerated losses ends at the latest


def section(view: View) -> Section | None:
    """A sentence and its second witness for each contest, and a panel for other memories and margins; no headline,
    since it stands next to the answer."""
    found = compute(view)
    if not found:
        return None
    m = metric(view.analysis.metric)
    said = [sentence(r, m) for r in found]
    heard = [r.spectral_check.sentence for r in found if r.spectral_check]
    if len(found) == 1:
        return Section(
            TITLE,
            (
                Text(said[0], "lead"),
                *(Text(f"Second witness, the spectra. {text}") for text in heard),
                panel(view, found),
            ),
        )
    more = [f"{len(said) - _AT_MOST} more can be chosen in the panel below."] if len(said) > _AT_MOST else []
    blocks: list[Block] = [
        Points((*(f"{r.name}: {text}" for r, text in zip(found[:_AT_MOST], said, strict=False)), *more))
    ]
    if heard:
        leans = [r.spectral_check.lean for r in found if r.spectral_check]
        agree, silent = leans.count("agrees"), leans.count("open")
        blocks.append(
            Points(
                tuple(f"{r.name}: {r.spectral_check.sentence}" for r in found if r.spectral_check),
                f"Second witness, the spectra: agrees with {agree} of {formatting.plural(len(leans), 'choice')},"
                f" disagrees with {len(leans) - agree - silent}",
            )
        )
    return Section(TITLE, (*blocks, panel(view, found)))


def compute(view: View) -> tuple[Recommended, ...]:
    """One for each contest of two options or more."""
    margin = margin_of(view.analysis.metric, view.analysis.study.comparison)
    made = []
    held = comparison_groups(view.analysis.groups)
    for name, groups in zip(_names(held), held, strict=True):
        given = trained_options(groups, view.analysis.summaries, view.analysis.verdicts, view.analysis.metric)
        given = _short(given) if name else given
        if len(given) < 2:
            continue
        best = best_option(given)
        taken = select(given, margin or 0.0)
        told = nearest(given, best) if taken is None or taken is best else taken
        d = None if told is None else view.analysis.verdicts.of(view.analysis.metric, told.condition, best.condition)
        seen = (
            None
            if taken is None
            else spectral_check(
                taken, given, view.analysis.of_condition, view.analysis.file, view.analysis.metric, margin
            )
        )
        made.append(
            Recommended(
                name, given, sum(g.trains for g in groups) - len(given), best, taken, margin, d.pairs if d else 0, seen
            )
        )
    return tuple(made)


def panel(view: View, found: Sequence[Recommended]) -> Panel:
    """The same for any memory and any tolerated loss; the page computes it."""
    m = metric(view.analysis.metric)
    margin = found[0].margin or 0.0
    made = [_contest(view, r, m) for r in found]
    able = [c for contest in made for c in choosable(contest.rows)]
    spread = (
        max((c.needed for c in able if c.needed is not None), default=0.0)
        or max((c.worse for contest in made for c in contest.rows), default=0.0)
        or 1.0
    )
    most = max(2 * margin, min(1.1 * spread, _FARTHEST * margin if margin else math.inf))
    cards = tuple((f"{g.name} ({formatting.size(g.memory_bytes)})", g.memory_bytes) for g in gpus().values())
    unit, factor = formatting.head_unit(m.unit, signed=True), 100.0 if m.unit == "share" else 1.0
    return Panel(
        "choice",
        "Choice by memory and tolerated loss",
        _caption(found, made),
        m.label,
        unit,
        factor,
        margin,
        most,
        _sizes(able),
        cards,
        tuple(made),
    )


def _contest(view: View, r: Recommended, m: Metric) -> ChoiceGroup:
    """The rows in the order of advice.selection.select; those that it may choose, and of the others the best, are
    kept."""
    rows = {
        o.condition: _row(view, r, o, m)
        for o in sorted(tuned(r.options), key=lambda o: (o.trainable_parameters, o.peak_bytes or 0, o.condition))
    }
    able = {id(c) for c in choosable(tuple(rows.values()))}
    first = sorted(rows, key=lambda c: (id(rows[c]) not in able, rows[c].worse))[: max(MOST_ROWS, len(able))]
    kept = set(first)
    return ChoiceGroup(r.name, r.best.label, tuple(row for c, row in rows.items() if c in kept), len(rows) - len(kept))


def choosable(rows: Sequence[PanelOption]) -> tuple[PanelOption, ...]:
    """The rows that some memory and some tolerated loss would choose: none before takes no more memory and is good
    enough as soon."""
    made: list[PanelOption] = []
    for c in rows:
        peak = math.inf if c.peak is None else c.peak
        if c.needed is not None and not any(
            (math.inf if p.peak is None else p.peak) <= peak and (p.needed or 0.0) <= c.needed for p in made
        ):
            made.append(c)
    return tuple(made)


def _row(view: View, r: Recommended, o: Option, m: Metric) -> PanelOption:
    beside = formatting.difference(o.worse, m.unit) + (
        f" [{formatting.number(o.bound, m.unit)}]" if o.bound is not None and o is not r.best else ""
    )
    d = None if o is r.best else view.analysis.verdicts.of(view.analysis.metric, o.condition, r.best.condition)
    return PanelOption(
        o.label,
        view.styles[o.condition].colour,
        o.peak_bytes,
        o.worse,
        o.bound,
        needed(o, r.options),
        formatting.count(o.trainable_parameters),
        formatting.DASH if o.peak_bytes is None else formatting.size(o.peak_bytes),
        formatting.number(o.mean, m.unit),
        beside,
        bound_words(o, d.pairs, m) if d else "",
    )


def needed(o: Option, given: Sequence[Option]) -> float | None:
    """The least tolerated loss at which an option is good enough: a bound of its family, found by asking for each."""
    mates = [p for p in given if p.family == o.family] if o.family >= 0 else [o]
    bounds = sorted({p.bound for p in mates if p.bound is not None and p.repeated})
    at = bisect_left(bounds, True, key=lambda b: enough(o, mates, b))
    return bounds[at] if at < len(bounds) else None


def _sizes(able: Sequence[PanelOption]) -> tuple[tuple[str, int], ...]:
    """What the choosable options take, rounded up to three digits so that each fits into its size."""
    found = sorted({_up(c.peak) for c in able if c.peak})
    kept = found if len(found) <= _SIZES else [found[round(i * (len(found) - 1) / (_SIZES - 1))] for i in range(_SIZES)]
    return tuple((formatting.size(b), b) for b in kept)


def _up(value: int) -> int:
    one = int(10 ** max(0, len(str(value)) - 3))
    return -(-value // one) * one


def _caption(found: Sequence[Recommended], made: Sequence[ChoiceGroup]) -> str:
    said = [
        "A point is a condition: its measured peak of training, and how much worse its mean is than the best; the bar"
        " ends at the one-sided 95 % bound. It is good enough where that bound lies within the tolerated loss, and so"
        " do those of the higher ranks of its family, up to the family's best. Of those that are good enough and fit,"
        " the one of the fewest trained parameters is chosen, then the one of the least memory: the first such row. The"
        " grey line joins the Pareto front of those that fit. A card needs some room beside the peak, for its context"
        " and for fragmentation."
    ]
    if any(not o.repeated and o.bound is not None for r in found for o in r.options):
        said.append("With one seed the bound speaks for the items alone, and nothing is shown by it.")
    if any(len(tuned(r.options)) < len(r.options) for r in found):
        said.append(
            "Of conditions that differ in the learning rate or another setting that costs nothing, the one of the best"
            " mean is shown."
        )
    if any(o.peak_bytes is None for r in found for o in r.options):
        said.append("Where no peak was measured there is no point.")
    if unable := sum(r.unable for r in found):
        said.append(
            f"{formatting.plural(unable, 'condition')} {'has' if unable == 1 else 'have'} not finished whole and"
            f" {'is' if unable == 1 else 'are'} left out."
        )
    if left := sum(c.left_out for c in made):
        said.append(
            f"{formatting.plural(left, 'more condition')} that would not be chosen at any memory and tolerated loss"
            f" {'is' if left == 1 else 'are'} not shown."
        )
    return " ".join(said)


def _names(held: Sequence[Sequence[Replicates]]) -> tuple[str, ...]:
    """By what tells contests apart: the model, the task, its options; by a number where that is not enough. Empty for a
    single one."""
    if len(held) == 1:
        return ("",)
    flat = [
        flattened({"model": short_model(g[0].declared["model"]["name"]), "task": g[0].declared["task"]}) for g in held
    ]
    told = [f for f in dict.fromkeys(f for each in flat for f in each) if len({str(each.get(f)) for each in flat}) > 1]
    options_differ = any(f.startswith("task.") for f in told)
    made = []
    for each in flat:
        head = [str(each[f]) for f in ("model", "task.name") if f in told or (f == "task.name" and options_differ)]
        made.append(
            ", ".join(
                head
                + [
                    f"{f.removeprefix('task.')}={_listed(each[f])}"
                    for f in told
                    if f.startswith("task.") and f != "task.name" and each.get(f) is not None
                ]
            )
        )
    return tuple(
        name if made.count(name) == 1 and name else f"{name or 'contest'} ({i + 1})" for i, name in enumerate(made)
    )


def _listed(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(given: Sequence[Option]) -> tuple[Option, ...]:
    """Labels without what all of a contest have in common: its name says it."""
    pieces = [o.label.split(", ") for o in given]
    common = set.intersection(*(set(p[1:]) for p in pieces)) if pieces else set()
    return tuple(
        replace(o, label=", ".join(part for i, part in enumerate(p) if i == 0 or part not in common))
        for o, p in zip(given, pieces, strict=True)
    )
