"""From a study to what is left to do: its cells, its store, and the words and places that name a cell to a user."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench.config.condition_labels import condition_labels
from lorabench.config.grid import conditions, expand
from lorabench.config.imported import declared
from lorabench.config.inputs import inputs_of
from lorabench.config.source import Route, Source
from lorabench.config.study import Cell, Study
from lorabench.errors import StoreError, StudyError, unknown
from lorabench.record.checksums import AGAIN
from lorabench.record.metrics import TABLE
from lorabench.record.result import RETRIED, CellResult, Outcome
from lorabench.record.store import Store
from lorabench.runner.changes import Changes, changes
from lorabench.runner.disk import DiskNeed
from lorabench.runner.repeat import missing_analyses
from lorabench.runner.tuning import waiting, wanted

if TYPE_CHECKING:
    from lorabench.engine.events import Problem


@dataclass(frozen=True)
class Plan:
    """What a study wants, and what of it has no result yet."""

    study: Study
    store: Store
    cells: tuple[Cell, ...]
    pending: tuple[Cell, ...]
    words: dict[str, str]
    """cell id: what the cell is, in words"""
    notices: tuple[str, ...] = ()
    """what is to be told before the run: what has changed since the last one, then what checking the cells found"""
    large: int = 0
    """conditions that are not sure to fit into memory"""
    disk: DiskNeed | None = None
    """of the cells that are to run; None where nothing is known of it"""
    changes: Changes = field(default_factory=Changes)
    """since the last run in the same folder"""
    results: Mapping[str, CellResult] = field(default_factory=dict)
    """by cell id, those that could be read when the plan was made"""

    @property
    def done(self) -> int:
        """Cells that have a result which stays."""
        return len(self.cells) - len(self.pending)

    def save(self) -> None:
        """Writes study.yaml and plan.json; StoreError where the folder cannot be written."""
        try:
            self.store.save_plan(
                self.study,
                self.cells,
                inputs_of(self.cells).or_before(self.store.inputs()),
                (*self.store.earlier(), *self.changes.earlier()),
            )
        except OSError as e:
            raise StoreError(
                f"{self.store.folder} cannot be written ({e.strerror}); choose another folder with --out DIR"
            ) from None


def make_plan(study: Study, out: str | Path | None = None, retry: Iterable[Outcome] = RETRIED) -> Plan:
    """The cells of a study and those that are to be run; writes nothing."""
    if out is not None and not str(out).strip():
        raise StoreError(
            "the results directory has an empty name; give --out DIR, or leave it out for reports/<study name>"
        )
    planned = expand(study)
    refuse_metric(study, planned)
    store = Store(out if out is not None else Path("reports") / study.name)
    renamed = refuse_foreign(store, study, planned)
    results = readable_results(store, planned)
    cells = wanted(study, planned, results)
    changed = changes(store, cells)
    pending = tuple(c for c in cells if is_pending(results.get(c.id), retry))
    pending_ids = {c.id for c in pending}
    settled = [c for c in cells if c.id not in pending_ids]
    damaged = damaged_records(store, cells, results)
    notices = (*renamed, *changed.words, *damaged, *missing_analyses(store, settled, results))
    if conditions_waiting := waiting(study, planned, results):
        notices += (
            f"of {conditions_waiting} conditions the learning rate is still to be chosen by the first"
            f" {study.tuning_seeds} of {len(study.seeds)} seeds; their other seeds follow at the chosen one",
        )
    return Plan(study, store, cells, pending, describe_cells(cells), notices, changes=changed, results=results)


def refuse_metric(study: Study, cells: tuple[Cell, ...]) -> None:
    """StudyError where the study is to be decided by what is no metric, or by what none of its tasks measures.

    A name with a slash is lm-eval's, of which only a run can tell whether it was measured; a finding does.
    """
    name = study.comparison.metric
    if name == "auto" or "/" in name:
        return
    own = {c.task.decided_by for c in cells}
    allowed = [
        "auto",
        *(
            m.name
            for m in TABLE.values()
            if m.better != "none" and m.unit not in ("seconds", "bytes", "count", "percent", "tokens/s")
        ),
    ]
    if name not in TABLE:
        raise StudyError(
            f"study {study.name}: comparison.metric: {unknown('metric', name, allowed)}, or an lm-eval task's such as"
            " NAME/acc"
        )
    of_a_task = {
        "accuracy": "accuracy",
        "macro_f1": "accuracy",
        "exact_match": "exact_match",
        "unanswered": "exact_match",
        "unended": "exact_match",
    }
    if name in of_a_task and of_a_task[name] not in own:
        tasks = ", ".join(sorted({c.task.name for c in cells}))
        remedy = (
            "use the task classify"
            if of_a_task[name] == "accuracy"
            else "task.metric: exact_match has an instruct task measure it"
        )
        raise StudyError(
            f"study {study.name}: comparison.metric is {name}, which the task {tasks} does not measure; {remedy}, or"
            " leave out comparison.metric"
        )


def refuse_foreign(store: Store, study: Study, cells: tuple[Cell, ...]) -> tuple[str, ...]:
    """StoreError where a folder belongs to another study, or to none; a note where the study has another name there.

    A study of another name that shares no cell with this one is another study. A folder that holds things and nothing
    of a run (a project's own, somebody's home) is no place for results either.
    """
    if not store.exists():
        try:
            inside = (
                sorted(p.name for p in store.folder.iterdir() if not p.name.startswith("."))
                if store.folder.is_dir()
                else []
            )
        except OSError:  # not readable: `save` will tell
            inside = []
        if inside and not set(inside) & {"cells", "cells.csv", "table.md"}:
            contents = f"{', '.join(inside[:3])}{' ...' if len(inside) > 3 else ''}"
            raise StoreError(
                f"{store.folder} is not empty and not a results directory (it holds {contents}); choose a new or empty"
                " folder with --out DIR"
            )
        return ()
    try:
        other, before = store.study(), store.plan()
    except StoreError:  # a damaged plan is written anew, its results are kept
        return ()
    if other.imported is not None:
        raise StoreError(
            f"{store.folder} holds an imported study, {other.name}, which nothing is run into; choose another folder"
            " with --out DIR"
        )
    if other.name == study.name:
        return ()
    same = {c.id for c in before} & {c.id for c in cells}
    if same:
        return (
            (
                f"in {store.folder} this study is called {other.name}; {len(same)} of its cells are the same and are"
                f" kept, it is called {study.name} from now on"
            ),
        )
    done = sum(store.settled(c.id) for c in before)
    question = f" ({other.question})" if other.question else ""
    raise StoreError(
        f"{store.folder} holds another study, {other.name}{question}, {done} of {len(before)} cells done, and none of"
        f" them is a cell of {study.name}; choose another folder with --out DIR, or set its name back (name:"
        f" {other.name}) if it is the same study and has changed"
    )


def readable_results(store: Store, cells: Iterable[Cell]) -> dict[str, CellResult]:
    """Cell id to result, of the cells that have one which can be read."""
    return {c.id: result for c in cells if (result := store.whole(c)) is not None}


def damaged_records(store: Store, cells: Iterable[Cell], results: Mapping[str, CellResult]) -> tuple[str, ...]:
    """A sentence for each cell that is to be run because its record cannot be read; `results` are those that can."""
    sentences = []
    for cell in (c for c in cells if c.id not in results):
        try:
            store.get(cell.id, contents=True)
        except StoreError as e:
            reason = str(e).removesuffix(f"; {AGAIN}")
            sentences.append(f"{reason}: the record is set aside as cells/{cell.id}.damaged, and the cell is run again")
    return tuple(sentences)


def is_pending(result: CellResult | None, retry: Iterable[Outcome]) -> bool:
    """Whether a cell is to be run that has this result, or none which can be read."""
    return result is None or result.outcome in tuple(retry)


def describe_cells(cells: tuple[Cell, ...]) -> dict[str, str]:
    """Cell id to words: its condition's label, as the study's table has it, the learning rate where that is tuned, the
    seed last."""
    of_condition = {c.condition_id: c for c in reversed(cells)}
    names = condition_labels({i: declared(c.condition) for i, c in reversed(of_condition.items())})
    words = {}
    for cell in cells:
        parts = [names[cell.condition_id].text]
        if cell.tuned_over:
            parts.append(f"lr={cell.training.fixed_learning_rate:g}")
        if cell.training.steps:
            parts.append(f"seed {cell.seed}")
        words[cell.id] = ", ".join(parts)
    return words


def condition_words(words: Mapping[str, str], cell: Cell) -> str:
    """A cell's words without its seed: its condition, as its study's cells are told apart."""
    return words[cell.id].removesuffix(f", seed {cell.seed}")


def place_of(study: Study, source: Source, cell: Cell, field: str) -> Route:
    """Where in the study file the value of a cell's dotted field came from: an axis, an include entry or the base
    setting.

    Each point of the grid is made alone and compared, so that this agrees with `expand` by construction.
    """
    condition = cell.condition
    for axes in _products(study):
        for picks in itertools.product(*axes.values()):
            point = {axis: (value,) for axis, (value, _) in zip(axes, picks, strict=True)}
            alone = study.model_copy(update={"grid": point, "include": (), "exclude": (), "reference": None})
            if condition in conditions(alone, source):
                return _last_over(field, {axis: route for axis, (_, route) in zip(axes, picks, strict=True)})
    return tuple(field.split("."))


def problem_sentence(
    study: Study, source: Source | None, cells: tuple[Cell, ...], problems: tuple[Problem, ...]
) -> str:
    """The first problem with its file and line, and how many other conditions have one."""
    first = problems[0]
    cell = next(c for c in cells if c.id == first.cell)
    place = source.at(place_of(study, source, cell, first.field)) if source else f"study {study.name}"
    others = len({p.cell for p in problems} - {first.cell})
    more = f" ({others} other condition{'s have' if others > 1 else ' has'} a problem as well)" if others else ""
    return f"{place}: {first.message}{more}"


def _products(study: Study) -> Iterator[dict[str, list[tuple[object, Route]]]]:
    """The grid and each include entry: axis to its values, each with its route in the file; a fixed value is an axis of
    one."""
    yield {axis: [(v, ("grid", axis, i)) for i, v in enumerate(values)] for axis, values in study.grid.items()}
    for n, entry in enumerate(study.include):
        fixed: dict[str, list[tuple[object, Route]]] = {
            k: [(v, ("include", n, k))] for k, v in entry.items() if k != "grid"
        }
        own = entry.get("grid")
        grid = own if isinstance(own, dict) else {}
        yield {
            **fixed,
            **{k: [(v, ("include", n, "grid", k, i)) for i, v in enumerate(values)] for k, values in grid.items()},
        }


def _last_over(field: str, places: dict[str, Route]) -> Route:
    for axis, route in reversed(places.items()):
        if field == axis or field.startswith(axis + ".") or axis.startswith(field + "."):
            return (*route, *(part for part in field[len(axis) :].strip(".").split(".") if part))
    return tuple(field.split("."))
