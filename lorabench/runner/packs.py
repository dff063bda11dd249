"""Packs of a run: how many cells a worker trains together, and what of them its process has trained already.

A pack only saves time. Where it does not fit into memory, or anything else goes wrong in it, its cells train one by
one, and each cell's result is its own either way.
"""

from __future__ import annotations

import importlib.util
import json
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event
    from lorabench.engine.packed import PackedTraining
    from lorabench.record.memory_prediction import MemoryPrediction
    from lorabench.runner.messages import Command

AUTO = 8
"""cells of a pack at most where the user names no number: beyond, what the base costs is shared by so many that little
is left to gain"""
KEPT = "packs"  # folder of a results directory, of packs that are under way
Size = int | None
"""cells of a pack at most, 1 for none; None: as many as gain by it, AUTO at most"""


def fitting(prediction: MemoryPrediction | None, cells: int) -> int:
    """How many cells of a pack fit into what is available, by the prediction of the largest alone: the base once, and
    what a cell adds to it for each; all where nothing was predicted."""
    if prediction is None or not prediction.parts:
        return cells
    base = prediction.parts.get("weights", 0)
    each = prediction.high_bytes - base
    return cells if each <= 0 else max(1, min(cells, (prediction.available_bytes - base) // each))


class PackEngine(Protocol):
    """The functions of an engine that trains packs."""

    def useful_cells(self, cell: Cell) -> int:
        """How many cells like this one gain by training at once on this machine."""

    def train_pack(
        self, cells: Sequence[Cell], report: Callable[[Event], None], kept: Path
    ) -> dict[str, PackedTraining]:
        """By id what became of each; empty where they have to train one by one."""

    def learned_before(
        self, cells: Sequence[Cell], kept: Path, report: Callable[[Event], None]
    ) -> dict[str, PackedTraining]:
        """By id what the cells of the first one's pack learned in an earlier run; empty where nothing is kept of it."""


class TrainedPacks:
    """What a worker's process has trained in packs and no cell has asked for yet."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self._trained: dict[str, PackedTraining] = {}
        self._alone: set[str] = set()
        """cells whose pack was tried and came to nothing"""

    def training(
        self,
        cell: Cell,
        others: Sequence[Cell],
        predict: Callable[[Cell], MemoryPrediction | None],
        report: Callable[[Event], None],
        kept: Path,
        gaining: bool = False,
    ) -> PackedTraining | None:
        """What a cell learned in a pack, which is trained now unless it was; None where the cell is to train alone.

        kept: folder of packs of this study that a run was killed in.
        gaining: whether only so many are to be packed as gain by it.
        """
        if cell.id not in self._trained:
            self._trained = {}
            before = kept.is_dir()
            if (not others and not before) or importlib.util.find_spec(f"{self.engine}.pack") is None:
                return None
            engine: PackEngine = importlib.import_module(f"{self.engine}.pack")  # type: ignore[assignment]
            pack = [cell, *others]
            if before and (trained := engine.learned_before(pack, kept, report)):
                self._trained = trained
                return self._trained.pop(cell.id)
            if not others or cell.id in self._alone:
                return None
            most = len(pack)
            if gaining:
                kinds = {bool(c.method.dropout): c for c in pack}  # dropout asks for padded rows
                most = min(most, *map(engine.useful_cells, kinds.values()))
            if most > 1:
                most = fitting(predict(max(pack, key=lambda c: c.method.rank or 0)), most)
            self._alone |= {c.id for c in pack[:most]}
            if most < 2:
                return None
            try:
                self._trained = engine.train_pack(pack[:most], report, kept)
            except Exception:  # whatever it is, the cells can train alone
                traceback.print_exc()
                _release()
        return self._trained.pop(cell.id, None)


def only_packed(command: Command, pack: Sequence[Cell], on_event: Callable[[Event], None]) -> Callable[[Event], None]:
    """Tells events on; from the first step on the command names those mates alone that train with the cell: the others
    are free for any worker, and another try leaves them alone."""
    packed: set[str] = set()

    def told(event: Event) -> None:
        packed.update(event.pack)
        if event.step is not None and len(command.get("pack", ())) > sum(c.id in packed for c in pack):
            command["pack"] = [c.model_dump(mode="json") for c in pack if c.id in packed]
        on_event(event)

    return told


def remove_packs(results: Path, settled: Callable[[str], bool]) -> None:
    """Removes what is kept of packs whose cells all have results; `results` is the results directory. A list that
    cannot be read (cut, or removed by another runner) is as good as its name, the pack's first cell."""
    for listed in (results / KEPT).glob("*.json"):
        if all(map(settled, _names(listed))):
            for file in (listed.with_suffix(".pt"), listed):
                file.unlink(missing_ok=True)
    with suppress(OSError):  # it is not there, or holds packs under way
        (results / KEPT).rmdir()


def begun_packs(results: Path) -> dict[str, list[str]]:
    """By the id of a cell, those of the pack that it was in when a run was killed, in their order. Only the same cells
    go on from what is kept of it."""
    packs = [_names(listed) for listed in sorted((results / KEPT).glob("*.json"))]
    return {name: names for names in reversed(packs) for name in names}


def _names(listed: Path) -> list[str]:
    try:
        cells = json.loads(listed.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        cells = None
    return [str(name) for name in cells] if isinstance(cells, list) else [listed.stem]


def _release() -> None:
    """Gives back what a failed pack holds on a GPU."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
