"""What a section is made of. Sections say what stands there; the page's template alone writes HTML, escaping all of it.

A name out of a study (a model called <script>) can therefore not become markup, whichever section shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lorabench.report.layout import Table


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    tone: Literal["plain", "question", "lead", "small"] = "plain"
    """lead: what the data decide"""


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    items: tuple[str, ...]
    title: str = ""
    """folded below this title where there is one"""


@dataclass(frozen=True)
class Notice:
    """Something to know before believing the numbers."""

    title: str
    text: str
    about: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Grid:
    """A plain table of texts."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    code: bool = False
    """the last column holds ids"""


@dataclass(frozen=True)
class Results:
    """The results table."""

    table: Table


@dataclass(frozen=True)
class Code:
    """Text as it stands in a file."""

    text: str
    title: str = ""
    """folded below this title where there is one"""


@dataclass(frozen=True)
class Figure:
    """A plotly figure with what the reader should look at, and the same in words."""

    name: str
    """id in the page"""
    plot: Any
    """plotly.graph_objects.Figure"""
    title: str
    caption: str
    alternative: tuple[str, ...]
    """the figure's numbers as sentences"""


Block = Text | Points | Notice | Facts | Grid | Results | Code | Figure


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    blocks: tuple[Block, ...]
