"""The disk of a study: whether what is still to be written has room, and whether a full one ended a cell."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench.formatting import plural, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorabench.config.study import Cell
    from lorabench.record.result import CellResult

FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
WRITER = "PytorchStreamWriter failed writing file"  # torch.save tells no reason


@dataclass(frozen=True)
class DiskNeed:
    """What the cells that are to run are expected to write."""

    cells: int
    lasting_bytes: int
    """of their records"""
    passing_bytes: int
    """of the checkpoints of those that train at the same time, at most"""
    free_bytes: int
    folder: Path

    @property
    def is_short(self) -> bool:
        """Whether less is free than is needed."""
        return self.lasting_bytes + self.passing_bytes > self.free_bytes

    def words(self) -> str:
        """ "about 1.2 GB for 40 cells, and up to 0.1 GB of checkpoints meanwhile; 35.1 GB are free" """
        passing = f", and up to {size(self.passing_bytes)} of checkpoints meanwhile" if self.passing_bytes else ""
        needed = f"about {size(self.lasting_bytes)} for {plural(self.cells, 'cell')}"
        return f"{needed}{passing}; {size(self.free_bytes)} are free"

    def warning(self) -> str:
        """What is to be told before a run that has not enough."""
        return (
            f"the disk of {self.folder} will be full before the study is done: {self.words()}; free some space, choose"
            " another folder with --out DIR, or keep less (save.adapter: best, analysis.spectra: values)"
        )


def disk_need(
    pending: Sequence[Cell], sizes: Mapping[str, Mapping[str, int]], workers: int, folder: Path
) -> DiskNeed | None:
    """Of the cells that are to run; `sizes` are those of a cell of each condition, by id. None where nothing is
    known."""
    by_condition = {c.condition_id: sizes[c.id] for c in pending if c.id in sizes}
    known = [(c, by_condition[c.condition_id]) for c in pending if c.condition_id in by_condition]
    if not known:
        return None
    lasting, seen = 0, set()
    for cell, mark in known:
        kept = cell.save.full if cell.method.name == "full" else cell.save.adapter
        is_kept = kept == "all" or cell.condition_id not in seen
        seen.add(cell.condition_id)
        lasting += mark["files"] + (mark["weights"] if is_kept else 0)
    checkpoints = sorted((mark["checkpoint"] for _, mark in known), reverse=True)
    return DiskNeed(len(known), lasting, sum(checkpoints[:workers]), free_bytes(folder), folder)


def free_bytes(folder: Path) -> int:
    """What can be written to the disk that a folder is on, or will be."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def disk_fault(result: CellResult) -> OSError | None:
    """The fault of the disk that a cell met; None where it met none. Every further cell would meet it, too."""
    for fault in filter(None, (result.error, *result.faults)):
        for number in FAULTS:
            if os.strerror(number) in fault.message:
                return OSError(number, os.strerror(number))
        if WRITER in fault.message:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None
