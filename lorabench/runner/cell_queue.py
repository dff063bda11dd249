"""The queue of a run: each cell once, claimed, run by one of the workers, its result stored. One that lacked memory
beside cells which lorabench chose to run at the same time runs again in the end, by itself.

Threads, each with a worker of its own, take cells from one queue; the heavy work is in the workers' processes.
Several runners may share a results directory: a cell that another one has claimed is put back and looked at
again, until it has a result or its claim is free.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lorabench.config.decision import deciding_metric
from lorabench.errors import StoreError
from lorabench.record.store import CHECKPOINT
from lorabench.runner.disk import disk_fault
from lorabench.runner.lost_cell import lacked_memory
from lorabench.runner.packs import AUTO, Size, begun_packs, remove_packs
from lorabench.runner.waiting_cells import WaitingCells
from lorabench.runner.worker_pool import WorkerPool

if TYPE_CHECKING:
    from pathlib import Path

    from lorabench.config.settings import TaskSpec
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event
    from lorabench.record.result import CellResult, Outcome, Phase
    from lorabench.runner.plan import Plan
    from lorabench.runner.progress import Progress
    from lorabench.runner.worker_pool import Worker

POLL_SECONDS = 0.5  # between looks at cells that another runner has


def unwritable(plan: Plan, error: OSError) -> StoreError:
    """The sentence for a full disk or missing permissions."""
    reason = error.strerror or error
    return StoreError(
        f"{plan.store.folder} cannot be written ({reason}); free some space or fix its permissions, then run again"
    )


class CellQueue:
    """The queue of one run and the threads that empty it."""

    def __init__(
        self,
        plan: Plan,
        pool: WorkerPool,
        progress: Progress | None,
        retry: tuple[Outcome, ...],
        skip_infeasible: bool,
        repeat: Mapping[str, tuple[Phase, ...]] | None = None,
        calibrations: Path | None = None,
        pack: Size = 1,
    ) -> None:
        self.calibrations, self.pack = calibrations, pack
        self.skip_infeasible, self.repeat = skip_infeasible, repeat
        self.plan, self.pool, self.progress, self.retry = plan, pool, progress, retry
        self.queue = WaitingCells(plan.pending)
        self.marks = {c.id: self._mark(c) for c in plan.pending}
        self.begun = begun_packs(plan.store.folder)
        self.packed: set[str] = set()
        """cells of packs that have begun"""
        self.alone: list[Cell] = []
        """cells that lacked memory beside others, which run by themselves in the end"""
        self.held: dict[str, deque[Cell]] = {}
        """by the cell that a worker runs, those that may train with it"""
        self.conditions: dict[int, str] = {}
        """by worker, of its last cell that it ran, or runs"""
        self.stop, self.taking = threading.Event(), threading.Lock()
        self.fault: BaseException | None = None
        self._seen: tuple[tuple[Cell, ...], Mapping[str, Sequence[Cell]], Sequence[TaskSpec]] | None = None

    def run(self) -> None:
        """Until the queue is empty; a fault of one thread, or Ctrl-C, stops all."""
        self._empty()
        if self.alone and self.fault is None:
            self.queue, self.pack = WaitingCells(self.alone), 1
            self.marks |= {c.id: self._mark(c) for c in self.alone}
            self.pool.arrange(1)
            self._empty()
        remove_packs(self.plan.store.folder, self.plan.store.settled)
        if self.fault:
            raise self.fault

    def _empty(self) -> None:
        count = min(self.pool.workers, len(self.queue))
        threads = [
            threading.Thread(target=self._thread, args=(i,), daemon=True, name=f"worker {i}") for i in range(count)
        ]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                for thread in threads:
                    thread.join(0.2)
        except BaseException:
            self.stop.set()
            self.pool.close()
            for thread in threads:
                thread.join(5)
            raise

    def _thread(self, index: int) -> None:
        try:
            worker = self.pool.worker(index)
            waiting = 0
            others: deque[Cell] = deque()
            while not self.stop.is_set():
                cell = others.popleft() if others else self._next(others, worker, index, in_order=waiting > 0)
                if cell is None:
                    self.pool.rest(index)
                    return
                self.conditions[index] = cell.condition_id
                self.held[cell.id] = others
                taken = self._attempt(cell, worker, tuple(others))
                self._give_back(self.held.pop(cell.id))
                if taken:
                    waiting = 0
                    continue
                with self.taking:
                    self.queue.add(cell)
                waiting += 1
                if waiting >= len(self.queue):  # all that is left is with other runners
                    if self.progress:
                        self.progress.wait(len(self.queue))
                    self.stop.wait(POLL_SECONDS)
        except BrokenPipeError as e:  # whoever read our output is gone
            self._end(e)
        except OSError as e:
            self._end(unwritable(self.plan, e))
        except BaseException as e:
            self._end(e)

    def _end(self, fault: BaseException) -> None:
        if not self.stop.is_set():
            self.fault = fault
            self.stop.set()
            self.pool.close()

    def _next(self, others: deque[Cell], worker: Worker, index: int, in_order: bool) -> Cell | None:
        """The next cell, None where none waits; those that may train with it go into `others`, and come after it on the
        same worker. Several workers keep to a condition each, whose memory a process measures once.

        in_order: whatever the conditions, as cells that other runners have are asked for in turn.
        """
        most = (AUTO if self.pack is None else self.pack) if getattr(worker, "packs", False) else 1
        with self.taking:
            last = self.conditions.pop(index, None)
            in_order |= self.pool.workers == 1
            cell = self.queue.take() if in_order else self.queue.take(last, set(self.conditions.values()))
            if cell is not None:
                self.conditions[index] = cell.condition_id
                names = self.begun.get(cell.id, []) if most > 1 and self._is_new(cell) else []
                begun = self.queue.take_named(names, self._is_new)
                others.extend(begun or self.queue.take_mates(cell, most, self.pool.workers, self._is_new))
            return cell

    def _give_back(self, mates: deque[Cell]) -> None:
        """Those that are in no pack train alone, by whichever worker is free."""
        if alone := [cell for cell in mates if cell.id not in self.packed]:
            with self.taking:
                self.queue.put_first(alone)
            for cell in alone:
                mates.remove(cell)

    def _is_new(self, cell: Cell) -> bool:
        """Whether no training of a cell is there, whole or under way."""
        result = self.plan.results.get(cell.id)
        under_way = f"{self.plan.store.partial(cell.id)}/{CHECKPOINT}"
        return (result is None or not result.is_trained) and not os.path.exists(under_way)

    def _attempt(self, cell: Cell, worker: Worker, others: tuple[Cell, ...] = ()) -> bool:
        """Runs a cell if nobody has it; False where another runner does."""
        store = self.plan.store
        with store.claim(cell.id) as mine:
            from lorabench.record.set_aside import set_aside
            from lorabench.runner.keep import remove_unneeded_weights

            if not mine:
                return False
            if self._settled_since(cell):
                if self.progress:
                    self.progress.skip(cell)
                return True
            set_aside(store, cell.id)
            if self.progress:
                self.progress.start(cell)
            began = time.monotonic()
            result = self._repeated(cell, worker) or self._run(cell, worker, others)
            if self.stop.is_set():  # the worker was closed under the cell: that is no failure of the cell
                return True
            if self.pool.crowded and lacked_memory(result):
                if result.is_trained:  # what comes after its training is repeated
                    store.put(result)
                self.alone.append(cell)
                if self.progress:
                    self.progress.postpone(cell, result)
                return True
            store.put(result)
            if fault := disk_fault(result):
                raise fault
            replicates, tasks = self._planned()
            decided_by = deciding_metric(self.plan.study.comparison, tasks, {r.metric for r in result.readings})
            remove_unneeded_weights(store, replicates.get(cell.condition_id, ()), cell, decided_by)
            if self.progress:
                self.progress.end(cell, result, time.monotonic() - began)
            return True

    def _planned(self) -> tuple[Mapping[str, Sequence[Cell]], Sequence[TaskSpec]]:
        """The cells that the study wants, by condition, and their different tasks; looked through once for each plan
        (a repetition's own plan holds only what is repeated, and another runner may have changed the store's)."""
        planned = self.plan.store.plan()
        if self._seen is None or self._seen[0] is not planned:
            replicates: dict[str, list[Cell]] = {}
            for cell in planned:
                replicates.setdefault(cell.condition_id, []).append(cell)
            tasks = {cells[0].task.decided_by: cells[0].task for cells in replicates.values()}
            self._seen = planned, replicates, tuple(tasks.values())
        return self._seen[1], self._seen[2]

    def _run(self, cell: Cell, worker: Worker, others: tuple[Cell, ...]) -> CellResult:
        folder = self.plan.store.emptied(cell.id)
        if others or cell.id in self.packed:
            gaining = self.pack is None
            return worker.run(cell, folder, self._event, self.skip_infeasible, self.calibrations, others, gaining)
        if self.calibrations:
            return worker.run(cell, folder, self._event, self.skip_infeasible, self.calibrations)
        return worker.run(cell, folder, self._event, self.skip_infeasible)

    def _repeated(self, cell: Cell, worker: Worker) -> CellResult | None:
        """Phases of a trained cell again: those that were asked for, or of one whose evaluation failed; None where it
        is to be trained."""
        from lorabench.runner.repeat import can_repeat, lay_out, phases_of

        store = self.plan.store
        final = store.cells_folder / cell.id
        before = store.readable(cell.id)
        if before is None or not can_repeat(cell, final):
            return None
        phases = self.repeat.get(cell.id, ()) if self.repeat is not None else phases_of(cell, before, final)
        if not phases:
            return None
        lay_out(final, store.partial(cell.id))
        return worker.repeat(before, phases, cell, store.partial(cell.id), self._event)

    def _event(self, event: Event) -> None:
        self.packed.update(event.pack)
        if event.step is not None:  # told of a pack, too, but only after its cells
            self._give_back(self.held.get(event.cell, deque()))
        if self.progress:
            self.progress.event(event)

    def _settled_since(self, cell: Cell) -> bool:
        """Whether another runner finished a cell since this run began; a failure of its counts too, and is not tried
        twice. One that set a damaged record aside and was killed finished nothing."""
        from lorabench.runner.plan import is_pending

        mark, result = self._mark(cell), self.plan.store.readable(cell.id, contents=True)
        if mark is not None and mark != self.marks[cell.id]:
            return result is not None
        if cell in self.alone:
            return False
        return self.repeat is None and not is_pending(result, self.retry)

    def _mark(self, cell: Cell) -> int | None:
        try:
            return os.stat(f"{self.plan.store.cells_folder}/{cell.id}/result.json").st_mtime_ns
        except FileNotFoundError:
            return None
