"""the same conditions in another results directory (lorabench report DIR --compare OTHER)"""

from __future__ import annotations

from lorabench.analysis.across import Across, Side, Twin, across
from lorabench.record.metrics import metric
from lorabench.report import human
from lorabench.report.blocks import Block, Grid, Points, Section, Text
from lorabench.report.view import View
from lorabench.report.words import interval, signed

ORDER = 85
TITLE = "Beside another study"
_AT_MOST = 12  # names in a sentence


def section(view: View) -> Section | None:
    """What differs between the studies, how their conditions compare, and what only one has; None without another study."""
    other = view.other
    if other is None:
        return None
    found = decide(view, other)
    blocks: list[Block] = [Text(summary(view, other, found))]
    if found.differ:
        blocks.append(Points(tuple(f"{name}: {ours} here, {theirs} there" for name, ours, theirs in found.differ)))
    if found.twins:
        m = metric(view.metric)
        blocks.append(Grid(("condition", f"{m.label} here", "there", "here − there", "verdict", "train peak here / there", "tokens/s here / there"), tuple(_row(view, other, t) for t in found.twins)))
        blocks.append(Text("Differences are paired by seed, verdicts corrected by Holm over these comparisons. Times are comparable only on equal machines.", "small"))
    for names, where in ((found.only_here, f"only in {view.study.name}"), (found.only_there, f"only in {other.study.name}")):
        if names:
            side = view if names is found.only_here else other
            more = f" and {len(names) - _AT_MOST} more" if len(names) > _AT_MOST else ""
            blocks.append(Text(f"{where[:1].upper()}{where[1:]}: {'; '.join(side.label(c) for c in names[:_AT_MOST])}{more}.", "small"))
    return Section(TITLE, tuple(blocks))


def decide(view: View, other: View) -> Across:
    """The studies matched in this study's metric."""
    return across(Side(view.groups, view.data, view.items), Side(other.groups, other.data, other.items), view.metric, view.study.comparison)


def summary(view: View, other: View, found: Across) -> str:
    """How the twins came out, in one sentence."""
    compared = [t.comparison for t in found.twins if t.comparison]
    if not found.twins:
        return f"No condition of this study has its like in {other.study.name} ({other.folder})."
    same = sum(c.difference == 0 for c in compared)
    counts = [(sum(c.verdict == word for c in compared if c.difference), word) for word in ("better", "worse", "equivalent", "not decisive")]
    parts = [f"{same} equal to the last digit"] * bool(same) + [f"{n} {'within the margin' if word == 'equivalent' else word}" for n, word in counts if n]
    told = f": {', '.join(parts)}" if parts else ""
    return f"{human.plural(len(found.twins), 'condition')} of this study stand in {other.study.name} ({other.folder}) as well{told}."


def _row(view: View, other: View, twin: Twin) -> tuple[str, ...]:
    c = twin.comparison
    m = metric(view.metric)
    values = [human.DASH if (v := side.summary(i).mean(m.name)) is None else human.number(v, m.unit) for side, i in ((view, twin.here), (other, twin.there))]
    said = human.DASH if c is None else "equal" if c.difference == 0 else f"{signed(c)} ({interval(c)})"
    verdict = human.DASH if c is None else "equal" if c.difference == 0 else c.verdict
    ratios = [_ratio(view.summary(twin.here).mean(name), other.summary(twin.there).mean(name)) for name in ("train_peak_bytes", "tokens_per_second")]
    return (view.label(twin.here), *values, said, verdict, *ratios)


def _ratio(ours: float | None, theirs: float | None) -> str:
    return human.DASH if not ours or not theirs else f"{ours / theirs:.3f}"
