"""What is said of how fast singular values fall."""

from __future__ import annotations

from collections.abc import Collection

from lorabench import formatting
from lorabench.report.drawing import Line

CAPTION = (
    "Singular values of the learned change of each weight matrix, divided by the largest, averaged over matrices"
    " and seeds. A steep fall means that a smaller rank would have held most of it; a curve that ends high is cut"
    " off by its rank."
)


def left_out(requested: Collection[str]) -> str:
    """What is missing here and in the sections after it because the study asked for less than everything
    (`requested`: the values of analysis.spectra); empty where it asked for all."""
    some = "of some conditions " if len(requested) > 1 else ""
    if "none" in requested:
        return (
            f"What was learned was not decomposed {some}(analysis.spectra: none): there are no singular values, ranks"
            " in use, similarities or measures beside the base. Saved adapters still have them: lorabench spectrum"
            " CELL."
        )
    if "values" in requested:
        return (
            f"Singular values alone were kept {some}(analysis.spectra: values): there are no directions to compare"
            " between seeds and ranks, and no measures beside the base."
        )
    return ""


def decay_words(line: Line) -> str:
    """ "LoRA r=4: 4 values, the last 0.2 of the first" """
    return f"{line.label}: {formatting.plural(len(line.x), 'value')}, the last {line.y[-1]:.2g} of the first"


def types_caption(label: str, *, several: bool) -> str:
    """Of the figure by type of module, which opens with the condition of that label."""
    choice = " (choose another above it)" if several else ""
    return (
        "The same for each type of module, averaged over layers and seeds: the figure opens with"
        f" {label}{choice}. Look for a type whose curve stays high longest: it is the one that asks for rank."
    )


def type_words(line: Line, label: str) -> str:
    """From which index on a type's singular values are at most half of the first."""
    index = next((int(x) for x, y in zip(line.x, line.y, strict=True) if y <= 0.5), None)
    if index is None:
        return f"{line.label} of {label}: the last value is still {line.y[-1]:.2g} of the first"
    return f"{line.label} of {label}: half of the first value from index {index} on"
