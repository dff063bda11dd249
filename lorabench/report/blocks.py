"""What a section is made of. Sections say what stands there; the page's template alone writes HTML, escaping all of it.

A name out of a study (a model called <script>) can therefore not become markup, whichever section shows it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from lorabench.report.table_model import Table

if TYPE_CHECKING:
    import plotly.graph_objects as go


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
    plot: go.Figure
    title: str
    caption: str
    alternative: tuple[str, ...]
    """the figure's numbers as sentences"""


@dataclass(frozen=True)
class PanelOption:
    """A row of a panel: one option, with its numbers for the rule and the same as texts."""

    label: str
    colour: str
    peak: int | None
    """bytes; absent where they were not measured: then it fits where there is no limit alone"""
    worse: float
    """than the best, in the metric's unit"""
    bound: float | None
    needed: float | None
    """the least tolerated loss at which it is good enough; absent where none is"""
    parameters: str
    memory: str
    value: str
    beside: str
    """ "0.013 [0.020]": worse, and its bound"""
    evidence: str
    """ "one-sided 95 % bound 0.020, 3 seeds"; empty for the best"""


@dataclass(frozen=True)
class ChoiceGroup:
    """Options that may be held against each other, in the order that the rule prefers them: of those that fit and are
    good enough the first is chosen."""

    name: str
    best: str
    rows: tuple[PanelOption, ...]
    left_out: int = 0
    """options that no memory and no tolerated loss would choose"""


@dataclass(frozen=True)
class Panel:
    """Controls for memory and tolerated loss, and the choice that follows, computed in the page; sentences beside it
    say the same without a script."""

    name: str
    """id in the page"""
    title: str
    caption: str
    metric: str
    unit: str
    """of what is shown: nats, points"""
    factor: float
    """shown number over the metric's own: 100 for shares"""
    tolerated: float
    """where it starts, in the metric's unit"""
    most: float
    """where the range of tolerated losses ends"""
    sizes: tuple[tuple[str, int], ...]
    """memory sizes at which the study's options part: name, bytes"""
    cards: tuple[tuple[str, int], ...]
    """known cards: name, usable bytes"""
    groups: tuple[ChoiceGroup, ...]

    @property
    def data(self) -> dict[str, object]:
        """What the script reads."""
        return asdict(self)


Block = Text | Points | Notice | Facts | Grid | Results | Code | Figure | Panel


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    blocks: tuple[Block, ...]
