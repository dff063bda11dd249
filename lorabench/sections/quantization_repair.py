"""whether training undoes what quantization did to the base weights"""

from __future__ import annotations

from lorabench import formatting
from lorabench.analysis.quantization_repair import QuantizationRepair, compute_repair
from lorabench.report import quantization_repair_text as text
from lorabench.report.blocks import Grid, Section, Text
from lorabench.report.metric_text import plus_minus
from lorabench.report.view import View

ORDER = 78
TITLE = "Quantization repair"
_HEADS = ("condition", "‖E‖ / ‖W‖", "cosine with −E", "share of ‖E‖² repaired", "best share at this rank", "seeds")


def section(view: View) -> Section | None:
    """The answer in a sentence, what the columns mean, and a row for each quantized condition; None where none was
    measured."""
    rows = compute(view)
    if not rows:
        return None
    blocks = (Text(text.answer(rows)), Text(text.MEANING, "small"), Grid(_HEADS, tuple(_row(r) for r in rows)))
    return Section(TITLE, blocks)


def compute(view: View) -> tuple[QuantizationRepair, ...]:
    """One for each condition whose spectra carry a repair."""
    return compute_repair(view.analysis)


def _row(r: QuantizationRepair) -> tuple[str, ...]:
    error = formatting.DASH if r.error is None else formatting.percent(100 * r.error.mean)
    repaired = f"{formatting.number(r.repaired.mean, 'share')}{plus_minus(r.repaired.ci_half_width, 'share')} %"
    best = f"{formatting.number(r.best.mean, 'share')} %"
    return (r.label, error, text.signed(r.cosine.mean), repaired, best, str(r.cosine.n))
