"""Cells grouped into conditions, in the study's order: the rows that everything above speaks of.

A cell's id is a hash over its whole setting (~100 microseconds), so ids are taken once, here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from lorabench.config.imported import declared
from lorabench.config.study import Cell


@dataclass(frozen=True)
class Replicates:
    """The cells that share a condition."""

    condition: str
    """condition id"""
    cells: tuple[Cell, ...]
    ids: tuple[str, ...]
    """cell ids, in the order of cells"""

    @property
    def setting(self) -> Cell:
        """A cell that stands for all: they differ in the seed alone, and in the rate where it is tuned."""
        return self.cells[0]

    @cached_property
    def declared(self) -> dict[str, dict[str, object]]:
        """The condition as plain data, a tuned rate as its grid; made once, so not to be changed."""
        return declared(self.setting.condition)

    @property
    def trains(self) -> bool:
        """Whether anything is trained; an untrained base has no seed to vary."""
        return self.setting.training.steps > 0


def replicates(cells: Iterable[Cell]) -> tuple[Replicates, ...]:
    """The conditions of a plan, each with all of its cells."""
    groups: dict[str, list[tuple[Cell, str]]] = {}
    for cell in cells:
        groups.setdefault(cell.condition_id, []).append((cell, cell.id))
    return tuple(
        Replicates(c, tuple(cell for cell, _ in pairs), tuple(i for _, i in pairs)) for c, pairs in groups.items()
    )
