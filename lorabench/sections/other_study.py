"""the same conditions in another results directory (lorabench report DIR --compare OTHER)"""

from __future__ import annotations

import statistics

from lorabench import formatting
from lorabench.analysis.cross_study import Across, MatchedCondition, Side, across
from lorabench.record.metrics import metric
from lorabench.report import other_study_text as text
from lorabench.report.blocks import Block, Grid, Points, Section, Text
from lorabench.report.comparison_text import interval, signed
from lorabench.report.view import View

ORDER = 85
TITLE = "Beside another study"


def section(view: View) -> Section | None:
    """What differs between the studies, how their conditions compare, and what only one has; None without another
    study."""
    other = view.other
    if other is None:
        return None
    across = compute(view, other)
    blocks: list[Block] = [Text(text.summary(view, other, across))]
    if across.differ:
        blocks.append(Points(text.difference_words(across)))
    blocks += [Text(sentence) for sentence in text.warnings(view, other, across)]
    if across.matches:
        heads = (
            "condition",
            f"{metric(view.analysis.metric).label} here",
            "there",
            "here − there",
            "verdict",
            "train peak here / there",
            "tokens/s here / there",
        )
        blocks += [Grid(heads, tuple(_row(view, other, t) for t in across.matches)), Text(text.NOTE, "small")]
    for side, conditions in ((view, across.only_here), (other, across.only_there)):
        if conditions:
            blocks.append(Text(text.only_in(side, conditions), "small"))
    return Section(TITLE, tuple(blocks))


def compute(view: View, other: View) -> Across:
    """The studies matched in this study's metric."""
    return across(
        Side(view.analysis.groups, view.analysis.data, view.analysis.items),
        Side(other.analysis.groups, other.analysis.data, other.analysis.items),
        view.analysis.metric,
        view.analysis.study.comparison,
    )


def _row(view: View, other: View, pair: MatchedCondition) -> tuple[str, ...]:
    c = pair.comparison
    m = metric(view.analysis.metric)
    each = [side.analysis.pairing.seeds(m.name, i) for side, i in ((view, pair.here), (other, pair.there))]
    shared = [s for s in each[0] if s in each[1]]  # as the difference has them
    values = [
        (
            formatting.number(statistics.fmean(by_seed[s] for s in shared or by_seed), m.unit)
            if by_seed
            else formatting.DASH
        )
        for by_seed in each
    ]
    difference = formatting.DASH if c is None else "equal" if text.is_equal(c) else f"{signed(c)} ({interval(c)})"
    verdict = formatting.DASH if c is None else "equal" if text.is_equal(c) else c.verdict
    one_machine = {*view.analysis.machines.values()} == {*other.analysis.machines.values()}
    ratios = [
        _ratio(view.analysis.summary(pair.here).mean(name), other.analysis.summary(pair.there).mean(name))
        for name in ("train_peak_bytes", *(["tokens_per_second"] if one_machine else []))
    ] + ([] if one_machine else [formatting.DASH])
    return (view.analysis.label(pair.here), *values, difference, verdict, *ratios)


def _ratio(here: float | None, there: float | None) -> str:
    return formatting.DASH if not here or not there else f"{here / there:.3f}"
