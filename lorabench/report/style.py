"""Colour, dash and symbol of each condition: one colour to each family (all ranks of "LoRA nf4"), a dash to each rank.

Colours are Okabe and Ito's, which people with any of the common colour blindnesses tell apart; black and
yellow are left out, since one vanishes on a dark page and the other on a white one. Dash and symbol say
the same as the colour a second time, for print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorabench.analysis.aggregate import ConditionSummary

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8A8A8A",
)
_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, SKY)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down", "pentagon", "hexagram")
_FAMILY_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x")


@dataclass(frozen=True)
class Style:
    """How a condition is drawn everywhere."""

    colour: str
    dash: str
    symbol: str


def styles(summaries: Sequence[ConditionSummary]) -> dict[str, Style]:
    """Condition id to Style."""
    families = dict.fromkeys(s.label.family for s in summaries if s.method not in ("full", "base"))
    colours = {family: _COLOURS[i % len(_COLOURS)] for i, family in enumerate(families)}
    counts: dict[str, int] = {}
    by_condition = {}
    for summary in summaries:
        colour = {"full": PURPLE, "base": GREY}.get(summary.method) or colours[summary.label.family]
        i = counts.setdefault(colour, 0)
        counts[colour] += 1
        by_condition[summary.condition] = Style(colour, _DASHES[i % len(_DASHES)], _SYMBOLS[i % len(_SYMBOLS)])
    return by_condition


def family_style(colour: str, i: int) -> Style:
    """Of a curve that joins the ranks of the i-th family: solid, since dashes are for what has no rank."""
    return Style(colour, "solid", _FAMILY_SYMBOLS[i % len(_FAMILY_SYMBOLS)])


def palette(n: int) -> tuple[Style, ...]:
    """Styles for n lines that are no conditions."""
    return tuple(
        Style(_COLOURS[i % len(_COLOURS)], _DASHES[i // len(_COLOURS) % len(_DASHES)], _SYMBOLS[i % len(_SYMBOLS)])
        for i in range(n)
    )
