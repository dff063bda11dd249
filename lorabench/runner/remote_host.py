"""What runs on another machine of a cluster: a local worker that serves a runner elsewhere, one command after another.

A cell's files go straight to the runner's folder where this machine sees it (a shared file system); else to a folder of
this machine's own, from which they go back as the bytes of a tar file before the result.
"""

from __future__ import annotations

import dataclasses
import platform
import queue
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypedDict

from lorabench import __version__
from lorabench.errors import LorabenchError
from lorabench.executors.local import ENGINE, PREDICTOR, open_worker
from lorabench.runner.messages import calibrations_of

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event
    from lorabench.record.result import CellResult
    from lorabench.runner.messages import Command, Reply

    Report = Callable[[Event], None]

CHUNK = 8 * 2**20  # bytes of a message: a small part of a node's object store
EVENT_SECONDS = 0.5  # between two steps that are told: displays are drawn twice a second


class Greeting(TypedDict):
    """What a machine says of itself."""

    machine: str
    version: str
    """of lorabench there"""


class RemoteHost:
    """A worker of this machine and the files of the cell that it runs."""

    def __init__(self, threads: int | None, engine: str = ENGINE, predictor: str = PREDICTOR) -> None:
        self._worker = open_worker(threads, engine=engine, predictor=predictor)
        self._scratch = tempfile.TemporaryDirectory(prefix="lorabench-")
        self._received = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the host)

    def greet(self) -> Greeting:
        """This machine and its version of lorabench."""
        return {"machine": platform.node(), "version": __version__}

    def sees(self, path: str, text: str) -> bool:
        """Whether a file that the runner has just written is here, too."""
        try:
            return Path(path).read_text(encoding="utf-8") == text
        except OSError:
            return False

    def receive(self, chunk: bytes) -> None:
        """Bytes of the tar file of what the next cell finds in its folder."""
        self._received.write(chunk)

    def serve(self, command: Command, shared: bool = True) -> Iterator[Reply]:
        """A command's replies; the last of them answers it. shared: whether the command's folder is here, too."""
        try:
            if command["do"] == "check":
                problems = self._worker.check(_cells(command["cells"]), calibrations_of(command))
                yield {"problems": [dataclasses.asdict(p) for p in problems]}
            elif command["do"] == "needs":
                needs = self._worker.needs(_cells(command["cells"]), calibrations_of(command))
                yield {"needs": {name: dataclasses.asdict(need) for name, need in needs.items()}}
            elif shared:
                yield from self._run(command, Path(command["folder"]))
            else:
                yield from self._run_here(command)
        except LorabenchError as e:
            yield {"error": {"kind": type(e).__name__, "message": str(e)}}
        except Exception as e:
            yield {"broken": f"{type(e).__name__}: {e}"}

    def _run_here(self, command: Command) -> Iterator[Reply]:
        """Runs a cell in a folder of this machine's own, and sends its files before its result."""
        folder = Path(self._scratch.name) / "cells" / Path(command["folder"]).name  # as in a results directory, since
        shutil.rmtree(folder, ignore_errors=True)  # decomposed bases are kept two folders above
        folder.mkdir(parents=True)
        unpack(self._received, folder)
        self._received = tempfile.TemporaryFile()  # noqa: SIM115
        for reply in self._run(command, folder):
            if "result" in reply:
                for chunk in packed(folder):
                    yield {"files": chunk}
            yield reply
        shutil.rmtree(folder, ignore_errors=True)

    def _run(self, command: Command, folder: Path) -> Iterator[Reply]:
        """Events while a cell runs, then its result."""
        from lorabench.record.result import CellResult

        told: queue.SimpleQueue[Event | CellResult | BaseException] = queue.SimpleQueue()

        def work() -> None:
            try:
                told.put(self._ask(command, folder, told.put))
            except BaseException as e:
                told.put(e)

        threading.Thread(target=work, daemon=True, name="cell").start()
        last_step = 0.0
        while True:
            reply = told.get()
            if isinstance(reply, BaseException):
                raise reply
            if isinstance(reply, CellResult):
                yield {"result": reply.model_dump(mode="json", by_alias=True)}
                return
            now = time.monotonic()
            if reply.step is None or reply.note or reply.warning or now - last_step >= EVENT_SECONDS:
                last_step = last_step if reply.step is None else now
                yield {"event": dataclasses.asdict(reply)}

    def _ask(self, command: Command, folder: Path, report: Report) -> CellResult:
        from lorabench.record.result import CellResult

        (cell,) = _cells([command["cell"]])
        if command["do"] == "repeat":
            before = CellResult.model_validate(command["before"])
            return self._worker.repeat(before, tuple(command["phases"]), cell, folder, report)
        return self._worker.run(
            cell,
            folder,
            report,
            command["skip_infeasible"],
            calibrations_of(command),
            _cells(command.get("pack", ())),
            command.get("gaining", False),
            cards=command.get("cards", 1),
            available=command.get("available"),
        )


def packed(folder: Path) -> Iterator[bytes]:
    """A folder's files as the bytes of a tar file, a chunk at a time; none of an empty one."""
    if not any(folder.iterdir()):
        return
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(folder, arcname=".")
        archive.seek(0)
        while chunk := archive.read(CHUNK):
            yield chunk


def unpack(archive: IO[bytes], folder: Path) -> None:
    """Lays the files of a tar file into a folder; nothing where the archive is empty. Names that lead out of the folder
    are refused (tarfile's data filter)."""
    if not archive.tell():
        return
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        tar.extractall(folder, filter="data")


def _cells(plain: Iterable[object]) -> tuple[Cell, ...]:
    from lorabench.config.study import Cell

    return tuple(Cell.model_validate(c) for c in plain)
