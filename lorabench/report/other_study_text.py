"""What is said of a study beside another."""

from __future__ import annotations

from collections.abc import Sequence

from lorabench import formatting
from lorabench.analysis.cross_study import Across
from lorabench.analysis.verdict import VERDICTS, Comparison
from lorabench.report.view import View

_AT_MOST = 12  # names in a sentence


_COUNTED = {"equivalent": "within the margin", "non-inferior": "not worse by more than the margin"}


def warnings(view: View, other: View, across: Across) -> tuple[str, ...]:
    """Where names are equal and what they stand for is not: weights, data, machines, versions."""
    sentences = []
    if across.changed:
        sentences.append(
            f"Weights or data of {formatting.plural(len(across.changed), 'condition')} differ in their bytes there"
            " under the"
            " same names: differences may come from them."
        )
    here, there = (environments(side) for side in (view, other))
    differences = [
        f"{name} {', '.join(sorted(here.get(name, {formatting.DASH})))} here,"
        f" {', '.join(sorted(there.get(name, {formatting.DASH})))} there"
        for name in dict.fromkeys((*here, *there))
        if here.get(name) != there.get(name)
    ]
    if differences:
        sentences.append(f"The cells ran on different machines or versions: {'; '.join(differences)}.")
    return tuple(sentences)


def environments(view: View) -> dict[str, set[str]]:
    """By name (device, Python, packages) what the cells ran with."""
    values: dict[str, set[str]] = {}
    for e in (r.environment for r in view.analysis.results.values() if r.environment):
        for name, value in {"device": e.device, "Python": e.python, **e.packages}.items():
            if value:
                values.setdefault(name, set()).add(str(value))
    return values


def summary(view: View, other: View, across: Across) -> str:
    """How the matched conditions came out, in one sentence."""
    compared = [t.comparison for t in across.matches if t.comparison]
    if not across.matches:
        return f"No condition of this study has a match in {other.analysis.study.name} ({other.analysis.folder})."
    same = sum(is_equal(c) for c in compared)
    counts = [(sum(c.verdict == word for c in compared if not is_equal(c)), word) for word in VERDICTS]
    parts = [f"{same} equal to the last digit"] * bool(same) + [
        f"{n} {_COUNTED.get(word, word)}" for n, word in counts if n
    ]
    outcomes = f": {', '.join(parts)}" if parts else ""
    return (
        f"{formatting.plural(len(across.matches), 'condition')} of this study are in {other.analysis.study.name}"
        f" ({other.analysis.folder}) as well{outcomes}."
    )


def is_equal(c: Comparison) -> bool:
    """In every seed and item, not in the mean alone."""
    return c.difference == 0 and c.low is None


def difference_words(across: Across) -> tuple[str, ...]:
    """Each field in which the studies differ as wholes."""
    return tuple(f"{name}: {here} here, {there} there" for name, here, there in across.differ)


def only_in(view: View, conditions: Sequence[str]) -> str:
    """The conditions that one of the studies has alone."""
    labels = formatting.first_names([view.analysis.label(c) for c in conditions], _AT_MOST, "; ")
    return f"Only in {view.analysis.study.name}: {labels}."


NOTE = (
    "Means and differences are over the seeds that both have, verdicts corrected by Holm over these"
    " comparisons. Times are comparable only on equal machines."
)
