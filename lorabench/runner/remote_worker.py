"""A worker whose cells run in places of a cluster (runner.cluster): retried where a machine was lost, moved to a card
of their own where they ran out of memory beside others.

    a machine is lost   the cell starts again elsewhere, from its checkpoint where the folder is shared; after TRIES
                        machines in turn it is recorded as failed
    out of memory       on a shared card: once more alone; alone: that is the cell's result
    anything else       the cell's result

Only the runner writes results: a place gives back files and readings. On a shared file system each further try has a
folder of its own, <id>.again-<try>, so that a machine which was given up and still runs writes into nobody's files.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench import errors
from lorabench.record.card_need import CardNeed
from lorabench.record.store import CHECKPOINT
from lorabench.runner.cluster import Cluster, MachineFull, MachineLost, Place, Room
from lorabench.runner.messages import with_calibrations
from lorabench.runner.packs import only_packed
from lorabench.runner.remote_host import packed, unpack

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event, Problem
    from lorabench.record.result import CellResult, Phase
    from lorabench.runner.messages import Command

    Report = Callable[[Event], None]

TRIES = 3  # machines that one cell may lose: a cell that brings its machines down must not go on to all of them


class RemoteWorker:
    """One place at a time, opened when a cell needs it and kept for as long as the next cell asks for the same room."""

    packs = True

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()  # close() comes from another thread than run()
        self._closed = False
        self._place: Place | None = None
        self._room: Room | None = None
        self._machine = ""
        self._pack: frozenset[str] = frozenset()
        """cells that this place may have trained already"""
        self._shared: dict[Path, bool] = {}
        """folders of cells, and whether the place sees them"""

    def check(self, cells: tuple[Cell, ...], calibrations: Path | None = None) -> tuple[Problem, ...]:
        """What keeps these cells from running on the cluster; it learns what they need of its cards."""
        from lorabench.engine.events import read_problems

        room = self._cluster.first_room()
        problems = read_problems(self._answer({"do": "check"}, "problems", room, cells, calibrations))
        if not room.cards or any(p.fatal and not p.about_cell for p in problems):
            return problems
        plain = self._answer({"do": "needs"}, "needs", room, cells, calibrations)
        needs = {name: CardNeed(**need) for name, need in plain.items()}
        self._cluster.learn({c.condition_id: needs[c.id] for c in cells if c.id in needs})
        several = {c.id for c in cells if self._cluster.room(c.condition_id, 1).cards > 1}
        return tuple(p for p in problems if not (p.about_cell and p.cell in several))  # said of one card

    def run(
        self,
        cell: Cell,
        folder: Path,
        on_event: Report,
        skip_infeasible: bool = False,
        calibrations: Path | None = None,
        pack: Sequence[Cell] = (),
        gaining: bool = False,
    ) -> CellResult:
        """Runs a cell on some machine; whatever happens to machines, there is a result."""
        command = with_calibrations({"do": "run", "skip_infeasible": skip_infeasible}, calibrations)
        if pack:
            command["pack"], command["gaining"] = [c.model_dump(mode="json") for c in pack], gaining
            on_event = only_packed(command, pack, on_event)
        if self._room is not None and cell.id in self._pack:
            room = self._room
        else:
            room = self._cluster.room(cell.condition_id, 1 + len(pack))
            self._pack = frozenset(c.id for c in pack)
        result = self._tried(command, room, cell, folder, on_event)
        if result.outcome == "out_of_memory" and not room.alone:
            on_event(_event(cell, note="out of memory beside other cells; it is tried once more alone"))
            self._leave()
            _clear(folder)
            command.pop("pack", None)
            result = self._tried(command, self._cluster.whole(room), cell, folder, on_event)
        return result

    def repeat(
        self, before: CellResult, phases: tuple[Phase, ...], cell: Cell, folder: Path, on_event: Report
    ) -> CellResult:
        """Runs phases of a trained cell again, from the weights in its folder."""
        command: Command = {"do": "repeat", "before": before.model_dump(mode="json", by_alias=True), "phases": phases}
        return self._tried(command, self._cluster.room(cell.condition_id, 1), cell, folder, on_event)

    def rest(self) -> None:
        """Gives its place back until the next cell."""
        self._leave()

    def close(self) -> None:
        """Ends what runs at once."""
        with self._lock:
            self._closed = True
        self._leave()

    # places

    def _enter(self, room: Room) -> Place:
        """A place of such room: the one at hand, or another. Waits for room in the cluster."""
        if self._place is None or self._room != room:
            self._leave()
            with self._lock:
                if self._closed:
                    raise errors.LorabenchError("this worker is closed; open another")
                self._place, self._room, self._shared = self._cluster.open(room), room, {}
            self._machine = self._place.greet()
        return self._place

    def _leave(self) -> None:
        with self._lock:
            place, self._place, self._room = self._place, None, None
        if place is not None:
            place.close()

    def _sees(self, place: Place, folder: Path) -> bool:
        """Whether the place's machine has the runner's folder, too: asked once, with a file that is new."""
        cells = folder.parent
        if cells not in self._shared:
            token = uuid.uuid4().hex
            path = cells / f".{token}"
            path.write_text(token, encoding="utf-8")
            try:
                self._shared[cells] = place.sees(str(path.resolve()), token)
            finally:
                path.unlink(missing_ok=True)
        return self._shared[cells]

    # commands

    def _answer(
        self, command: Command, key: str, room: Room, cells: tuple[Cell, ...], calibrations: Path | None
    ) -> dict[str, dict[str, int]]:
        """What the cluster says of cells before the first one runs."""
        command = with_calibrations({**command, "cells": [c.model_dump(mode="json") for c in cells]}, calibrations)
        lost = ""
        for _ in range(TRIES):
            try:
                for reply in self._enter(room).ask(command, True):
                    _raise_fault(reply)
                    if key in reply:
                        return reply[key]  # type: ignore[literal-required]
                lost = f"{self._machine} gave no answer"
            except (MachineLost, MachineFull) as e:
                lost = str(e)
            self._leave()
        raise errors.LorabenchError(f"{TRIES} machines in turn were lost before the first cell: {lost}")

    def _tried(self, command: Command, room: Room, cell: Cell, folder: Path, on_event: Report) -> CellResult:
        """The result of a cell, of the first machine that is not lost under it."""
        started, lost = time.time(), ""
        command["cell"] = cell.model_dump(mode="json")
        if room.cards > 1:
            command["cards"] = int(room.cards)
        if room.available is not None:
            command["available"] = room.available
        there = _first(folder) if command["do"] == "run" else folder
        for number in range(1, TRIES + 1):
            try:
                place = self._enter(room)
                on_event(_event(cell, note=f"on {self._machine}{_of_a_card(room)}"))
                result = self._attempt(place, command, there, folder, on_event)
                if there != folder:
                    _replace(folder, there)
                return result
            except MachineFull as e:
                self._leave()
                return _ended(cell, started, "out_of_memory", "OutOfMemoryError", str(e))
            except MachineLost as e:
                self._leave()
                if self._closed:
                    raise errors.LorabenchError("this worker is closed; open another") from None
                lost = str(e)
                if number < TRIES:
                    there = _again(folder, there, number + 1) if command["do"] == "run" else folder
                    on_event(_event(cell, warning=f"{lost}; starts again, try {number + 1} of {TRIES}"))
        return _ended(
            cell, started, "failed", "MachineLost", f"{TRIES} machines in turn were lost while it ran: {lost}"
        )

    def _attempt(self, place: Place, command: Command, there: Path, folder: Path, on_event: Report) -> CellResult:
        from lorabench.engine.events import read_event
        from lorabench.record.result import CellResult

        command["folder"] = str(there.resolve())
        shared = self._sees(place, folder)
        if not shared:
            for chunk in packed(there):
                place.send(chunk)
        with tempfile.TemporaryFile(dir=folder.parent) as archive:
            for reply in place.ask(command, shared):
                _raise_fault(reply)
                if "event" in reply:
                    on_event(read_event(reply["event"]))
                elif "files" in reply:
                    archive.write(reply["files"])
                elif "result" in reply:
                    if not shared:
                        _clear(there, keep=())
                        unpack(archive, there)
                    return CellResult.model_validate(reply["result"])
        raise MachineLost(f"{self._machine} gave no result")


def _raise_fault(reply: object) -> None:
    assert isinstance(reply, dict)
    if "error" in reply:
        raise getattr(errors, reply["error"]["kind"], errors.LorabenchError)(reply["error"]["message"])
    if "broken" in reply:
        raise RuntimeError(f"a worker of the cluster broke:\n{reply['broken']}")


def _event(cell: Cell, note: str | None = None, warning: str | None = None) -> Event:
    from lorabench.engine.events import Event

    return Event(cell.id, "load", note=note, warning=warning)


def _of_a_card(room: Room) -> str:
    if not room.cards:
        return ""
    return f", {room.cards:.3g} of a card" if room.cards < 1 else f", {room.cards:g} card{'s' * (room.cards > 1)}"


def _ended(cell: Cell, started: float, outcome: str, kind: str, message: str) -> CellResult:
    from lorabench.record.result import CellResult, Fault

    at = datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds")
    return CellResult(cell=cell, outcome=outcome, started_at=at, error=Fault(kind=kind, message=message))


# folders of a cell's tries


def _clear(folder: Path, keep: Sequence[str] = (CHECKPOINT,)) -> None:
    """Takes away what is in a folder, but what a further try goes on from."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in keep:
            path.unlink(missing_ok=True)


def _first(folder: Path) -> Path:
    """A cell's folder for its first try, with the checkpoint of a further try of a runner that was killed."""
    for left in folder.parent.glob(f"{folder.name.removesuffix('.partial')}.again-*"):
        if (left / CHECKPOINT).exists():
            (left / CHECKPOINT).replace(folder / CHECKPOINT)
        shutil.rmtree(left, ignore_errors=True)
    return folder


def _again(folder: Path, before: Path, number: int) -> Path:
    """The folder of a further try, with the checkpoint of the one before."""
    further = folder.with_name(f"{folder.name.removesuffix('.partial')}.again-{number}")
    shutil.rmtree(further, ignore_errors=True)
    further.mkdir()
    if (before / CHECKPOINT).exists():
        (before / CHECKPOINT).replace(further / CHECKPOINT)
    if before != folder:
        shutil.rmtree(before, ignore_errors=True)
    return further


def _replace(folder: Path, further: Path) -> None:
    """Puts the files of a further try in the place of the first one's."""
    _clear(folder, keep=())
    for path in further.iterdir():
        path.replace(folder / path.name)
    shutil.rmtree(further, ignore_errors=True)
