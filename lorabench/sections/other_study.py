"""the same conditions in another results directory (lorabench report DIR --compare OTHER)"""

from __future__ import annotations

import statistics

from lorabench import formatting
from lorabench.analysis.cross_study import Across, Side, Twin, across
from lorabench.analysis.verdict import VERDICTS, Comparison
from lorabench.record.metrics import metric
from lorabench.report.blocks import Block, Grid, Points, Section, Text
from lorabench.report.comparison_text import interval, signed
from lorabench.report.view import View

ORDER = 85
TITLE = "Beside another study"
_AT_MOST = 12  # names in a sentence
_COUNTED = {"equivalent": "within the margin", "non-inferior": "not worse by more than the margin"}


def section(view: View) -> Section | None:
    """What differs between the studies, how their conditions compare, and what only one has; None without another
    study."""
    other = view.other
    if other is None:
        return None
    found = compute(view, other)
    blocks: list[Block] = [Text(summary(view, other, found))]
    if found.differ:
        blocks.append(Points(tuple(f"{name}: {ours} here, {theirs} there" for name, ours, theirs in found.differ)))
    blocks += [Text(sentence) for sentence in warnings(view, other, found)]
    if found.twins:
        m = metric(view.analysis.metric)
        blocks.append(
            Grid(
                (
                    "condition",
                    f"{m.label} here",
                    "there",
                    "here − there",
                    "verdict",
                    "train peak here / there",
                    "tokens/s here / there",
                ),
                tuple(_row(view, other, t) for t in found.twins),
            )
        )
        blocks.append(
            Text(
                "Means and differences are over the seeds that both have, verdicts corrected by Holm over these"
                " comparisons. Times are comparable only on equal machines.",
                "small",
            )
        )
    for names, where in (
        (found.only_here, f"only in {view.analysis.study.name}"),
        (found.only_there, f"only in {other.analysis.study.name}"),
    ):
        if names:
            side = view if names is found.only_here else other
            more = f" and {len(names) - _AT_MOST} more" if len(names) > _AT_MOST else ""
            blocks.append(
                Text(
                    f"{where[:1].upper()}{where[1:]}:"
                    f" {'; '.join(side.analysis.label(c) for c in names[:_AT_MOST])}{more}.",
                    "small",
                )
            )
    return Section(TITLE, tuple(blocks))


def compute(view: View, other: View) -> Across:
    """The studies matched in this study's metric."""
    return across(
        Side(view.analysis.groups, view.analysis.data, view.analysis.items),
        Side(other.analysis.groups, other.analysis.data, other.analysis.items),
        view.analysis.metric,
        view.analysis.study.comparison,
    )


def warnings(view: View, other: View, found: Across) -> tuple[str, ...]:
    """Where names are equal and what they stand for is not: weights, data, machines, versions."""
    said = []
    if found.changed:
        said.append(
            f"Weights or data of {formatting.plural(len(found.changed), 'condition')} have other bytes there under the"
            " same names: differences may come from them."
        )
    ours, theirs = (_environments(side) for side in (view, other))
    apart = [
        f"{name} {', '.join(sorted(ours.get(name, {formatting.DASH})))} here,"
        f" {', '.join(sorted(theirs.get(name, {formatting.DASH})))} there"
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name) != theirs.get(name)
    ]
    if apart:
        said.append(f"The cells ran on different machines or versions: {'; '.join(apart)}.")
    return tuple(said)


def _environments(view: View) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for e in (r.environment for r in view.analysis.results.values() if r.environment):
        for name, value in {"device": e.device, "Python": e.python, **e.packages}.items():
            if value:
                found.setdefault(name, set()).add(str(value))
    return found


def summary(view: View, other: View, found: Across) -> str:
    """How the matched conditions came out, in one sentence."""
    compared = [t.comparison for t in found.twins if t.comparison]
    if not found.twins:
        return f"No condition of this study has its like in {other.analysis.study.name} ({other.analysis.folder})."
    same = sum(_equal(c) for c in compared)
    counts = [(sum(c.verdict == word for c in compared if not _equal(c)), word) for word in VERDICTS]
    parts = [f"{same} equal to the last digit"] * bool(same) + [
        f"{n} {_COUNTED.get(word, word)}" for n, word in counts if n
    ]
    told = f": {', '.join(parts)}" if parts else ""
    return (
        f"{formatting.plural(len(found.twins), 'condition')} of this study stand in {other.analysis.study.name}"
        f" ({other.analysis.folder}) as well{told}."
    )


def _row(view: View, other: View, pair: Twin) -> tuple[str, ...]:
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
    said = formatting.DASH if c is None else "equal" if _equal(c) else f"{signed(c)} ({interval(c)})"
    verdict = formatting.DASH if c is None else "equal" if _equal(c) else c.verdict
    ratios = [
        _ratio(view.analysis.summary(pair.here).mean(name), other.analysis.summary(pair.there).mean(name))
        for name in ("train_peak_bytes", "tokens_per_second")
    ]
    return (view.analysis.label(pair.here), *values, said, verdict, *ratios)


def _equal(c: Comparison) -> bool:
    """In every seed and item, not in the mean alone."""
    return c.difference == 0 and c.low is None


def _ratio(ours: float | None, theirs: float | None) -> str:
    return formatting.DASH if not ours or not theirs else f"{ours / theirs:.3f}"
