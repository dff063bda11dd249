"""Which cells that are wanted now belong to which that were wanted before: those that differ in the fewest settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lorabench.config.fingerprint import counted, flattened
from lorabench.config.study import Cell

ORDER = 60  # pairs of a group that are matched by fewest differences; beyond, in the study's order

Leaves = Mapping[str, object]


def pairs_of(former: Sequence[Cell], current: Sequence[Cell]) -> Iterator[tuple[Cell, Cell, tuple[str, ...]]]:
    """Cells of before and of now that belong together, with the settings in which they differ."""
    old, new = {c.id: settings_of(c) for c in former}, {c.id: settings_of(c) for c in current}
    keys = dict.fromkeys(k for leaves in (*old.values(), *new.values()) for k in leaves)
    varied = [k for k in keys if _values(old.values(), k) != _values(new.values(), k)]
    rest = [k for k in keys if k not in varied]
    alike: dict[tuple[str, ...], tuple[list[Cell], list[Cell]]] = defaultdict(lambda: ([], []))
    for side, leaves_of in ((0, old), (1, new)):
        for cell in (former, current)[side]:
            alike[tuple(repr(leaves_of[cell.id].get(k)) for k in rest)][side].append(cell)
    for olds, news in alike.values():
        scored = (
            sorted(
                (sum(old[o.id].get(k) != new[n.id].get(k) for k in varied), i, j)
                for i, o in enumerate(olds)
                for j, n in enumerate(news)
            )
            if len(olds) * len(news) <= ORDER**2
            else [(0, i, i) for i in range(min(len(olds), len(news)))]
        )
        taken_old, taken_new = set(), set()
        for _, i, j in scored:
            if i not in taken_old and j not in taken_new:
                taken_old.add(i)
                taken_new.add(j)
                differ = tuple(k for k in varied if old[olds[i].id].get(k) != new[news[j].id].get(k))
                yield olds[i], news[j], differ


def _values(leaves: Iterable[Leaves], key: str) -> dict[str, int]:
    counted: dict[str, int] = defaultdict(int)
    for own in leaves:
        counted[repr(own.get(key))] += 1
    return counted


def settings_of(cell: Cell) -> dict[str, object]:
    """The settings that make a cell what it is, in one level."""
    marks = cell.fingerprints.model_dump(exclude={"large"})
    parts = counted(cell)
    if parts["evaluation"]["forgetting"] == "file":
        parts["evaluation"]["forgetting"] = "a file"
    parts["model"] = {"dtype": parts["model"]["dtype"]}
    parts["training"]["learning_rate is tuned"] = bool(cell.tuned_over)
    return flattened({**parts, "seed": cell.seed, "fingerprints": marks})
