"""What a user calls a cell or a condition on the command line: an id, its beginning, the words of a run, or the label
of a table.

"3fc2", "lora rank 8, seed 0" and "LoRA r=8 nf4, seed 1" are cells; "lora rank 8", "LoRA r=8 nf4", "lora r8 nf4" and a
condition's id are conditions. Order, commas and capitals do not count, nor how a rank is written. Words that leave
something open mean what alone has them all.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorabench.config.study import Cell
from lorabench.errors import StoreError
from lorabench.record.result import CellResult
from lorabench.record.store import Store

SPELLINGS = (
    (r"[,=\[\]]", " "),
    (r"\brank\b", "r"),
    (r"\br(\d+)\b", r"r \1"),
    (r"\blearning rate\b", "lr"),
    (r"\bbatch size\b", "batch"),
    (r"\bseed(\d+)\b", r"seed \1"),
)
PLACES = ("reports", "runs")  # where results directories are looked for
LISTED = 8  # names in a sentence


@dataclass(frozen=True)
class NamedCells:
    """A cell, or a condition with its cells."""

    store: Store
    title: str
    """the cell's words, or the condition's label"""
    cells: tuple[Cell, ...]
    is_condition: bool = False


def find(name: str, folder: str | None) -> NamedCells:
    """What a name means in one results directory, or in all under reports/ and runs/; StoreError with the near ones
    where that is nothing or several things."""
    stores = (
        [Store.open(folder)]
        if folder is not None
        else [Store(p.parent) for place in PLACES for p in sorted(Path(place).glob("*/plan.json"))]
    )
    matches: list[NamedCells] = []
    for store in stores:
        try:
            matches += _by_id(store, name) if is_id(name) else _by_words(store, name)
        except StoreError:  # a broken folder hides no other
            if folder is not None:
                raise
    if (
        folder is None and is_id(name) and len({n.cells[0].id for n in matches}) == 1
    ):  # one cell that several studies hold
        matches = [n for n in matches if n.store.settled(n.cells[0].id)][:1] or matches[:1]
    if len(matches) == 1:
        return matches[0]
    raise StoreError(_sentence(name, folder, stores, matches))


def find_cell(
    name: str, folder: str | None, say: Callable[[str], None] = lambda sentence: None
) -> tuple[Store, CellResult]:
    """The cell that a name means; of a condition the first seed's that finished, at the chosen rate, which is said.
    StoreError where none has."""
    named = find(name, folder)
    if not named.is_condition:
        return named.store, named.store.find(named.cells[0].id)
    results = [r for c in chosen(named) if (r := named.store.get(c.id)) is not None and r.outcome == "finished"]
    if not results:
        raise StoreError(
            f"no cell of {named.title} in {named.store.folder} has finished; `lorabench status {named.store.folder}"
            " --cells` lists them"
        )
    first = results[0]
    if len(named.cells) > 1:
        at_rate = (
            f" at the chosen learning rate {first.cell.training.fixed_learning_rate:g}" if first.cell.tuned_over else ""
        )
        say(
            f"{named.title} has {len(named.cells)} cells; seed {first.cell.seed}{at_rate} is shown ({first.cell.id});"
            " give an id for another one"
        )
    return named.store, first


def chosen(named: NamedCells) -> tuple[Cell, ...]:
    """The cells that a condition is reported by: those at its chosen learning rate where that is tuned."""
    if not any(c.tuned_over for c in named.cells):
        return named.cells
    from lorabench.analysis.study import analyse  # pandas: ~1 s, and only here

    reported = {i for group in analyse(named.store).groups for i in group.ids}
    return tuple(c for c in named.cells if c.id in reported) or named.cells


def is_id(name: str) -> bool:
    """Whether a name may be the beginning of an id."""
    return 3 <= len(name) <= 12 and all(c in "0123456789abcdef" for c in name)


def _by_id(store: Store, name: str) -> list[NamedCells]:
    from lorabench.runner.plan import describe_cells

    cells = store.plan()
    near = [c for c in cells if c.id.startswith(name)]
    if near:
        words = describe_cells(cells)
        return [NamedCells(store, words[c.id], (c,)) for c in near]
    return [n for n in _conditions(store) if n.cells[0].condition_id.startswith(name)]


def _by_words(store: Store, name: str) -> list[NamedCells]:
    """Conditions or cells that are called so; else those whose names hold all words of it."""
    words_asked = _words(name)
    if not words_asked:
        return []
    every = list(_names(store))
    for fits in (lambda own: own == words_asked, lambda own: not words_asked - own):
        matches: dict[tuple[str, ...], NamedCells] = {}
        for words, named in every:
            if fits(words):
                matches.setdefault(tuple(c.id for c in named.cells), named)
        conditions = [n for n in matches.values() if n.is_condition]
        if matches:
            return conditions or list(matches.values())
    return []


def _names(store: Store) -> Iterator[tuple[Counter[str], NamedCells]]:
    """Each name that something in a store goes by."""
    from lorabench.runner.plan import condition_words, describe_cells

    words = describe_cells(store.plan())
    for condition in _conditions(store):
        yield _words(condition.title), condition
        spoken = {condition_words(words, c) for c in condition.cells}
        if len(spoken) == 1:
            yield _words(spoken.pop()), condition
        for cell in condition.cells:
            own = NamedCells(store, words[cell.id], (cell,))
            yield _words(words[cell.id]), own
            if not cell.tuned_over:
                yield _words(f"{condition.title}, seed {cell.seed}"), own


def _conditions(store: Store) -> list[NamedCells]:
    from lorabench.analysis.conditions import replicates
    from lorabench.analysis.labels import labels

    groups = replicates(store.plan())
    names = labels(groups)
    return [NamedCells(store, names[g.condition].text, g.cells, is_condition=True) for g in groups]


def _words(text: str) -> Counter[str]:
    """The words of a name, spelt in one way."""
    text = text.lower()
    for pattern, spelling in SPELLINGS:
        text = re.sub(pattern, spelling, text)
    words = []
    for word in text.split():
        with contextlib.suppress(ValueError):
            word = f"{float(word):g}"
        words.append(word)
    return Counter(words)


def _sentence(name: str, folder: str | None, stores: Sequence[Store], matches: Sequence[NamedCells]) -> str:
    inside = {p: ", ".join(s.folder.name for s in stores if s.folder.parent == Path(p)) for p in PLACES}
    where = (
        " and ".join(f"{p}/ ({names})" for p, names in inside.items() if names) or "reports/ and runs/ (no study yet)"
    )
    place = f"in {folder}" if folder is not None else f"looked in {where}"
    elsewhere = "" if folder is not None else ": name another directory with --in DIR"
    if matches:
        several = len({n.store.folder for n in matches}) > 1
        names_shown = [
            n.cells[0].id if is_id(name) else f"{n.title} ({n.store.folder})" if several else f"'{n.title}'"
            for n in matches
        ]
        listed = f"{', '.join(names_shown[:LISTED])}{' ...' if len(names_shown) > LISTED else ''}"
        return (
            f"several {'cell ids start with' if is_id(name) else 'conditions match'} '{name}': {listed};"
            f" {'choose one with --in DIR' if several else 'write more of it'}"
        )
    if is_id(name):
        if folder is not None:
            return (
                f"no cell in {folder} has an id starting with '{name}'; `lorabench status {folder} --cells` lists them"
            )
        return f"no cell's id starts with '{name}'; {place}{elsewhere}"
    titles: list[str] = []
    for store in stores:
        with contextlib.suppress(StoreError):
            titles += [n.title for n in _conditions(store)]
    near = difflib.get_close_matches(name.lower(), [k.lower() for k in titles], n=LISTED, cutoff=0.4)
    shown = [k for low in near for k in titles if k.lower() == low] or titles
    shown = list(dict.fromkeys(shown))
    there = (
        f": there {'is' if len(shown) == 1 else 'are'}"
        f" {', '.join(shown[:LISTED])}{' ...' if len(shown) > LISTED else ''}"
        if shown
        else ""
    )
    return f"no cell's id starts with '{name}'; {place}{elsewhere}; and no condition has that name{there}"
