"""What a running cell tells its runner; plain values, sent as JSON lines between processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["foresee", "load", "train", "evaluate", "decompose", "truncate"]


@dataclass(frozen=True)
class Event:
    """A phase began, or an optimizer step ended."""

    cell: str
    phase: Phase
    step: int | None = None
    """optimizer steps taken, from 1"""
    steps: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    warning: str | None = None
    """what the user is to know before the cell runs, a sentence without its subject"""


@dataclass(frozen=True)
class Notice:
    """What is to be known of a cell before any runs, and keeps none from running."""

    cell: str
    text: str
    """one line"""


@dataclass(frozen=True)
class Problem:
    """Why a cell cannot run as declared, found before any cell runs."""

    cell: str
    field: str
    """dotted path of the setting at fault: method.rank"""
    message: str
    """one sentence without its place"""
