"""Which cells of a study with tuning_seeds are wanted now: the learning rates that the first seeds have not chosen yet
keep the other seeds waiting, and of a chosen one the other seeds' cells alone are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lorabench.config.study import Cell, Study
from lorabench.record.result import CellResult
from lorabench.record.tuned_rate import RateRecord, best_learning_rate


def wanted(study: Study, cells: Iterable[Cell], results: Mapping[str, CellResult]) -> tuple[Cell, ...]:
    """The cells that are wanted with these results (by cell id), in their order; all where all seeds choose."""
    if study.tuning_seeds is None:
        return tuple(cells)
    cells, choosing = tuple(cells), study.seeds[: study.tuning_seeds]
    groups = _choosing(study, cells).items()
    rates = {i: _chosen(members, results) for i, members in groups if all(c.id in results for c in members)}
    return tuple(
        c
        for c in cells
        if not c.tuned_over or c.seed in choosing or c.training.fixed_learning_rate == rates.get(c.condition_id)
    )


def waiting(study: Study, cells: Iterable[Cell], results: Mapping[str, CellResult]) -> int:
    """Conditions whose other seeds wait for their learning rate."""
    if study.tuning_seeds is None or study.tuning_seeds >= len(study.seeds):
        return 0
    groups = _choosing(study, cells).values()
    return sum(any(c.id not in results for c in members) for members in groups)


def _choosing(study: Study, cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """By condition the cells that choose its learning rate."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.tuned_over and cell.seed in study.seeds[: study.tuning_seeds]:
            groups.setdefault(cell.condition_id, []).append(cell)
    return groups


def _chosen(cells: Iterable[Cell], results: Mapping[str, CellResult]) -> float:
    """Of cells that all have results."""
    records: dict[float, RateRecord] = {}
    for cell in cells:
        result, rate = results[cell.id], cell.training.fixed_learning_rate
        before = records.get(rate, RateRecord((), 0))
        loss = result.value("validation_loss")
        if result.outcome == "finished" and loss is not None:
            records[rate] = RateRecord((*before.losses, loss), before.broken)
        else:
            records[rate] = RateRecord(before.losses, before.broken + 1)
    return best_learning_rate(records)
