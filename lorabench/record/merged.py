"""What is known of a results directory that was joined from several: merged.json.

sources    each directory, how many of its records were taken, where they ran
twice      cells that finished in several, with what they measured there
"""

from __future__ import annotations

from pathlib import Path

from lorabench.config.frozen import Frozen
from lorabench.record.whole_files import write_atomically

FILE = "merged.json"


class MergedSource(Frozen):
    """A results directory that was joined to others."""

    folder: str
    cells: int
    """records that were taken from it"""
    devices: tuple[str, ...]
    """that they ran on"""


class TwiceRun(Frozen):
    """A cell that finished in two directories; the record of `kept_in` is here."""

    cell: str
    kept_in: str
    other_in: str
    metric: str
    """the study's own"""
    kept: float
    other: float

    @property
    def difference(self) -> float:
        """Size of the difference between the two values."""
        return abs(self.kept - self.other)


class Merged(Frozen):
    """A join of results directories."""

    sources: tuple[MergedSource, ...]
    twice: tuple[TwiceRun, ...] = ()


def write_merged(folder: Path, merged: Merged) -> None:
    """Writes merged.json, whole or not at all."""
    write_atomically(folder / FILE, merged.model_dump_json(indent=1) + "\n")


def merged_of(folder: Path) -> Merged | None:
    """Of a directory that was joined; None of any other, and where the file cannot be read: nothing hangs on it but a
    finding."""
    try:
        return Merged.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None
