"""The cells of a run that wait for a worker, in their order, and beside each those that may train with it.

Both are found without looking through the others, so that a run of n cells takes n times as long as one of one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from itertools import islice

from lorabench.config.packs import pack_key
from lorabench.config.study import Cell


class WaitingCells:
    """A queue with two ends; not guarded against threads."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._waiting: OrderedDict[str, Cell] = OrderedDict()
        self._alike: dict[Hashable, OrderedDict[str, Cell]] = {}
        """by pack_key, those that may train together, in the same order"""
        self._keys: dict[str, Hashable | None] = {}
        """by condition, whose seeds have one"""
        self._at_first: dict[Hashable, int] = {}
        """by pack_key, the cells that waited when the first of them was taken"""
        self._conditions: dict[str, OrderedDict[str, Cell]] = {}
        """by condition, in the same order"""
        for cell in cells:
            self.add(cell)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, cell: Cell) -> None:
        """Puts a cell behind the others."""
        self._waiting[cell.id] = cell
        self._conditions.setdefault(cell.condition_id, OrderedDict())[cell.id] = cell
        if (key := self._key(cell)) is not None:
            self._alike.setdefault(key, OrderedDict())[cell.id] = cell

    def put_first(self, cells: Sequence[Cell]) -> None:
        """Puts cells before the others, in their order."""
        for cell in reversed(cells):
            self.add(cell)
            self._waiting.move_to_end(cell.id, last=False)
            self._conditions[cell.condition_id].move_to_end(cell.id, last=False)
            if (key := self._key(cell)) is not None:
                self._alike[key].move_to_end(cell.id, last=False)

    def take(self, last: str | None = None, others: Collection[str] = ()) -> Cell | None:
        """The first of them; None where there is none.

        last, others: the condition of the worker's last cell, of which the first one comes where any waits, since the
        worker keeps what a condition's cells share; and those that other workers run, which are left to these as long
        as any other waits.
        """
        if not self._waiting:
            return None
        same = self._conditions.get(last or "", OrderedDict())
        free = (c for c in self._waiting.values() if c.condition_id not in others)
        first = next(iter(same.values()), None) or next(free, None) or next(iter(self._waiting.values()))
        self._remove(first)
        return first

    def take_mates(
        self, first: Cell, most: int, workers: int, is_new: Callable[[Cell], bool] = lambda cell: True
    ) -> list[Cell]:
        """Takes the cells that may train with one that was taken: at most so many at once. Several workers take packs
        of nearly one size, in as few rounds as that allows.

        is_new: whether nothing of a cell's training is there, which a pack would do again.
        """
        if most < 2 or (key := self._key(first)) is None or not is_new(first):
            return []
        alike = self._alike.get(key, OrderedDict())
        if workers > 1:
            cells = self._at_first.setdefault(key, len(alike) + 1)
            most = -(-cells // (workers * -(-cells // (workers * most))))
        return self._take(islice(filter(is_new, alike.values()), most - 1))

    def take_named(self, names: Sequence[str], is_new: Callable[[Cell], bool] = lambda cell: True) -> list[Cell]:
        """Takes those of some ids that wait, in the order of these. is_new: as for take_mates."""
        waiting = (self._waiting[name] for name in names if name in self._waiting)
        return self._take(filter(is_new, waiting))

    def _take(self, cells: Iterable[Cell]) -> list[Cell]:
        taken = list(cells)
        for cell in taken:
            self._remove(cell)
        return taken

    def _remove(self, cell: Cell) -> None:
        del self._waiting[cell.id]
        del self._conditions[cell.condition_id][cell.id]
        if (key := self._key(cell)) is not None:
            del self._alike[key][cell.id]

    def _key(self, cell: Cell) -> Hashable | None:
        if cell.condition_id not in self._keys:
            self._keys[cell.condition_id] = pack_key(cell)
        return self._keys[cell.condition_id]
