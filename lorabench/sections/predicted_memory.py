"""memory as it was predicted before each cell ran, beside what was measured"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from lorabench.report import human
from lorabench.report.blocks import Grid, Section, Text
from lorabench.report.tables import outcome_words
from lorabench.report.view import View

ORDER = 45
TITLE = "Memory, predicted and measured"


@dataclass(frozen=True)
class Pair:
    """A condition's training peak, predicted and measured."""

    label: str
    predicted: float
    measured: float | None
    outcome: str
    """what became of the cells that did not finish"""

    @property
    def error(self) -> float | None:
        """Percent of the measured value, positive where too much was predicted."""
        return None if self.measured is None else 100 * (self.predicted / self.measured - 1)


def section(view: View) -> Section | None:
    """A row per condition; None where nothing was predicted."""
    pairs = decide(view)
    if not pairs:
        return None
    rows = tuple(
        (p.label, human.size(p.predicted), human.DASH if p.measured is None else human.size(p.measured), p.outcome if p.error is None else error_words(p.error))
        for p in pairs
    )
    told = "Peak of live tensors in training. The prediction comes from one step traced on shapes alone, before the cell ran, for its longest batch."
    return Section(TITLE, (Text(sentence(pairs)), Grid(("condition", "predicted", "measured", "error"), rows), Text(told, "small")))


def decide(view: View) -> tuple[Pair, ...]:
    """The conditions with a prediction, in the study's order."""
    found = []
    for s in view.summaries:
        results = view.of_condition(s.condition)
        predicted = [v for r in results if (v := r.value("predicted_train_peak_bytes")) is not None]
        if predicted:
            found.append(Pair(s.label.text, statistics.fmean(predicted), s.mean("train_peak_bytes"), outcome_words(s, results)))
    return tuple(found)


def sentence(pairs: tuple[Pair, ...]) -> str:
    """The errors in words."""
    errors = {p.label: abs(p.error) for p in pairs if p.error is not None}
    if not errors:
        return "No condition has a measured peak to compare the prediction with."
    worst = max(errors, key=lambda name: errors[name])
    middle = human.percent(statistics.median(errors.values()))
    conditions = human.plural(len(errors), "condition")
    return f"Over {conditions} the prediction is off by {middle} in the median, by {human.percent(errors[worst])} at most ({worst})."


def error_words(error: float) -> str:
    """ "+0.04 %" """
    if abs(error) < 0.01:
        return human.percent(abs(error))
    return f"{'−' if error < 0 else '+'}{human.percent(abs(error))}"
