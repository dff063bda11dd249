"""What a running cell tells its runner; plain values, sent as JSON lines between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

Phase = Literal["foresee", "load", "sample", "train", "prepare", "evaluate", "save", "decompose", "truncate", "measure"]


@dataclass(frozen=True)
class Event:
    """A phase began or went on, or an optimizer step ended."""

    cell: str
    phase: Phase
    step: int | None = None
    """optimizer steps taken, from 1"""
    steps: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    warning: str | None = None
    """what the user is to know before the cell runs, a sentence without its subject"""
    done: int | None = None
    """of a phase that is no training: rows evaluated, modules decomposed, tokens sampled, cuts evaluated"""
    total: int | None = None
    """of these; absent where it is not known"""
    ahead: Mapping[str, tuple[float, float]] | None = None
    """before the first step, of each phase that comes: what it should take in seconds, and in optimizer steps of this
    cell, which add up
    """
    note: str | None = None
    """what is no warning: resumed at step 400 of 4,000"""
    pack: tuple[str, ...] = ()
    """cells that train at once, this one first, told when they begin"""


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
    """whether the sentence lacks its subject, which is the cell: the runner, which has words for it, puts them before
    """


@dataclass(frozen=True)
class Foretold:
    """What is known of a study's memory before its first cell."""

    problems: tuple[Problem, ...] = ()
    """the cells that are predicted not to fit, largest need first"""
    at_once: int = 1
    """cells that the memory of this machine holds at the same time; 1 on a GPU, and where nothing can be predicted"""


_EVENT, _PROBLEMS = TypeAdapter(Event), TypeAdapter(tuple[Problem, ...])


def read_event(plain: object) -> Event:
    """An event from its plain values, as a worker sends them."""
    return _EVENT.validate_python(plain)


def read_problems(plain: object) -> tuple[Problem, ...]:
    """Problems from a list of their plain values."""
    return _PROBLEMS.validate_python(plain)
