"""Which weights stay on disk once a cell has finished (`save`).

    none    taken away once the cell has finished and nothing of it is left to repeat
    best    of each condition the best cell's: at the learning rate that it chose (lowest mean validation loss,
            analysis.tuning's rule), of its seeds the one that is best in the study's metric. A worse seed of a rate
            loses its weights as soon as a better one has finished; a rate that was not chosen, when all cells of the
            condition have a result, since until then the choice may change
    all     kept

Runners that share a store take turns at a condition. Cells that failed in evaluation keep what they have: it is what
the repetition needs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from filelock import FileLock

from lorabench import formatting
from lorabench.config.study import Cell
from lorabench.formatting import plural
from lorabench.record.cell_files import ADAPTER, MODEL, remove_weights
from lorabench.record.metrics import metric
from lorabench.record.result import BROKEN, CellResult
from lorabench.record.store import Store
from lorabench.record.tuned_rate import RateRecord, best_learning_rate
from lorabench.runner.invented import is_invented

if TYPE_CHECKING:
    from lorabench.runner.plan import Plan


def remove_unneeded_weights(store: Store, cells: Sequence[Cell], cell: Cell, decided_by: str) -> None:
    """Takes away what `save` does not ask for of a cell's condition, now that the cell has a result; cells are those
    that the study wants, or those of the condition alone."""
    policies = {n: p for n, p in ((ADAPTER, cell.save.adapter), (MODEL, cell.save.full)) if p != "all"}
    if not policies:
        return
    condition_cells = [c for c in cells if c.condition_id == cell.condition_id]
    if not any(os.path.exists(f"{store.cells_folder}/{c.id}/{name}") for c in condition_cells for name in policies):
        return  # and no result of other seeds has to be read
    with FileLock(store.claims_folder / f"keep-{cell.condition_id}.lock"):
        results = {c.id: r for c in condition_cells if (r := store.readable(c.id, c)) is not None}
        done = {i for i, r in results.items() if r.outcome == "finished" and not r.faults}
        best = _best_cells(condition_cells, results, decided_by) if "best" in policies.values() else frozenset()
        for name, policy in policies.items():
            for cell_id in done - best if policy == "best" else done:
                if (store.cells_folder / cell_id / name).exists():
                    remove_weights(store.cells_folder / cell_id, name)


def _best_cells(cells: Sequence[Cell], results: dict[str, CellResult], decided_by: str) -> frozenset[str]:
    best: dict[float, str] = {}
    for learning_rate in {c.training.fixed_learning_rate for c in cells}:
        able = [
            r
            for c in cells
            if c.training.fixed_learning_rate == learning_rate
            and (r := results.get(c.id)) is not None
            and r.outcome == "finished"
        ]
        if able:
            best[learning_rate] = min(able, key=lambda r: (_badness(r, decided_by), r.cell.seed)).cell.id
    if len(results) < len(cells) or any(r.outcome in ("failed", "skipped") for r in results.values()) or len(best) < 2:
        return frozenset(best.values())
    return frozenset({best[_selected_learning_rate(cells, results, sorted(best))]})


def _badness(result: CellResult, decided_by: str) -> float:
    value = result.value(decided_by)
    if value is None:
        decided_by, value = "eval_loss", result.value("eval_loss")
    return math.inf if value is None else -value if metric(decided_by).better == "higher" else value


def _selected_learning_rate(
    cells: Sequence[Cell], results: dict[str, CellResult], learning_rates: Sequence[float]
) -> float:
    """The learning rate that the condition is reported at."""
    records = {}
    for learning_rate in learning_rates:
        own = [results[c.id] for c in cells if c.training.fixed_learning_rate == learning_rate and c.id in results]
        losses = [v for r in own if r.outcome == "finished" and (v := r.value("validation_loss")) is not None]
        records[learning_rate] = RateRecord(losses, sum(r.outcome in BROKEN for r in own))
    return best_learning_rate(records)


def notes(plan: Plan) -> tuple[str, ...]:
    """What is kept of full fine-tuning, with its size where that can be told, and which finished cells lack weights
    that `save` asks for now."""
    sentences = []
    cells = plan.cells
    whole = [c for c in cells if c.method.name == "full" and c.training.steps]
    pending_ids = {c.id for c in plan.pending}
    to_run = [c for c in whole if c.id in pending_ids]
    if to_run:
        policy = to_run[0].save.full
        size = _bytes_of(to_run[0])
        each = f" x {formatting.size(size)}" if size else ""
        if policy == "none":
            sentences.append(
                f"full fine-tuning's weights ({plural(len(to_run), 'cell')}{each}) are not kept;"
                " save.full: best or all keeps them"
            )
        else:
            number = len(to_run) if policy == "all" else len({c.condition_id for c in to_run})
            sentences.append(
                f"full fine-tuning's weights: {plural(number, 'cell')}{each} are kept (save.full: {policy})"
            )
    for name, which in (
        (MODEL, whole),
        (ADAPTER, [c for c in cells if c.method.target_modules is not None and c.training.steps]),
    ):
        lacking = [
            c
            for c in which
            if (c.save.full if name == MODEL else c.save.adapter) == "all"
            and c.id not in pending_ids
            and not (plan.store.cells_folder / c.id / name).is_dir()
            and (r := plan.results.get(c.id)) is not None
            and r.outcome == "finished"
            and not is_invented(r)
        ]
        if lacking:
            what = "weights" if name == MODEL else "adapters"
            sentences.append(
                f"{plural(len(lacking), 'finished cell')}"
                f" ({lacking[0].id}{' and others' if len(lacking) > 1 else ''}) ran without keeping {what}, which save"
                f" asks for now; remove {'their folders' if len(lacking) > 1 else 'its folder'} to train again"
            )
    return tuple(sentences)


def _bytes_of(cell: Cell) -> int | None:
    """Bytes of a local model's weights in the precision that full fine-tuning trains in."""
    from lorabench.config.checkpoint_files import stored_tensors
    from lorabench.config.gguf_file import gguf_of
    from lorabench.config.paths import model_directory

    folder = model_directory(cell.model.name)
    if folder is None:
        return None
    try:
        gguf, stored = gguf_of(folder), (t for f in folder.glob("*.safetensors") for t in stored_tensors((f,)).values())
        numbers = gguf.numbers if gguf else sum(math.prod(t.shape) for t in stored)
    except Exception:  # a damaged file is told of when it is loaded
        return None
    return numbers * (4 if cell.model.dtype in ("auto", "float32") else 2) or None
