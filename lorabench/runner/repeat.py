"""What of a trained cell is to be done again without training: its evaluation, and analyses that failed or are missing.

The cell's folder is copied beside itself (its weights by links), the phases run there, and the copy takes the folder's
place when it is whole: a repetition that is stopped or fails leaves what there was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from lorabench.config.study import Cell
from lorabench.errors import StoreError
from lorabench.record.cell_files import ADAPTER, MODEL, has_weights
from lorabench.record.result import REPEATED, CellResult, Phase
from lorabench.record.store import Store
from lorabench.runner.invented import is_invented

_MORE = {"none": 0, "values": 1, "full": 2}


def phases_of(cell: Cell, result: CellResult, folder: Path, *, again: bool = False) -> tuple[Phase, ...]:
    """The phases of a trained cell that failed or are missing; with `again` its evaluation in any case. `cell` is as
    the study wants it now."""
    if not result.is_trained:
        return ()
    if result.outcome != "finished":
        return REPEATED
    wanted: set[Phase] = {f.phase for f in result.faults if f.phase in REPEATED}
    if again:
        wanted.add("evaluate")
        if (folder / "truncation.csv").is_file():
            wanted.add("truncate")
    if cell.training.steps:
        kept = (folder / "spectra.safetensors").is_file()
        if cell.analysis.spectra != "none" and (
            not kept or _MORE[result.cell.analysis.spectra] < _MORE[cell.analysis.spectra]
        ):
            wanted.add("decompose")
        if cell.analysis.truncation and not (folder / "truncation.csv").is_file():
            wanted.add("truncate")
    return tuple(p for p in REPEATED if p in wanted)


def lacking(store: Store, cells: Iterable[Cell]) -> tuple[str, ...]:
    """A sentence where finished cells lack analyses that the study asks for now: what is analysed is no part of a
    cell's id, so no run makes them."""
    found = [cell for cell in cells if cell.training.steps and cell.analysis.spectra != "none" and _lacks(store, cell)]
    if not found:
        return ()
    able = sum(can_repeat(cell, store.cells_folder / cell.id) for cell in found)
    way = (
        f"lorabench evaluate {store.folder} makes them without training"
        if able == len(found)
        else f"the weights of {len(found) - able} were not kept, so these have to be trained again"
    )
    return (
        (
            f"{len(found)} finished cell{'s have' if len(found) > 1 else ' has'} no spectra, or fewer than"
            f" analysis.spectra asks for now; {way}"
        ),
    )


def _lacks(store: Store, cell: Cell) -> bool:
    result = store.readable(cell.id, cell)
    if result is None or result.outcome != "finished" or is_invented(result):
        return False
    return "decompose" in phases_of(cell, result, store.cells_folder / cell.id) and not any(
        f.phase == "decompose" for f in result.faults
    )


def can_repeat(cell: Cell, folder: Path) -> bool:
    """Whether the weights that it needs are there; an untrained base needs none."""
    return not cell.training.steps or has_weights(folder)


def lay_out(final: Path, partial: Path) -> None:
    """A copy of a cell's folder to work in."""
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in final.iterdir():
        if path.name in (ADAPTER, MODEL):
            shutil.copytree(path, partial / path.name, copy_function=_linked)
        elif path.is_file():
            shutil.copy2(path, partial / path.name)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def chosen(store: Store, ids: Sequence[str], again: bool) -> tuple[dict[str, tuple[Phase, ...]], tuple[str, ...]]:
    """The phases of each cell that are to be repeated, of all cells or those whose ids begin so; and a sentence for
    each whose weights were not kept.

    StoreError for an id that is none, or of a cell that was not trained.
    """
    cells = store.plan()
    named = _named(store, cells, ids)
    wanted: dict[str, tuple[Phase, ...]] = {}
    told = []
    for cell in named:
        result = store.readable(cell.id)
        if result is None or not result.is_trained:
            if ids:
                how = (
                    "has no result"
                    if result is None
                    else f"is {result.outcome.replace('_', ' ')} before it was evaluated"
                )
                raise StoreError(
                    f"cell {cell.id} {how}, so there is nothing to evaluate; train it with: lorabench run"
                    f" {store.folder / 'study.yaml'} --out {store.folder}"
                )
            continue
        folder = store.cells_folder / cell.id
        phases = phases_of(cell, result, folder, again=again)
        if not phases:
            continue
        if can_repeat(cell, folder):
            wanted[cell.id] = phases
        else:
            which, key = ("weights", "full") if cell.method.target_modules is None else ("adapter", "adapter")
            told.append(
                f"cell {cell.id}: its {which} {'were' if which == 'weights' else 'was'} not kept, so"
                f" {' and '.join(phases)} cannot be repeated; remove {folder} and run the study again with"
                f" save.{key}: all"
            )
    return wanted, tuple(told)


def _named(store: Store, cells: Iterable[Cell], ids: Sequence[str]) -> tuple[Cell, ...]:
    cells = tuple(cells)
    if not ids:
        return cells
    found: dict[str, Cell] = {}
    for prefix in ids:
        near = [c for c in cells if c.id.startswith(prefix)]
        if len(near) != 1:
            which = "is none" if not near else f"are {len(near)}"
            raise StoreError(
                f"there {which} of the cells in {store.folder} whose id starts with '{prefix}'; `lorabench status"
                f" {store.folder}` lists them"
            )
        found[near[0].id] = near[0]
    return tuple(found.values())
