"""What is told of a study's cells: before a run, after it, and whenever status asks."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lorabench.commands.output import columns
from lorabench.config.decision import deciding_metric
from lorabench.errors import DamagedRecordError, StoreError
from lorabench.formatting import plural

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.record.result import CellResult
    from lorabench.record.store import Store
    from lorabench.runner.plan import Plan

LONGER = "; to see how long it takes and what it needs: lorabench plan STUDY --gpu cpu (or a card)"


def dry_run(plan: Plan, workers: int = 1) -> str:
    """The cells of a study, which of them would run, and what the check had to tell."""
    from lorabench.runner.progress import headline

    pending = {c.id for c in plan.pending}
    rows = [f"{c.id}  {'pending' if c.id in pending else 'done':<7}  {plan.words[c.id]}" for c in plan.cells]
    checked = "every pending cell can run as declared" if plan.pending else "nothing is left to run"
    checked += f", but {plural(plan.large, 'condition')} may not or would not fit into memory" if plan.large else ""
    notes = [f"note: {notice}" for notice in plan.notices]
    notes += [f"disk: {plan.disk.words()} in {plan.disk.folder}"] if plan.disk and not plan.disk.is_short else []
    return "\n".join(
        [
            headline(plan, workers),
            f"{'cell':<12}  {'status':<7}  condition",
            *rows,
            *notes,
            f"dry run: {checked}; nothing was run or written{LONGER if plan.pending else ''}",
        ]
    )


def status(store: Store, every: bool = False) -> str:
    """Cells by outcome, then each that runs, failed or is missing; with `every` a line for each cell, to be
    searched."""
    from lorabench.runner.changes import standing_changes
    from lorabench.runner.plan import describe_cells

    cells = store.plan()
    words = describe_cells(cells)
    outcomes, rows = [], []
    for cell in cells:
        word, reason = outcome_of(store, cell)
        outcomes.append(word)
        if word != "finished" or reason:
            rows.append(f"{word.replace('_', ' '):<13}  {cell.id}  {words[cell.id]}{reason}")
    repeatable = any(" failed: " in row for row in rows if row.startswith("finished"))
    if every:
        rows = cell_rows(store, cells, words)
    counts = ", ".join(f"{n} {word.replace('_', ' ')}" for word, n in Counter(outcomes).most_common())
    lines = [f"{store.folder}: {plural(len(cells), 'cell')}: {counts}", *rows]
    lines += [f"note: {sentence}" for sentence in (*standing_changes(store), *_left_behind(store))]
    if repeatable:
        lines.append(f"to repeat what failed after training: lorabench evaluate {store.folder}")
    imported = store.study().imported
    if imported is not None:
        lines.append(f"imported ({imported.importer}): nothing of it was run here, and nothing is left to run")
    elif {"missing", "failed", "skipped", "damaged", "unreadable"} & set(outcomes):
        lines.append(
            f"to run what is missing, failed, skipped or damaged: lorabench run {store.folder / 'study.yaml'} --out"
            f" {store.folder}"
        )
    if not every:
        lines.append(f"each cell with its id and result: lorabench status {store.folder} --cells")
    return "\n".join(lines)


def cell_rows(store: Store, cells: Iterable[Cell], words: Mapping[str, str]) -> list[str]:
    """A line for each cell: id, outcome, seconds of training, the study's metric, its words."""
    from lorabench.record.metrics import metric

    name = main_metric(store)
    rows = [("cell", "outcome", "seconds", name, "words")]
    for cell in cells:
        result = None
        with contextlib.suppress(StoreError):
            result = store.get(cell.id, cell)
        word, _ = outcome_of(store, cell, result)
        seconds = None if result is None else result.value("train_seconds")
        value = None if result is None else result.value(name)
        rows.append(
            (
                cell.id,
                word.replace("_", " "),
                "-" if seconds is None else f"{seconds:.1f}",
                "-" if value is None else in_unit(value, metric(name).unit).strip(),
                words[cell.id],
            )
        )
    return columns(rows, left=(0, 1, 4))


def main_metric(store: Store) -> str:
    """What the study's answer is about."""
    return deciding_metric(store.study().comparison, (c.task for c in store.plan()))


def _left_behind(store: Store) -> list[str]:
    """What cells/ holds beside what the study asks for, and by which changes."""
    left = set(store.left_behind())
    if not left:
        return []
    lines = [
        f"{plural(len(left), 'further result')} in {store.cells_folder} {'belongs' if len(left) == 1 else 'belong'} to"
        " earlier versions of this study; no table or report shows them"
    ]
    lines += [f"{change.at[:10]}: {change.words}" for change in store.earlier() if left & set(change.cells)]
    return lines


def outcome_of(store: Store, cell: Cell, result: CellResult | None = None) -> tuple[str, str]:
    """A cell's outcome (also running, missing, damaged, unreadable) and its reason with the path of its log, empty
    where there is none; `result` is the cell's, where it was read already."""
    try:
        result = result or store.get(cell.id, cell)
    except StoreError as e:
        return "damaged" if isinstance(e, DamagedRecordError) else "unreadable", f": {e}"
    if (result is None or store.partial(cell.id).exists()) and store.is_claimed(cell.id):
        return "running", ""  # what runs again has a .partial folder beside its former result
    if result is None:
        return "missing", ""
    if not result.error and not result.faults:
        return result.outcome, ""
    log = store.cells_folder / cell.id / "log.txt"
    where = f" (log: {log})" if log.exists() else ""
    reason = f": {reason_of(result)}{where}" if result.error else ""
    if result.outcome in ("failed", "out_of_memory") and result.is_trained:
        reason += f"; trained: repeat its evaluation alone with lorabench evaluate {store.folder} {cell.id}"
    return result.outcome, reason + _later_failures(result, where)


def _later_failures(result: CellResult, where: str) -> str:
    """What failed after the evaluation, which ends no cell."""
    from lorabench.runner.progress import AFTERWARDS

    failures = [f"{AFTERWARDS[f.phase or 'measure']} failed: {f.message}" for f in result.faults]
    return f": {'; '.join(failures)}{where}" if failures else ""


def reason_of(result: CellResult) -> str:
    """Why a result that has an error did not finish, with the step."""
    error = result.error
    assert error is not None
    kind = "" if error.kind in error.message else f"{error.kind}: "
    step = f" (step {error.step})" if error.step is not None and f"step {error.step}" not in error.message else ""
    return f"{kind}{error.message}{step}"


def unfinished(plan: Plan, results: Mapping[str, CellResult]) -> list[tuple[bool, str]]:
    """A line for each cell that has not finished, with its reason and log, and whether that may be: skipped as was
    asked for, or diverged at a learning rate that was one of several to try."""
    rows = []
    for cell in plan.cells:
        word, reason = outcome_of(plan.store, cell, results.get(cell.id))
        if word != "finished":
            rows.append(
                (
                    word == "skipped" or (word == "diverged" and bool(cell.tuned_over)),
                    f"{word.replace('_', ' ')}: {plan.words[cell.id]} ({cell.id}){reason}",
                )
            )
    return rows


def in_unit(value: float, unit: str) -> str:
    """A metric's value with its unit: "1.23 GB", "0.1234 nats", "71.2 %"."""
    if unit == "bytes":
        for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if value >= size:
                return f"{value / size:.2f} {name}"
        return f"{value:.0f} bytes"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "share":  # as in tables
        return f"{100 * value:.1f} %"
    shown = f"{value:,.0f}" if value >= 10_000 else f"{value:.4g}"
    return shown + {"percent": " %", "ratio": ""}.get(unit, f" {unit}")
