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
class Problem:
    """Why a cell cannot run as declared, or what its user is to know, found before any cell runs."""

    cell: str
    field: str
    """dotted path of the setting at fault: method.rank"""
    message: str
    """one sentence without its place"""
    fatal: bool = True
    """whether the cell cannot run; else it is only to be told before the run"""
    about_cell: bool = False
    """whether the sentence lacks its subject, which is the cell: the runner, which has words for it, puts them before"""
