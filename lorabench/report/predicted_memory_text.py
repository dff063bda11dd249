"""What is said of predicted and measured peaks of memory."""

from __future__ import annotations

from collections.abc import Sequence

from lorabench import formatting
from lorabench.analysis.memory_prediction import PeakPair, peak_growth, prediction_errors
from lorabench.record.metrics import metric


def peak_words(pair: PeakPair) -> str:
    """ "LoRA r=4: predicted 3.50 MB (base weights 1.32 MB, activations 1.06 MB); measured 3.47 MB (error +1.0 %)" """
    parts = ", ".join(f"{metric(name).label} {formatting.size(n)}" for name, n in pair.parts.items() if n)
    measured = (
        "not measured"
        if pair.measured is None or pair.error is None
        else f"measured {formatting.size(pair.measured)} (error {error_words(pair.error)})"
    )
    return f"{pair.label}: predicted {formatting.size(pair.predicted)}{f' ({parts})' if parts else ''}; {measured}"


def growth(pairs: Sequence[PeakPair]) -> str:
    """Which part sets the condition of most memory apart from the one of least; empty where nothing does."""
    g = peak_growth(pairs)
    if g is None:
        return ""
    return (
        f"From {g.least.label} ({formatting.size(g.least.predicted)}, the least) to {g.most.label}"
        f" ({formatting.size(g.most.predicted)}, the most) the prediction grows by {formatting.size(g.total_bytes)};"
        " the"
        f" part that grows most is {metric(g.part).label}, by {formatting.size(g.part_bytes)}."
    )


def sentence(pairs: Sequence[PeakPair]) -> str:
    """The errors in words."""
    errors = prediction_errors(pairs)
    if errors is None:
        return "No condition has a measured peak to compare the prediction with."
    median, largest = formatting.percent(errors.median), formatting.percent(errors.largest)
    if errors.conditions == 1:
        return f"The prediction for {errors.worst} is off by {largest}; of no other condition was a peak measured."
    amounts = (
        f"{median} in the median and at most" if median == largest else f"{median} in the median, by {largest} at most"
    )
    return (
        f"Over {formatting.plural(errors.conditions, 'condition')} the prediction is off by {amounts} ({errors.worst})."
    )


def caption(pairs: Sequence[PeakPair], shown: int) -> str:
    """Of the figure, of whose bars `shown` are drawn."""
    behind = "The diamond is the measured peak, and the number after a bar is the prediction's error."
    if any(p.parts for p in pairs):
        words = (
            "Each bar is a predicted peak, stacked by what the bytes hold at the highest moment of the step"
            f" (gradients that do not exist yet are not counted). {behind} Look for the part that a rank, a"
            " quantization or a batch moves, and for diamonds off the end of their bar."
        )
    else:
        words = (
            f"Each bar is a predicted peak; its parts were not stored. {behind} Look for diamonds off the end of their"
            " bar."
        )
    if shown < len(pairs):
        words += (
            f" Of {len(pairs)} conditions {shown} are drawn: those with the least and the most memory of each family;"
            " the text below has all."
        )
    return words


NOTE = (
    "Peak of live tensors in training. The prediction comes from one step traced on shapes alone, before the cell"
    " ran, for its longest batch."
)


def error_words(error: float) -> str:
    """ "+0.04 %" """
    if abs(error) < 0.01:
        return formatting.percent(abs(error))
    return f"{'−' if error < 0 else '+'}{formatting.percent(abs(error))}"
