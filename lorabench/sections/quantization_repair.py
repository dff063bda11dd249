"""whether training undoes what quantisation did to the base weights"""

from __future__ import annotations

from dataclasses import dataclass

from lorabench import formatting
from lorabench.analysis.aggregate import Statistic
from lorabench.analysis.spectra import measured
from lorabench.record.spectrum import Spectrum
from lorabench.report import spectra
from lorabench.report.blocks import Grid, Section, Text
from lorabench.report.view import View

ORDER = 78
TITLE = "Quantisation repair"


def section(view: View) -> Section | None:
    """The answer in a sentence, what the columns mean, and a row for each quantised condition; None where none was
    measured."""
    found = compute(view)
    if not found:
        return None
    text = (
        "E = W_q − W is what quantisation did to the weights, ΔW what training added to them. A change that repairs"
        " points along −E: its cosine with −E is near 1 (0: it has nothing to do with it) and it takes away a share of"
        " ‖E‖²; a negative share means that W_q + ΔW lies further from W than W_q did. The best share is what the"
        " nearest change of the same rank to −E would take away. Means over modules and seeds; ± is the half-width of"
        " the mean's 95 % interval over seeds."
    )
    heads = ("condition", "‖E‖ / ‖W‖", "cosine with −E", "share of ‖E‖² repaired", "best share at this rank", "seeds")
    return Section(TITLE, (Text(answer(found)), Text(text, "small"), Grid(heads, tuple(_row(r) for r in found))))


@dataclass(frozen=True)
class Repaired:
    """What the changes of a quantised condition do to its error, averaged over modules, then over seeds."""

    label: str
    error: Statistic | None
    """||E|| / ||W||; None where ||W|| was not measured"""
    cosine: Statistic
    repaired: Statistic
    best: Statistic


def compute(view: View) -> tuple[Repaired, ...]:
    """One for each condition whose spectra carry a repair."""
    made = []
    for s in view.analysis.summaries:
        cells = spectra.spectra(view, s.condition)
        cosine = measured(cells, lambda x: x.repair.cosine if x.repair else None)
        repaired = measured(cells, lambda x: x.repair.repaired_share if x.repair else None)
        best = measured(cells, lambda x: x.repair.best_share if x.repair else None)
        if cosine is not None and repaired is not None and best is not None:
            made.append(Repaired(s.label.text, measured(cells, _relative_error), cosine, repaired, best))
    return tuple(made)


def _relative_error(spectrum: Spectrum) -> float | None:
    if spectrum.repair is None or spectrum.alignment is None or not spectrum.alignment.base_norm:
        return None
    return spectrum.repair.error_norm / spectrum.alignment.base_norm


def answer(found: tuple[Repaired, ...]) -> str:
    """ "Does the adapter repair the quantisation? ...": nearer to W or further, and by how much where most, from the
    means."""
    nearer = [r for r in found if r.repaired.mean > 0]
    top = max(found, key=lambda r: r.repaired.mean)
    asked, cosine = "Does the adapter repair the quantisation?", f"cosine with −E {_signed(top.cosine.mean)}"
    best, change = formatting.percent(100 * top.best.mean), formatting.percent(100 * abs(top.repaired.mean))
    number, how = (len(nearer), "nearer") if nearer else (len(found), "no nearer")
    where = (
        f"In {number} of {formatting.plural(len(found), 'condition')} the trained weights lie {how} to the unquantised"
        " ones than before training"
    )
    if not nearer:
        return (
            f"{asked} No. {where}; with {top.label}, the nearest, the squared error grew by {change}, where a change of"
            f" its rank could take away {best} ({cosine})."
        )
    return (
        f"{asked} {where}; most with {top.label}, which takes away {change} of the squared error, of {best} that a"
        f" change of its rank could ({cosine})."
    )


def _row(r: Repaired) -> tuple[str, ...]:
    error = formatting.DASH if r.error is None else formatting.percent(100 * r.error.mean)
    repaired = f"{formatting.number(r.repaired.mean, 'share')}{_spread(r.repaired)} %"
    return (
        r.label,
        error,
        f"{_signed(r.cosine.mean)}",
        repaired,
        f"{formatting.number(r.best.mean, 'share')} %",
        str(r.cosine.n),
    )


def _spread(statistic: Statistic) -> str:
    return "" if statistic.ci_half_width is None else f" ± {formatting.number(statistic.ci_half_width, 'share')}"


def _signed(value: float) -> str:
    return formatting.number(value, "ratio") if abs(value) >= 0.001 else "0.000"
