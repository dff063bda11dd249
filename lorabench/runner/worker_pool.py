"""Where cells run: workers, opened by an executor plug-in's `open_worker(threads)`, and the pool of a run's workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from lorabench import plugins
from lorabench.errors import LorabenchError
from lorabench.runner.threads import threads_per_worker

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event, Problem
    from lorabench.record.result import CellResult, Phase


class Worker(Protocol):
    """A place where cells run, one after another."""

    def check(self, cells: tuple[Cell, ...], calibrations: Path | None = None) -> tuple[Problem, ...]:
        """What keeps these cells from running, and what is to be reported before they run; LorabenchError where they
        cannot be checked. calibrations: as for run."""

    def run(
        self,
        cell: Cell,
        folder: Path,
        on_event: Callable[[Event], None],
        skip_infeasible: bool = False,
        calibrations: Path | None = None,
        pack: Sequence[Cell] = (),
    ) -> CellResult:
        """Runs a cell, whose files go to a folder; whatever happens, there is a result.

        skip_infeasible: a cell that is predicted not to fit into memory is not run, its outcome is skipped.
        calibrations: a folder of what was measured on this machine's cards, which corrects that prediction.
        pack: cells that come next and may train with it; given only where the run packs.
        """

    def repeat(
        self, before: CellResult, phases: tuple[Phase, ...], cell: Cell, folder: Path, on_event: Callable[[Event], None]
    ) -> CellResult:
        """Runs phases of a trained cell again, from the weights in its folder; the result is that of before with their
        readings in place of the former ones."""

    def close(self) -> None:
        """Ends what runs at once; called from any thread."""


class WorkerPool:
    """The workers of a run. The first opens at once, so that its imports go on while the study is read."""

    def __init__(self, executor: str | Callable[[int | None], Worker] = "local", workers: int = 1) -> None:
        if workers < 1:
            raise LorabenchError(
                f"{workers} workers cannot run a study; give 1 or more, at most the number of CPU cores is sensible"
            )
        self.workers = workers
        self.executor = executor if isinstance(executor, str) else None
        """the plug-in's name, None for a function of one's own"""
        self._open = plugins.load("executors", executor).open_worker if isinstance(executor, str) else executor
        self._threads = threads_per_worker(workers)
        self._running: dict[int, Worker] = {0: self._open(self._threads)}
        self._lock = threading.Lock()
        self._closed = False

    @property
    def first(self) -> Worker:
        """The worker that checks a study, and runs its first cells."""
        return self._running[0]

    def worker(self, number: int) -> Worker:
        """The worker of a number, counted from 0, which opens when it is first asked for."""
        with self._lock:
            if number in self._running:
                return self._running[number]
        worker = self._open(self._threads)  # seconds: others may open theirs meanwhile
        with self._lock:
            self._running[number] = worker
            if self._closed:
                worker.close()
        return worker

    def close(self) -> None:
        """Ends all workers at once."""
        with self._lock:
            self._closed = True
            for worker in self._running.values():
                worker.close()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
