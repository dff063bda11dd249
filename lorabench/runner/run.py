"""How a study runs: plan, check, then each pending cell once: claim it, run it, store its result.

Threads, each with a worker of its own, take cells from one queue; the heavy work is in the workers' processes.
Several runners may share a results directory: a cell that another one has claimed is put back and looked at
again, until it has a result or its claim is free. Ctrl-C (KeyboardInterrupt) closes the workers and keeps
what is finished.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench.config.decision import deciding_metric
from lorabench.errors import LorabenchError, ModelError, StoreError, StudyError
from lorabench.record.result import RETRIED
from lorabench.runner.worker_pool import WorkerPool

if TYPE_CHECKING:
    import pandas as pd

    from lorabench.config.source import Source
    from lorabench.config.study import Cell, Study
    from lorabench.engine.events import Event
    from lorabench.record.result import CellResult, Outcome, Phase
    from lorabench.record.store import Store
    from lorabench.runner.plan import Plan
    from lorabench.runner.progress import Progress
    from lorabench.runner.worker_pool import Worker

SHOWN_LARGE = 3  # conditions that would not fit are named before a run, the largest first; the others are counted
POLL_SECONDS = 0.5  # between looks at cells that another runner has


def run(
    study: Study,
    out: str | Path | None = None,
    *,
    pool: WorkerPool | None = None,
    progress: Progress | None = None,
    source: Source | None = None,
    retry: Iterable[Outcome] = RETRIED,
    skip_infeasible: bool = False,
    frame: Callable[[Store], pd.DataFrame] | None = None,
) -> Plan:
    """Runs what a study wants and has not; returns the plan as it was at the start. Results are in plan.store.

    frame: makes the rows of cells.csv, which is written at the end and when the run is stopped; absent: without the choice of learning rates, which is
    analysis' and no business of the runner. skip_infeasible: what is predicted not to fit into memory is recorded as skipped, and is tried again by the next run.
    """
    from lorabench.runner.plan import make_plan

    with pool or WorkerPool() as pool:
        plan = make_plan(study, out, retry)
        refuse_mixture(plan, pool.executor)
        if plan.pending:
            plan = check(plan, pool, source, skip_infeasible)
        plan.save()
        if progress:
            progress.begin(plan, min(pool.workers, len(plan.pending)))
        try:
            _Work(plan, pool, progress, tuple(retry), skip_infeasible).run()
        except BaseException:
            with suppress(LorabenchError):
                write_cells_csv(plan, frame)
            raise
        finally:
            if progress:
                progress.close()
    write_cells_csv(plan, frame)
    return plan


def evaluate(
    store: Store,
    cells: Sequence[str] = (),
    *,
    again: bool = False,
    pool: WorkerPool | None = None,
    progress: Progress | None = None,
    frame: Callable[[Store], pd.DataFrame] | None = None,
) -> Plan:
    """Repeats what failed or is missing after the training of a store's cells, without training; `again`: the evaluation of finished ones, too.

    cells: beginnings of ids, all where there are none. StoreError where one is none or was not trained. What cannot be repeated stands in the plan's notices. frame: as for run.
    """
    from lorabench.runner.plan import Plan, describe_cells
    from lorabench.runner.repeat import chosen

    wanted, told = chosen(store, cells, again)
    planned = store.plan()
    repeated, words = tuple(c for c in planned if c.id in wanted), describe_cells(planned)
    plan = Plan(
        store.study(), store, repeated, repeated, words, told
    )  # the others are no part of it: nothing is to be run of them
    with pool or WorkerPool() as pool:
        refuse_mixture(plan, pool.executor)
        if progress:
            progress.begin(plan)
        try:
            _Work(plan, pool, progress, (), False, wanted).run()
        finally:
            if progress:
                progress.close()
            with suppress(LorabenchError):
                write_cells_csv(plan, frame)
    return plan


def refuse_mixture(plan: Plan, executor: str | None) -> None:
    """StoreError where measured and invented results would stand in one folder."""
    invented = set()
    for cell in plan.cells:
        with suppress(StoreError, OSError):
            result = plan.store.get(cell.id)
            if result is not None and result.environment is not None:
                invented.add(result.environment.device == "synthetic")
    if executor is not None and (executor != "synthetic") in invented:
        kind = "invented results of the executor synthetic" if True in invented else "measured results"
        raise StoreError(f"{plan.store.folder} holds {kind}; choose another folder with --out DIR")


def check(plan: Plan, pool: WorkerPool, source: Source | None, skip_infeasible: bool = False) -> Plan:
    """The plan with what is to be told before the run; StudyError, with its place in the file, where a pending cell cannot run as declared.

    One replicate of each condition is asked. With skip_infeasible a condition that cannot fit into memory is no fault: it will be skipped.
    """
    from lorabench.runner.keep import notes
    from lorabench.runner.plan import condition_words, problem_sentence

    cells = tuple({c.condition_id: c for c in reversed(plan.pending)}.values())[::-1]
    if pool.executor == "local":
        refuse_absent_models(plan, source, cells)
    by_id = {c.id: c for c in cells}
    problems = tuple(
        replace(
            p,
            message=f"{condition_words(plan.words, by_id[p.cell])}, {p.message}",
            fatal=p.fatal and not skip_infeasible,
        )
        if p.about_cell
        else p
        for p in pool.first.check(cells)
    )
    faults = tuple(p for p in problems if p.fatal)
    if faults:
        raise StudyError(problem_sentence(plan.study, source, cells, faults))
    told = list(dict.fromkeys(p.message for p in problems if not p.about_cell))
    large = [p.message for p in problems if p.about_cell]
    told += large[:SHOWN_LARGE]
    if len(large) > SHOWN_LARGE:
        told.append(
            f"{len(large) - SHOWN_LARGE} more of {len(cells)} conditions may not or would not fit into memory, too"
        )
    return replace(plan, notices=(*plan.notices, *told, *notes(plan.store, plan.cells, plan.pending)), large=len(large))


def refuse_absent_models(plan: Plan, source: Source | None, cells: Sequence[Cell]) -> None:
    """StudyError where a hub model is neither on this machine nor to be had: known here, without the worker's imports."""
    from lorabench.config import hub
    from lorabench.runner.plan import place_of

    for cell in {(c.model.name, c.model.revision): c for c in reversed(cells)}.values():
        try:
            hub.require(cell.model.name, cell.model.revision)
        except ModelError as e:
            place = source.at(place_of(plan.study, source, cell, "model")) if source else f"study {plan.study.name}"
            raise StudyError(f"{place}: {e}") from None


def write_cells_csv(plan: Plan, frame: Callable[[Store], pd.DataFrame] | None) -> Path:
    """cells.csv: a row per result, absent values empty."""
    from lorabench.record.frames import wide, write_csv  # pandas: ~1 s, and not while a cell is being timed

    try:
        return write_csv(frame(plan.store) if frame else wide(plan.store.results()), plan.store.folder / "cells.csv")
    except OSError as e:
        raise unwritable(plan, e) from None


def unwritable(plan: Plan, error: OSError) -> StoreError:
    """The sentence for a full disk or missing permissions."""
    reason = error.strerror or error
    return StoreError(
        f"{plan.store.folder} cannot be written ({reason}); free space or mend its permissions, then run again"
    )


class _Work:
    """The queue of one run and the threads that empty it."""

    def __init__(
        self,
        plan: Plan,
        pool: WorkerPool,
        progress: Progress | None,
        retry: tuple[Outcome, ...],
        skip_infeasible: bool,
        repeat: Mapping[str, tuple[Phase, ...]] | None = None,
    ) -> None:
        self.skip_infeasible, self.repeat = skip_infeasible, repeat
        self.plan, self.pool, self.progress, self.retry = plan, pool, progress, retry
        self.queue = deque(plan.pending)
        self.marks = {c.id: self._mark(c) for c in plan.pending}
        self.stop = threading.Event()
        self.fault: BaseException | None = None

    def run(self) -> None:
        """Until the queue is empty; a fault of one thread, or Ctrl-C, stops all."""
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
        if self.fault:
            raise self.fault

    def _thread(self, index: int) -> None:
        try:
            worker = self.pool.first if index == 0 else self.pool.another()
            waiting = 0
            while not self.stop.is_set():
                try:
                    cell = self.queue.popleft()
                except IndexError:
                    return
                if self._attempt(cell, worker):
                    waiting = 0
                    continue
                self.queue.append(cell)
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

    def _attempt(self, cell: Cell, worker: Worker) -> bool:
        """Runs a cell if nobody has it; False where another runner does."""
        store = self.plan.store
        with store.claim(cell.id) as mine:
            from lorabench.runner.keep import keep_wanted

            if not mine:
                return False
            if self._settled_since(cell):
                if self.progress:
                    self.progress.skip(cell)
                return True
            if self.progress:
                self.progress.start(cell)
            began = time.monotonic()
            result = self._repeated(cell, worker) or self._run(cell, worker)
            if self.stop.is_set():  # the worker was closed under the cell: that is no failure of the cell
                return True
            store.put(result)
            planned = store.plan()  # a repetition's own plan holds only what is repeated
            keep_wanted(
                store,
                planned,
                cell,
                deciding_metric(
                    self.plan.study.comparison, (c.task for c in planned), {r.metric for r in result.readings}
                ),
            )
            if self.progress:
                self.progress.end(cell, result, time.monotonic() - began)
            return True

    def _run(self, cell: Cell, worker: Worker) -> CellResult:
        return worker.run(cell, self.plan.store.emptied(cell.id), self._event, self.skip_infeasible)

    def _repeated(self, cell: Cell, worker: Worker) -> CellResult | None:
        """Phases of a trained cell again: those that were asked for, or of one whose evaluation failed; None where it is to be trained."""
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
        if self.progress:
            self.progress.event(event)

    def _settled_since(self, cell: Cell) -> bool:
        """Whether another runner finished a cell since this run began; a failure of its counts too, and is not tried twice."""
        from lorabench.runner.plan import is_pending

        return self._mark(cell) != self.marks[cell.id] or (
            self.repeat is None and not is_pending(self.plan.store, cell, self.retry)
        )

    def _mark(self, cell: Cell) -> int | None:
        try:
            return (self.plan.store.cells_folder / cell.id / "result.json").stat().st_mtime_ns
        except FileNotFoundError:
            return None
