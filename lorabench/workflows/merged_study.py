"""The study of several results directories: the first one's, with the seeds and the conditions of all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorabench.config.fingerprint import flattened
from lorabench.config.study import Cell, Study
from lorabench.errors import StoreError

_APART = ("name", "question", "grid", "include", "seeds", "published", "imported", "schema")
_FREE = ("save.", "analysis.spectra", "training.checkpoint_every", "training.time_limit")  # no outcome depends on them


def joined_study(studies: Sequence[tuple[Path, Study]]) -> Study:
    """The first study with the seeds, grids and further conditions of the others; StoreError where their base setting,
    reference or comparison is not the same. Paths may differ from machine to machine: what they lead to is part of
    each cell's id."""
    (first_folder, joined), *others = studies
    for folder, study in others:
        if odd := _difference(joined, study):
            key, here, there = odd
            raise StoreError(
                f"{folder} holds another study than {first_folder}: {key} is {there} there and {here} here; merge joins"
                f" parts of one study, lorabench report {first_folder} --compare {folder} shows two beside each other"
            )
        seeds = tuple(dict.fromkeys((*joined.seeds, *study.seeds)))
        grid, entries = _joined_grid(joined, study)
        include = (*joined.include, *(e for e in (*entries, *study.include) if e not in joined.include))
        joined = joined.model_copy(update={"seeds": seeds, "grid": grid, "include": include})
    return joined


def joined_cells(plans: Sequence[tuple[Cell, ...]], seeds: Sequence[int]) -> tuple[Cell, ...]:
    """Each cell of several plans once, each condition with all seeds; an untrained base has no seed to vary, and is one
    cell."""
    by_condition: dict[str, dict[str, Cell]] = {}
    for cell in (c for plan in plans for c in plan):
        own = by_condition.setdefault(cell.condition_id, {})
        if cell.training.steps or not own:
            own.setdefault(cell.id, cell)
    cells: dict[str, Cell] = {}
    for own in by_condition.values():
        for cell in own.values():
            cells.setdefault(cell.id, cell)
        for cell in [c for c in own.values() if c.training.steps]:
            for seed in seeds:
                other = cell if cell.seed == seed else cell.model_copy(update={"seed": seed})
                cells.setdefault(other.id, other)
    return tuple(cells.values())


def _difference(one: Study, other: Study) -> tuple[str, str, str] | None:
    """The first setting in which two studies differ that are to be one, with its values."""
    here, there = (
        {k: v for k, v in flattened(s.model_dump(mode="json", by_alias=True)).items() if k.split(".")[0] not in _APART}
        for s in (one, other)
    )
    for key in dict.fromkeys((*here, *there)):
        a, b = here.get(key), there.get(key)
        if a != b and not key.startswith(_FREE) and not (_is_path(a) and _is_path(b)):
            return key, _words(a), _words(b)
    return None


def _is_path(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(v, str) and Path(v).is_absolute() for v in values)


def _words(value: object) -> str:
    return "not set" if value is None else str(value)


def _joined_grid(one: Study, other: Study) -> tuple[dict[str, tuple[object, ...]], tuple[dict[str, object], ...]]:
    """One grid for both where they differ in the values of one axis; else the first, and the other as an entry of
    `include`."""
    if one.grid == other.grid:
        return one.grid, ()
    apart = [axis for axis in one.grid if one.grid[axis] != other.grid.get(axis)]
    if len(apart) == 1 and set(one.grid) == set(other.grid):
        axis = apart[0]
        values = (*one.grid[axis], *(v for v in other.grid[axis] if v not in one.grid[axis]))
        return {**one.grid, axis: values}, ()
    return one.grid, ({"grid": dict(other.grid)} if other.grid else {},)
