"""Whether the adapter repairs the quantization, in words."""

from __future__ import annotations

from lorabench import formatting
from lorabench.analysis.quantization_repair import QuantizationRepair


def answer(rows: tuple[QuantizationRepair, ...]) -> str:
    """ "Does the adapter repair the quantization? ...": nearer to W or further, and by how much where most, from the
    means."""
    nearer = [r for r in rows if r.repaired.mean > 0]
    top = max(rows, key=lambda r: r.repaired.mean)
    question, cosine = "Does the adapter repair the quantization?", f"cosine with −E {signed(top.cosine.mean)}"
    best, change = formatting.percent(100 * top.best.mean), formatting.percent(100 * abs(top.repaired.mean))
    number, nearness = (len(nearer), "nearer") if nearer else (len(rows), "no nearer")
    where = (
        f"In {number} of {formatting.plural(len(rows), 'condition')} the trained weights lie {nearness} to the"
        " unquantized"
        " ones than before training"
    )
    if not nearer:
        return (
            f"{question} No. {where}; with {top.label}, the nearest, the squared error grew by {change}, where a"
            " change of"
            f" its rank could take away {best} ({cosine})."
        )
    return (
        f"{question} {where}; most with {top.label}, which takes away {change} of the squared error, of {best} that a"
        f" change of its rank could ({cosine})."
    )


def signed(value: float) -> str:
    """A cosine; what rounds to nothing has no sign."""
    return formatting.number(value, "ratio") if abs(value) >= 0.001 else "0.000"


MEANING = (
    "E = W_q − W is what quantization did to the weights, ΔW what training added to them. A change that repairs"
    " points along −E: its cosine with −E is near 1 (0: it has nothing to do with it) and it takes away a share of"
    " ‖E‖²; a negative share means that W_q + ΔW lies further from W than W_q did. The best share is what the"
    " nearest change of the same rank to −E would take away. Means over modules and seeds; ± is the half-width of"
    " the mean's 95 % interval over seeds."
)
