"""Where cells run: workers, opened by an executor plug-in's `open_worker(threads)`, and the pool of a run's workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lorabench import plugins
from lorabench.errors import LorabenchError
from lorabench.runner.cluster import Cluster, ClusterOptions
from lorabench.runner.threads import free_threads, threads_per_worker, usable_cores, user_count
from lorabench.runner.worker_count import workers_for

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
        gaining: bool = False,
    ) -> CellResult:
        """Runs a cell, whose files go to a folder; whatever happens, there is a result.

        skip_infeasible: a cell that is predicted not to fit into memory is not run, its outcome is skipped.
        calibrations: a folder of what was measured on this machine's cards, which corrects that prediction.
        pack, gaining: cells that come next and may train with it, and whether only as many of them as gain by it;
            given only to a worker whose `packs` is true.
        """

    def repeat(
        self, before: CellResult, phases: tuple[Phase, ...], cell: Cell, folder: Path, on_event: Callable[[Event], None]
    ) -> CellResult:
        """Runs phases of a trained cell again, from the weights in its folder; the result is that of before with their
        readings in place of the former ones."""

    def close(self) -> None:
        """Ends what runs at once; called from any thread."""


@runtime_checkable
class SharesCores(Protocol):
    """A worker on this machine, whose cores and memory it may share with others."""

    at_once: int
    """of the cells that it checked last, those that the memory holds at the same time"""

    def limit(self, threads: int, cells: int) -> None:
        """Lets the cells that follow take so many threads at most, and so great a part of the memory as so many cells
        leave to each."""


class WorkerPool:
    """The workers of a run. The first opens at once, so that its imports go on while the study is read."""

    def __init__(
        self,
        executor: str | Callable[[int | None], Worker] = "local",
        workers: int | None = None,
        cluster: ClusterOptions | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise LorabenchError(
                f"{workers} workers cannot run a study; give 1 or more, at most the number of CPU cores is sensible"
            )
        self.executor = executor if isinstance(executor, str) else None
        """the plug-in's name, None for a function of one's own"""
        self._workers, self._threads = workers or 1, threads_per_worker(workers or 1)
        self._cluster: Cluster | None = None
        if isinstance(executor, str):
            plugin = plugins.load("executors", executor)
            self._open = plugin.open_worker
            if hasattr(plugin, "open_cluster"):
                self._cluster = plugin.open_cluster(replace(cluster or ClusterOptions(), workers=workers))
                self._open = self._cluster_worker
        else:
            self._open = executor
        if cluster is not None and self._cluster is None:
            raise LorabenchError(
                f"an address and GPUs per cell are of a cluster, and the executor {executor} is none; executors that"
                f" are: {', '.join(clusters())}"
            )
        self._chooses = workers is None and self._cluster is None
        self._free = free_threads(self._threads) if self._chooses and self._threads else 1
        """cores of workers whose number nobody has named; where the user chose their threads, one at a time"""
        self._running: dict[int, Worker] = {0: self._open(self._threads)}
        self._lock = threading.Lock()
        self._closed = False

    @property
    def workers(self) -> int:
        """Cells that run at the same time at most; of a cluster known once it was asked of what cells need."""
        return self._workers if self._cluster is None else self._cluster.workers

    @property
    def crowded(self) -> bool:
        """Whether several cells run at the same time by lorabench's own choice."""
        return self._free > 1 and self._workers > 1

    def arrange(self, cells: int) -> None:
        """Chooses how many of so many cells run at a time here, where nobody has; the first worker has checked them."""
        first = self.first
        if self._free == 1 or not isinstance(first, SharesCores):
            return
        workers = workers_for(cells, self._free, first.at_once)
        if workers != self._workers:
            self._workers, self._threads = workers, self._free // workers
            for number in [n for n in self._running if n >= workers]:
                self._running.pop(number).close()
            for worker in self._running.values():
                assert isinstance(worker, SharesCores)
                worker.limit(self._threads, workers)

    def one_at_a_time(self, cells: int, limited: bool) -> str | None:
        """What is to be told of why so many cells run one after another although cores are free; None where they do
        not, or the user asked for it. limited: whether a cell has a limit in seconds."""
        first = self.first
        if not self._chooses or not isinstance(first, SharesCores):
            return None
        reasons, beside = list[str](), usable_cores()
        if (variable := user_count()) is not None:
            each = int(os.environ[variable].partition(",")[0])
            reasons, beside = [f"{variable}={os.environ[variable]} is set"], beside // max(each, 1)
        elif self._free == 1:
            reasons = ["other processes keep the other cores busy"]
        if limited:
            reasons.append("training.time_limit is set, which is a cell's time with all cores")
        named = min(beside, cells, first.at_once)
        if named < 2 or not reasons:
            return None
        return f"cells run one at a time, since {' and '.join(reasons)}; --workers {named} runs {named} at once"

    def _cluster_worker(self, threads: int | None) -> Worker:
        assert self._cluster is not None
        return self._cluster.open_worker()

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

    def rest(self, number: int) -> None:
        """A worker has no further cell for now: its room in a cluster is another's."""
        if (rest := getattr(self._running[number], "rest", None)) is not None:
            rest()

    def close(self) -> None:
        """Ends all workers at once."""
        with self._lock:
            self._closed = True
            for worker in self._running.values():
                worker.close()
        if self._cluster is not None:
            self._cluster.close()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def clusters() -> tuple[str, ...]:
    """The executors that run cells on other machines."""
    return tuple(n for n in plugins.names("executors") if hasattr(plugins.load("executors", n), "open_cluster"))
