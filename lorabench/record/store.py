"""The results directory of a study, and how it stays whole when runs are killed or share it.

    DIR/study.yaml            the study as run (after --set, paths absolute)
    DIR/plan.json             the wanted cells, the hash of each file that they read, what changed between runs
    DIR/cells/<id>/           result.json, curve.csv, items.safetensors, spectra.safetensors, adapter/, log.txt
    DIR/cells/<id>.partial/   a cell that is being run; checkpoint.pt is what a killed training goes on from
    DIR/cells/<id>.damaged/   a record that could not be read and was run again (record.set_aside)
    DIR/claims/<id>.lock      held (by the operating system) by the runner that runs the cell

A cell is written to its .partial folder, synced, and renamed. A killed runner's lock is released by the system.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from lorabench.config.inputs import Inputs
from lorabench.config.paths import IMPORTED
from lorabench.config.study import Cell, Study
from lorabench.errors import DamagedRecordError, StoreError
from lorabench.record.cell_files import make_readable
from lorabench.record.checksums import damaged, sealed
from lorabench.record.plan_file import EARLIER, Earlier, plan_text, read_cells
from lorabench.record.result import RETRIED, SETTLED, CellResult
from lorabench.record.result_file import first_line, plain_cell, read_result
from lorabench.record.whole_files import stamp, sync, sync_tree, write_atomically, write_where_changed

CHECKPOINT = "checkpoint.pt"
_OF_IMPORTED = ("schema", "name", "question", "seeds", "reference", "comparison", "imported")  # it has no base setting
Block = TypeVar("Block")


class Store:
    """A results directory; `Store.open` for one that must exist already."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.cells_folder = self.folder / "cells"
        self.claims_folder = self.folder / "claims"
        self._known: tuple[tuple[int, int, int], tuple[Study, tuple[Cell, ...]]] | None = None
        self._blocks: dict[str, object] = {}  # what else plan.json has, as it was then
        self._whole: dict[str, tuple[tuple[int, int], CellResult]] = {}  # read with all beside them, as they were then

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """The store of a study that was run; StoreError where the folder is none."""
        store = cls(folder)
        if not store.exists():
            here = sorted(p.parent.name for p in Path("reports").glob("*/plan.json"))
            known = f"studies under reports/: {', '.join(here)}"
            hint = f"; {known if here else 'run one with: lorabench run STUDY.yaml'}"
            raise StoreError(f"{folder} is not a results directory (it has no plan.json){hint}")
        return store

    def exists(self) -> bool:
        """Whether a study has been run here."""
        return (self.folder / "plan.json").is_file()

    def save_plan(
        self, study: Study, cells: Iterable[Cell], inputs: Inputs | None = None, earlier: Iterable[Earlier] = ()
    ) -> None:
        """Records the study as run, its cells, what they read, and what was left behind by changes since the first
        run."""
        import yaml

        self.cells_folder.mkdir(parents=True, exist_ok=True)
        self.claims_folder.mkdir(exist_ok=True)
        plain = {
            k: v
            for k, v in study.model_dump(mode="json", by_alias=True, exclude_none=True).items()
            if v not in ({}, []) and (study.imported is None or k in _OF_IMPORTED)
        }
        write_atomically(
            self.folder / "study.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
        )
        plan: dict[str, object] = {"schema": 1, "study": plain, "cells": ()}
        if inputs is not None:
            plan["inputs"] = inputs.model_dump(mode="json")
        if changes := [e.model_dump(mode="json") for e in earlier]:
            plan["earlier"] = changes
        write_where_changed(self.folder / "plan.json", plan_text(plan, cells))

    def inputs(self) -> Inputs | None:
        """What the cells read when the study was last run; None where that was not recorded."""
        return self._block("inputs", Inputs.model_validate, None)

    def earlier(self) -> tuple[Earlier, ...]:
        """What changed between runs, oldest first."""
        return self._block("earlier", EARLIER.validate_python, ())

    def _block(self, name: str, read: Callable[[object], Block], absent: Block) -> Block:
        """An optional part of plan.json; absent, too, where it is not what this version writes: nothing hangs on it but
        sentences."""
        try:
            if self._known is None or self._known[0] != self._written():
                plain = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
            else:
                plain = self._blocks
            return read(plain[name]) if name in plain else absent
        except (OSError, ValueError, TypeError, RecursionError):
            return absent

    def _written(self) -> tuple[int, int, int]:
        """What changes when plan.json is written anew."""
        state = os.stat(f"{self.folder}/plan.json")
        return state.st_mtime_ns, state.st_size, state.st_ino

    def left_behind(self) -> tuple[str, ...]:
        """Ids of results in cells/ that the plan does not ask for, of earlier versions of the study; no table shows
        them."""
        planned = {c.id for c in self.plan()}
        return tuple(
            sorted(
                p.parent.name
                for p in self.cells_folder.glob("*/result.json")
                if p.parent.name not in planned and "." not in p.parent.name
            )
        )

    def study(self) -> Study:
        """The study as run, paths as they were."""
        return self._read()[0]

    def plan(self) -> tuple[Cell, ...]:
        """The cells that the study wants, in its order."""
        return self._read()[1]

    def _read(self) -> tuple[Study, tuple[Cell, ...]]:
        """plan.json, checked; StoreError where it is not what this version writes. Read anew when the file has
        changed."""
        path = self.folder / "plan.json"
        try:
            written = self._written()
            if self._known is None or self._known[0] != written:
                plan = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(plan, dict) and plan.get("schema", 1) != 1:
                    raise StoreError(
                        f"{path} has schema {plan.get('schema')!r}; this version of lorabench reads 1: install the"
                        " version that wrote it"
                    )
                study = Study.model_validate(plan["study"])
                context = None if study.imported is None else IMPORTED
                self._known = written, (study, read_cells(plan["cells"], context))
                self._blocks = {k: v for k, v in plan.items() if k not in ("study", "cells")}
            return self._known[1]
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError) as e:
            raise StoreError(f"{path} cannot be read ({first_line(e)}); run the study again to rewrite it") from None

    def results(self) -> tuple[CellResult, ...]:
        """The results of the wanted cells that have one which can be read, in the study's order."""
        results = []
        for cell in self.plan():
            if (result := self.whole(cell)) is not None:
                results.append(result if result.cell == cell else result.model_copy(update={"cell": cell}))
        return tuple(results)

    def whole(self, cell: Cell) -> CellResult | None:
        """The result of a cell with its own copy of it, all files beside it looked at; None where there is none which
        can be read. One that was read before and is the same file is not read again."""
        read_at = stamp(f"{self.cells_folder}/{cell.id}/result.json")
        if (known := self._whole.get(cell.id)) is not None and known[0] == read_at:
            return known[1]
        result = self.readable(cell.id, contents=True, expected=cell)
        if result is not None and read_at is not None:
            self._whole[cell.id] = read_at, result
        return result

    def unreadable(self) -> tuple[str, ...]:
        """A sentence for each wanted cell whose result cannot be read; other cells are none the worse for it."""
        sentences = []
        for cell in self.plan():
            try:
                known = self._whole.get(cell.id)
                if known is None or known[0] != stamp(f"{self.cells_folder}/{cell.id}/result.json"):
                    self.get(cell.id, cell, contents=True)
            except StoreError as e:
                sentences.append(str(e))
        return tuple(sentences)

    def get(
        self, cell_id: str, cell: Cell | None = None, *, contents: bool = False, expected: Cell | None = None
    ) -> CellResult | None:
        """The result of a cell, None where it has none yet; StoreError where it cannot be read or is damaged.

        contents: those of the files beside it are looked at, too (record.checksums). expected: see read_result.
        """
        path = self.cells_folder / cell_id / "result.json"
        try:
            return read_result(path, cell, contents=contents, expected=expected)
        except FileNotFoundError:
            if path.parent.is_dir():
                raise DamagedRecordError(damaged(path, "it is gone")) from None
            return None

    def readable(
        self, cell_id: str, cell: Cell | None = None, *, contents: bool = False, expected: Cell | None = None
    ) -> CellResult | None:
        """The same, None also where it cannot be read: of a cell that is as good as not run."""
        try:
            return self.get(cell_id, cell, contents=contents, expected=expected)
        except StoreError:
            return None

    def put(self, result: CellResult) -> Path:
        """Makes a cell's .partial folder its result, whole or not at all; a former failure is replaced.

        The checkpoint of its training is deleted; where another start tries the cell again, it stays in a .partial
        folder for that.
        """
        cell_id = result.cell.id
        partial, final = self.partial(cell_id), self.cells_folder / cell_id
        partial.mkdir(parents=True, exist_ok=True)
        plain = result.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"cell"})
        plain = {"schema": plain.pop("schema"), "cell": plain_cell(result.cell), **plain}
        if result.outcome not in RETRIED:
            (partial / CHECKPOINT).unlink(missing_ok=True)
        (partial / "result.json").write_bytes(sealed(plain, partial))  # whole once the folder has its name
        make_readable(partial)
        sync_tree(partial)
        retired = self.cells_folder / f"{cell_id}.old"
        if replaces := final.exists():
            shutil.rmtree(retired, ignore_errors=True)
            final.rename(retired)
        partial.rename(final)
        if replaces:
            shutil.rmtree(retired, ignore_errors=True)
        if (final / CHECKPOINT).exists():
            partial.mkdir()
            (final / CHECKPOINT).rename(partial / CHECKPOINT)
        sync(self.cells_folder)
        return final

    def emptied(self, cell_id: str) -> Path:
        """A cell's .partial folder with nothing in it of a runner that was killed but the checkpoint of its
        training."""
        folder = self.partial(cell_id)
        if folder.is_symlink():  # not this store's: what it points to stays as it is
            folder.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            elif left.name != CHECKPOINT:
                left.unlink(missing_ok=True)
        return folder

    def partial(self, cell_id: str) -> Path:
        """The folder that a cell is written to while it runs."""
        return self.cells_folder / f"{cell_id}.partial"

    def settled(self, cell_id: str) -> bool:
        """Whether a cell has a result that another run would only repeat; a failed or unreadable one has not."""
        return (result := self.readable(cell_id)) is not None and result.outcome in SETTLED

    def find(self, prefix: str) -> CellResult:
        """The result whose cell id starts with a prefix; StoreError where none or several do."""
        near = [c.id for c in self.plan() if c.id.startswith(prefix)]
        if len(near) != 1:
            which = f"{len(near)} cells in {self.folder} have ids" if near else f"no cell in {self.folder} has an id"
            raise StoreError(f"{which} starting with '{prefix}'; `lorabench status {self.folder} --cells` lists them")
        result = self.get(near[0])
        if result is None:
            raise StoreError(f"cell {near[0]} has no result yet; run the study again to complete it")
        return result

    @contextmanager
    def claim(self, cell_id: str) -> Iterator[bool]:
        """Holds a cell for this runner; False where another runner has it. Released by leaving, or by dying."""
        self.claims_folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.claims_folder / f"{cell_id}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def is_claimed(self, cell_id: str) -> bool:
        """Whether a living runner has the cell now."""
        if not (self.claims_folder / f"{cell_id}.lock").exists():
            return False
        try:
            with self.claim(cell_id) as free:
                return not free
        except OSError:  # a folder that may only be read: nothing can run there
            return False
