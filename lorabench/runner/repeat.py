"""What of a trained cell is to be done again without training: its evaluation, and analyses that failed or are missing.

The cell's folder is copied beside itself (its weights by links), the phases run there, and the copy takes the folder's
place when it is whole: a repetition that is stopped or fails leaves what there was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lorabench.config.study import Cell
from lorabench.errors import StoreError
from lorabench.record.cell_files import ADAPTER, MODEL, has_weights
from lorabench.record.checksums import AGAIN
from lorabench.record.result import REPEATED, CellResult, Phase
from lorabench.record.result_file import read_result
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
    phases: set[Phase] = {f.phase for f in result.faults if f.phase in REPEATED}
    if again:
        phases.add("evaluate")
        if (folder / "truncation.csv").is_file():
            phases.add("truncate")
    if cell.training.steps:
        has_spectra = (folder / "spectra.safetensors").is_file()
        if cell.analysis.spectra != "none" and (
            not has_spectra or _MORE[result.cell.analysis.spectra] < _MORE[cell.analysis.spectra]
        ):
            phases.add("decompose")
        if cell.analysis.truncation and not (folder / "truncation.csv").is_file():
            phases.add("truncate")
    return tuple(p for p in REPEATED if p in phases)


def missing_analyses(store: Store, cells: Iterable[Cell], results: Mapping[str, CellResult]) -> tuple[str, ...]:
    """A sentence where finished cells lack analyses that the study asks for now: what is analysed is no part of a
    cell's id, so no run makes them. `results` are the stored ones, by cell id."""
    incomplete = [
        cell
        for cell in cells
        if cell.training.steps
        and cell.analysis.spectra != "none"
        and (result := results.get(cell.id)) is not None
        and _lacks_spectra(cell, result, store.cells_folder / cell.id)
    ]
    if not incomplete:
        return ()
    able = sum(can_repeat(cell, store.cells_folder / cell.id) for cell in incomplete)
    remedy = (
        f"lorabench evaluate {store.folder} computes them without training"
        if able == len(incomplete)
        else f"the weights of {len(incomplete) - able} were not kept, so these have to be trained again"
    )
    return (
        (
            f"{len(incomplete)} finished cell{'s have' if len(incomplete) > 1 else ' has'} no spectra, or fewer than"
            f" analysis.spectra asks for now; {remedy}"
        ),
    )


def _lacks_spectra(cell: Cell, result: CellResult, folder: Path) -> bool:
    if result.outcome != "finished" or is_invented(result):
        return False
    failed = any(f.phase == "decompose" for f in result.faults)
    return not failed and "decompose" in phases_of(cell, result, folder)


def can_repeat(cell: Cell, folder: Path) -> bool:
    """Whether the weights that it needs are there; an untrained base needs none."""
    return not cell.training.steps or has_weights(folder)


def damaged_weights(cell: Cell, folder: Path) -> str | None:
    """What is wrong with the weights that a repetition needs; None where nothing is."""
    try:
        read_result(folder / "result.json", weights=cell.training.steps > 0)
    except StoreError as e:
        return str(e).removesuffix(f"; {AGAIN}")
    return None


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


def repeatable_phases(
    store: Store, cells: Iterable[Cell], results: Mapping[str, CellResult], *, again: bool, all_trained: bool
) -> tuple[dict[str, tuple[Phase, ...]], tuple[str, ...]]:
    """The phases of each cell that are to be repeated, by id, and a sentence for each cell whose weights were not kept.

    again: the evaluation in any case. all_trained: StoreError where a cell was not trained; else it is passed over.
    """
    phases_of_cell: dict[str, tuple[Phase, ...]] = {}
    notices = []
    for cell in cells:
        result = results.get(cell.id)
        if result is None or not result.is_trained:
            if all_trained:
                how = (
                    "has no result"
                    if result is None
                    else f"ended ({result.outcome.replace('_', ' ')}) before it was evaluated"
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
        if fault := damaged_weights(cell, folder):
            notices.append(f"cell {cell.id}: {fault}: remove {folder} and run the study again")
        elif can_repeat(cell, folder):
            phases_of_cell[cell.id] = phases
        else:
            which, key = ("weights", "full") if cell.method.target_modules is None else ("adapter", "adapter")
            notices.append(
                f"cell {cell.id}: its {which} {'were' if which == 'weights' else 'was'} not kept, so"
                f" {' and '.join(phases)} cannot be repeated; remove {folder} and run the study again with"
                f" save.{key}: all"
            )
    return phases_of_cell, tuple(notices)


def cells_named(store: Store, ids: Sequence[str]) -> tuple[Cell, ...]:
    """The cells whose ids begin so, all of a store where `ids` is empty; StoreError where an id is that of no cell, or
    of several.
    """
    cells = store.plan()
    if not ids:
        return cells
    matches: dict[str, Cell] = {}
    for prefix in ids:
        near = [c for c in cells if c.id.startswith(prefix)]
        if len(near) != 1:
            which = f"{len(near)} cells in {store.folder} have ids" if near else f"no cell in {store.folder} has an id"
            raise StoreError(f"{which} starting with '{prefix}'; `lorabench status {store.folder} --cells` lists them")
        matches[near[0].id] = near[0]
    return tuple(matches.values())
