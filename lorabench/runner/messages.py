"""What a runner and its worker process send each other, each as one JSON object a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

if TYPE_CHECKING:
    from lorabench.record.result import Phase


class Command(TypedDict):
    """What a worker is to do; its settings and results are plain values, which their own classes read."""

    do: Literal["check", "needs", "limit", "run", "repeat"]
    cells: NotRequired[Sequence[object]]
    """to be checked, or whose needs are asked for"""
    threads: NotRequired[int]
    """that the cells which follow may take at most"""
    cell: NotRequired[object]
    """to be run or repeated"""
    folder: NotRequired[str]
    """that the cell's files go to"""
    skip_infeasible: NotRequired[bool]
    calibrations: NotRequired[str]
    """folder of what was measured on this machine's cards, where predictions are corrected by it"""
    pack: NotRequired[Sequence[object]]
    """cells that come next and may train with the cell that is to be run"""
    cards: NotRequired[int]
    """GPUs that train the cell together, where one is not enough"""
    available: NotRequired[int]
    """bytes of its card that are the cell's, where other cells are on it"""
    beside: NotRequired[int]
    """cells, and packs, that share the machine's memory with the pack, itself counted"""
    gaining: NotRequired[bool]
    """whether only as many of them as gain by it"""
    before: NotRequired[object]
    """the result of a cell of which phases are repeated"""
    phases: NotRequired[Sequence[Phase]]


class ErrorMessage(TypedDict):
    """An exception, by its class and its text."""

    kind: str
    message: str


def with_calibrations(command: Command, folder: Path | None) -> Command:
    """The command with the folder that its predictions are corrected by, where there is one."""
    if folder is not None:
        command["calibrations"] = str(folder.resolve())
    return command


def calibrations_of(command: Command) -> Path | None:
    """That folder; None where predictions are not corrected."""
    return Path(command["calibrations"]) if "calibrations" in command else None


class Reply(TypedDict, total=False):
    """What a worker answers: events while a cell runs, then one of the others."""

    event: Mapping[str, object]
    result: object
    fault: ErrorMessage
    """what ended a cell past its engine"""
    problems: Sequence[object]
    disk: Mapping[str, Mapping[str, int]]
    """beside them, by cell id: bytes that cells will take of the disk (memory.disk)"""
    at_once: int
    """beside them: cells that the machine's memory holds at the same time"""
    needs: Mapping[str, Mapping[str, int]]
    """record.card_need.CardNeed of each cell, by id"""
    error: ErrorMessage
    """what keeps cells from being checked, in a sentence for the user"""
    broken: str
    """the traceback of a check that failed"""
    beat: bool
    """a sign of life"""
    ready: bool
    """the engine is imported"""
    files: bytes
    """of a tar file of what a cell left on a machine that does not see its folder"""
    last: bool
    """whether this process takes no further cell"""
