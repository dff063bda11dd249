"""Joins results directories from several machines into a new one.

A cell that several of them hold is taken once: a record that stays (finished, then diverged or out of memory) before
one that is to be run again (failed, skipped); of equal ones that of the directory named first. Where both finished,
what they measured is kept side by side in merged.json, and differences become a finding. A damaged record is named and
left out, one whose weights alone are damaged too, and one that holds a symbolic link, since what it points to may be
anything. Every copy is read again, weights included, before it counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lorabench.config.decision import deciding_metric
from lorabench.config.study import Cell, Study
from lorabench.errors import StoreError
from lorabench.formatting import plural
from lorabench.record.archive import opened
from lorabench.record.merged import Merged, MergedSource, TwiceRun, write_merged
from lorabench.record.result import CellResult, Outcome
from lorabench.record.result_file import read_result
from lorabench.record.store import Store
from lorabench.record.whole_files import sync, sync_tree
from lorabench.workflows.merged_study import joined_cells, joined_study

ORDER: tuple[Outcome, ...] = ("finished", "diverged", "out_of_memory", "failed", "skipped")
"""which of two records of a cell is taken"""


@dataclass(frozen=True)
class MergedStore:
    """A results directory that was joined, and what is to be told of it."""

    store: Store
    merged: Merged
    left_out: tuple[str, ...]
    """a sentence for each record that could not be read"""

    def words(self) -> tuple[str, ...]:
        """What was taken from where, and which cells finished twice."""
        sentences = []
        for source in self.merged.sources:
            where = f" ({', '.join(source.devices)})" if source.devices else ""
            sentences.append(f"{plural(source.cells, 'record')} of {source.folder}{where}")
        twice = self.merged.twice
        if twice:
            most = max(twice, key=lambda t: t.difference)
            same = sum(t.difference == 0 for t in twice)
            sentences.append(
                f"{plural(len(twice), 'cell')} finished in two directories, {same} of them with the same {most.metric},"
                f" the others with up to {most.difference:.2g} between them; the record of the directory named first is"
                " kept"
            )
        return tuple(sentences)


def merge(folders: Sequence[str | Path], out: str | Path) -> MergedStore:
    """The joined directory; StoreError where there are fewer than two, they are no parts of one study, or `out` is in
    use."""
    paths = [Path(f) for f in folders]
    if len(paths) < 2:
        raise StoreError("one results directory needs no merging; name two or more, and the new one with -o DIR")
    if twice := next((p for i, p in enumerate(paths) if p.resolve() in [q.resolve() for q in paths[:i]]), None):
        raise StoreError(f"{twice} is named twice; name each results directory once")
    target = Store(out)
    _refuse_used(target)
    with ExitStack() as stack:
        stores = [stack.enter_context(opened(path)) for path in paths]
        studies = [(path, store.study()) for path, store in zip(paths, stores, strict=True)]
        if imported := next((path for path, study in studies if study.imported is not None), None):
            raise StoreError(f"{imported} holds an imported study; import all of its files at once in place of merging")
        study = joined_study(studies)
        seeds = study.seeds if study.tuning_seeds is None else ()  # else only the chosen rate runs on all
        cells = joined_cells([store.plan() for store in stores], seeds)
        try:
            return _joined(target, paths, stores, study, cells)
        except OSError as e:
            raise StoreError(
                f"{target.folder} cannot be written ({_reason(e)}); free some space, or choose another folder with"
                " -o DIR"
            ) from None


def _reason(error: OSError) -> str:
    """The system's words; of shutil, which gathers the faults of a tree, the first one's."""
    return error.strerror or str(error.args[0][0][2] if isinstance(error, shutil.Error) else error)


def _refuse_used(target: Store) -> None:
    """StoreError where the new directory holds anything but what a merge left that was stopped."""
    inside = {p.name for p in target.folder.iterdir()} if target.folder.is_dir() else set()
    if target.folder.is_file() or inside - {"cells", "claims"}:
        raise StoreError(f"{target.folder} is in use; choose a new or empty folder with -o DIR")


def _joined(
    target: Store, paths: Sequence[Path], stores: Sequence[Store], study: Study, cells: Sequence[Cell]
) -> MergedStore:
    taken: dict[str, tuple[int, CellResult]] = {}
    others: list[tuple[int, CellResult]] = []
    left_out: list[str] = []
    for number, store in enumerate(stores):
        for cell in cells:
            try:
                _refuse_links(store.cells_folder / cell.id)
                result = _whole(store, cell.id)
            except StoreError as e:
                left_out.append(str(e))
                continue
            if result is None:
                continue
            before = taken.get(cell.id)
            if before is None:
                taken[cell.id] = number, result
            elif ORDER.index(result.outcome) < ORDER.index(before[1].outcome):
                taken[cell.id] = number, result
                others.append(before)
            else:
                others.append((number, result))
    _refuse_mixture(paths, taken)
    target.cells_folder.mkdir(parents=True, exist_ok=True)
    for cell_id, (number, _) in taken.items():
        _copy(stores[number].cells_folder / cell_id, target, cell_id)
    name = deciding_metric(
        study.comparison, (c.task for c in cells), {r.metric for _, result in taken.values() for r in result.readings}
    )
    merged = Merged(
        sources=tuple(_source(path, [r for n, r in taken.values() if n == i]) for i, path in enumerate(paths)),
        twice=tuple(t for number, result in others if (t := _twice(result, number, taken, paths, name)) is not None),
    )
    write_merged(target.folder, merged)
    target.save_plan(study, cells, stores[0].inputs())  # last: without it the folder is none of a study
    return MergedStore(target, merged, tuple(left_out))


def _refuse_mixture(paths: Sequence[Path], taken: dict[str, tuple[int, CellResult]]) -> None:
    from lorabench.runner.invented import is_invented

    where = {is_invented(result): paths[number] for number, result in taken.values()}
    if len(where) == 2:
        raise StoreError(f"{where[True]} holds invented results and {where[False]} measured ones; merge one kind")


def _refuse_links(folder: Path) -> None:
    """StoreError where a record holds a symbolic link, which a copy would follow."""
    if link := next((path for path in folder.rglob("*") if path.is_symlink()), None):
        raise StoreError(f"{link} is a symbolic link, which merge does not follow; put what it points to in its place")


def _copy(source: Path, target: Store, cell_id: str) -> None:
    """Whole or not at all, and read again."""
    partial, final = target.partial(cell_id), target.cells_folder / cell_id
    for left in (partial, final):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns("*.old", "checkpoint.pt"))
    sync_tree(partial)
    partial.rename(final)
    sync(target.cells_folder)
    _whole(target, cell_id)


def _whole(store: Store, cell_id: str) -> CellResult | None:
    """A cell's record where every file of it is what was written, None where there is none; StoreError where one is
    not."""
    result = store.get(cell_id, contents=True)
    if result is not None:
        read_result(store.cells_folder / cell_id / "result.json", result.cell, weights=True)
    return result


def _source(path: Path, results: list[CellResult]) -> MergedSource:
    devices = dict.fromkeys(r.environment.device for r in results if r.environment is not None)
    return MergedSource(folder=str(path.absolute()), cells=len(results), devices=tuple(devices))


def _twice(
    other: CellResult, number: int, taken: dict[str, tuple[int, CellResult]], paths: Sequence[Path], name: str
) -> TwiceRun | None:
    kept_number, kept = taken[other.cell.id]
    here, there = kept.value(name), other.value(name)
    if kept.outcome != "finished" or other.outcome != "finished" or here is None or there is None:
        return None
    kept_in, other_in = (str(paths[i].absolute()) for i in (kept_number, number))
    return TwiceRun(cell=other.cell.id, kept_in=kept_in, other_in=other_in, metric=name, kept=here, other=there)
