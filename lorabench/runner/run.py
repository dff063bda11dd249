"""How a study runs: plan, check, then each pending cell (runner.cell_queue). Ctrl-C (KeyboardInterrupt) closes the
workers and keeps what is finished.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench.config.imported import refuse_imported
from lorabench.errors import LorabenchError, ModelError, StoreError, StudyError
from lorabench.record.result import RETRIED
from lorabench.record.set_aside import put_back, refuse_links
from lorabench.runner.cell_queue import CellQueue, unwritable
from lorabench.runner.disk import disk_need
from lorabench.runner.invented import invents, is_invented
from lorabench.runner.packs import Size
from lorabench.runner.worker_pool import WorkerPool

if TYPE_CHECKING:
    import pandas as pd

    from lorabench.config.source import Source
    from lorabench.config.study import Cell, Study
    from lorabench.record.result import Outcome
    from lorabench.record.store import Store
    from lorabench.runner.plan import Plan
    from lorabench.runner.progress import Progress

SHOWN_LARGE = 3  # conditions that would not fit are named before a run, the largest first; the others are counted


def run(
    study: Study,
    out: str | Path | None = None,
    *,
    pool: WorkerPool | None = None,
    progress: Progress | None = None,
    source: Source | None = None,
    retry: Iterable[Outcome] = RETRIED,
    skip_infeasible: bool = False,
    calibrations: Path | None = None,
    frame: Callable[[Store], pd.DataFrame] | None = None,
    pack: Size = None,
) -> Plan:
    """Runs what a study wants and has not; returns the plan as it was at the start, of a study with tuning_seeds at the
    start of its last round. Results are in plan.store.

    frame: makes the rows of cells.csv, which is written at the end and when the run is stopped; absent: without the
    choice of learning rates, which is analysis' and no business of the runner. skip_infeasible: what is predicted not
    to fit into memory is recorded as skipped, and is tried again by the next run. calibrations: the folder of what
    lorabench calibrate measured, which corrects what is predicted; absent: none is read. pack: cells that train at
    once at most, absent: as many as gain by it (runner.packs).
    """
    from lorabench.runner.plan import make_plan

    with pool or WorkerPool() as pool:
        plan = make_plan(study, out, retry)
        refuse_links(plan.store)
        if put_back(plan.store):
            plan = make_plan(study, out, retry)
        refuse_mixture(plan, pool.executor)
        if plan.pending:
            plan = check(plan, pool, source, skip_infeasible, calibrations)
        while True:
            plan.save()
            if progress:
                progress.begin(plan, min(pool.workers, len(plan.pending)) if plan.pending else 0)
            try:
                CellQueue(
                    plan, pool, progress, tuple(retry), skip_infeasible, calibrations=calibrations, pack=pack
                ).run()
            except BaseException:
                with suppress(LorabenchError):
                    write_cells_csv(plan, frame)
                raise
            finally:
                if progress:
                    progress.close()
            if study.tuning_seeds is None:
                break
            known, following = {c.id for c in plan.cells}, make_plan(study, out, ())
            if known.issuperset(c.id for c in following.cells):
                break  # every learning rate is chosen, and the other seeds have run at it
            plan = replace(following, notices=())
            _arrange(pool, plan)
    if plan.pending or not _is_newest(plan.store, "cells.csv"):
        write_cells_csv(plan, frame)
    return plan


def _is_newest(store: Store, name: str) -> bool:
    """Whether a file of a store was written after its plan and all of its results."""
    try:
        written = (store.folder / name).stat().st_mtime_ns
        with os.scandir(store.cells_folder) as entries:
            others = [(store.folder / "plan.json").stat().st_mtime_ns, *(e.stat().st_mtime_ns for e in entries)]
        return all(other < written for other in others)
    except OSError:
        return False


def evaluate(
    store: Store,
    cells: Sequence[str] = (),
    *,
    again: bool = False,
    pool: WorkerPool | None = None,
    progress: Progress | None = None,
    frame: Callable[[Store], pd.DataFrame] | None = None,
) -> Plan:
    """Repeats what failed or is missing after the training of a store's cells, without training; `again`: the
    evaluation of finished ones, too.

    cells: beginnings of ids, all where there are none. StoreError where one is none or was not trained. What cannot be
    repeated stands in the plan's notices. frame: as for run.
    """
    from lorabench.runner.plan import Plan, describe_cells, readable_results
    from lorabench.runner.repeat import cells_named, repeatable_phases

    if (imported := store.study().imported) is not None:
        raise refuse_imported(str(store.folder), imported.importer)
    refuse_links(store)
    put_back(store)
    named, planned = cells_named(store, cells), store.plan()
    results = readable_results(store, named)
    phases_of_cell, notices = repeatable_phases(store, named, results, again=again, all_trained=bool(cells))
    repeated, words = tuple(c for c in planned if c.id in phases_of_cell), describe_cells(planned)
    plan = Plan(
        store.study(), store, repeated, repeated, words, notices, results=results
    )  # the others are no part of it: nothing is to be run of them
    with pool or WorkerPool() as pool:
        refuse_mixture(plan, pool.executor)
        if progress:
            progress.begin(plan)
        try:
            CellQueue(plan, pool, progress, (), False, phases_of_cell).run()
        finally:
            if progress:
                progress.close()
            with suppress(LorabenchError):
                write_cells_csv(plan, frame)
    return plan


def refuse_mixture(plan: Plan, executor: str | None) -> None:
    """StoreError where measured and invented results would stand in one folder."""
    if executor is None:
        return
    devices: dict[bool, str] = {}
    for cell in plan.cells:
        result = plan.results.get(cell.id)
        if result is not None and result.environment is not None:
            devices[is_invented(result)] = result.environment.device
    if (not invents(executor)) in devices:
        kind = f"invented results of the executor {devices[True]}" if True in devices else "measured results"
        raise StoreError(f"{plan.store.folder} holds {kind}; choose another folder with --out DIR")


def check(
    plan: Plan,
    pool: WorkerPool,
    source: Source | None,
    skip_infeasible: bool = False,
    calibrations: Path | None = None,
) -> Plan:
    """The plan with what is to be told before the run; StudyError, with its place in the file, where a pending cell
    cannot run as declared.

    One replicate of each condition is asked. With skip_infeasible a condition that cannot fit into memory is no fault:
    it will be skipped.
    """
    from lorabench.runner.changes import other_dtypes
    from lorabench.runner.keep import notes
    from lorabench.runner.plan import condition_words, problem_sentence

    cells = tuple({c.condition_id: c for c in reversed(plan.pending)}.values())[::-1]
    if pool.executor == "local":
        refuse_absent_models(plan, source, cells)
    by_id = {c.id: c for c in cells}
    problems = tuple(
        (
            replace(
                p,
                message=f"{condition_words(plan.words, by_id[p.cell])}, {p.message}",
                fatal=p.fatal and not skip_infeasible,
            )
            if p.about_cell
            else p
        )
        for p in pool.first.check(cells, *([calibrations] if calibrations else []))
    )
    faults = tuple(p for p in problems if p.fatal)
    if faults:
        raise StudyError(problem_sentence(plan.study, source, cells, faults))
    notices = list(dict.fromkeys(p.message for p in problems if not p.about_cell))
    large = [p.message for p in problems if p.about_cell]
    notices += large[:SHOWN_LARGE]
    if len(large) > SHOWN_LARGE:
        notices.append(
            f"{len(large) - SHOWN_LARGE} more of {len(cells)} conditions may not or would not fit into memory either"
        )
    notices += [told] if (told := other_dtypes(plan.results.values())) else []
    limited = _arrange(pool, plan)
    notices += [told] if (told := pool.one_at_a_time(len(plan.pending), limited)) else []
    need = disk_need(plan.pending, getattr(pool.first, "disk", {}), pool.workers, plan.store.folder)
    notices += [need.warning()] if need is not None and need.is_short else []
    return replace(plan, notices=(*plan.notices, *notices, *notes(plan)), large=len(large), disk=need)


def _arrange(pool: WorkerPool, plan: Plan) -> bool:
    """How many of the pending cells run at a time; one where any has a limit in seconds, which was meant for the whole
    machine, and whether that is so."""
    limited = any(c.training.time_limit for c in plan.pending)
    pool.arrange(1 if limited else len(plan.pending))
    return limited


def refuse_absent_models(plan: Plan, source: Source | None, cells: Sequence[Cell]) -> None:
    """StudyError where a hub model is neither on this machine nor to be had: known here, without the worker's
    imports."""
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
