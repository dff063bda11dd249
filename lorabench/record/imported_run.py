"""Results that were measured elsewhere: what an importer is asked for and reads, and the store that is made of it.

Runs of one condition are replicates. Where the source tells a seed for each, that is the replicate's; runs of a
condition that name the same seed are re-runs, and are numbered instead. Runs of one series (the same software) share
their numbers across conditions, so that differences are taken within a series: what changed between two versions is
then in both.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from lorabench.config.fingerprint import canonical_json
from lorabench.config.imported import NOT_STATED, Imported, ImportedStudy, declared
from lorabench.config.paths import IMPORTED
from lorabench.config.plain_settings import agrees, get, lay, near_values
from lorabench.config.settings import ComparisonSpec
from lorabench.config.study import Cell, Fingerprints, Study
from lorabench.errors import DataError, StoreError
from lorabench.formatting import plural
from lorabench.record.result import CellResult, Environment, Fault, Outcome, Reading
from lorabench.record.store import Store

COPY = "source.json"
"""beside a cell's result: what it was read from"""
_LONGEST = 80  # characters of a value in a sentence


Unit = Literal["auto", "percent", "fraction"]


@dataclass(frozen=True)
class Request:
    """Files to read, and how; the options after `paths` are of tables that anybody made (csv)."""

    paths: tuple[Path, ...]
    columns: Mapping[str, str] | None = None
    """column of the table to lorabench's field"""
    metric: str | None = None
    """that decides the study; the importer's own, or the first, where absent"""
    unit: Unit = "auto"
    """of shares such as accuracy"""
    higher_is_better: Sequence[str] = ()
    """metrics that lorabench does not know, of which more is better"""
    lower_is_better: Sequence[str] = ()


@dataclass(frozen=True)
class ImportedRun:
    """One run of one condition, as its source tells it."""

    source: str
    """file, and row where it has several"""
    settings: Mapping[str, object]
    """by the dotted names of a study; what is absent is unknown"""
    readings: tuple[Reading, ...] = ()
    variant: str | None = None
    """what the source calls it beside its settings"""
    experiment: str | None = None
    """results of one name are of one condition"""
    seed: int | None = None
    series: str = ""
    """the same for runs with the same software"""
    started_at: str = ""
    """ISO 8601, UTC; empty where it is not told"""
    environment: Environment | None = None
    outcome: Outcome = "finished"
    error: Fault | None = None
    model: str | None = None
    """model and commit, where that is told"""
    data: str | None = None
    """the same of the data"""
    copy: str = ""
    """what it was read from, in JSON"""


@dataclass(frozen=True)
class Readout:
    """What an importer made of the files that it was given."""

    importer: str
    runs: tuple[ImportedRun, ...]
    metric: str
    """that decides the study"""
    refused: tuple[str, ...] = ()
    """a sentence for each file or row that could not be read"""
    notes: tuple[str, ...] = field(default=())
    """what to know of the numbers, below the table"""


def write_import(
    readout: Readout,
    out: str | Path,
    sources: Sequence[str | Path],
    name: str | None = None,
    reference: Mapping[str, str] | None = None,
) -> Store:
    """Writes an imported study with its results as a results directory.

    Args:
        readout: at least one run.
        out: a folder that is new or empty.
        sources: files and folders that were given, for the record.
        name: of the study; the folder's, where absent.
        reference: settings of the condition that others are compared with; full fine-tuning, where absent.
    Returns:
        Store.
    Raises:
        StoreError: the folder holds something, or cannot be written; no condition is the reference.
    """
    store = Store(out)
    _refuse_used(store)
    runs = _once(readout.runs)
    numbered, renumbered = _numbered([(_cell(r, readout.importer, 0), r) for r in runs])
    if reference:
        _check_reference([declared(c) for c, _ in numbered], reference)
    notes = (*readout.notes, *_rerun_notes(numbered, renumbered))
    if copies := len(readout.runs) - len(runs):
        notes += (f"{plural(copies, 'result')} {'is a copy' if copies == 1 else 'are copies'} of others and left out.",)
    study = Study(
        schema_version=1,
        name=_study_name(name or store.folder.resolve().name),
        seeds=tuple(sorted({c.seed for c, _ in numbered})),
        reference=dict(reference) if reference else None,
        comparison=ComparisonSpec(metric=readout.metric),
        imported=ImportedStudy(importer=readout.importer, sources=tuple(map(str, sources)), notes=notes),
    )
    try:
        store.save_plan(study, [c for c, _ in numbered])
        for cell, run in numbered:
            (store.emptied(cell.id) / COPY).write_text(run.copy, encoding="utf-8")
            store.put(_result(cell, run))
    except OSError as e:
        raise StoreError(
            f"{store.folder} cannot be written ({e.strerror}); choose another folder with --out DIR"
        ) from None
    return store


def _check_reference(plain: Sequence[dict[str, dict[str, Any]]], reference: Mapping[str, str]) -> None:
    if any(agrees(p, reference) for p in plain):
        return
    written = ", ".join(f"{k}={v}" for k, v in reference.items())
    values = []
    for key in reference:
        own = [get(p, key) for p in plain]
        names = sorted({str(v.get("name") if isinstance(v, dict) else v) for v in own if v is not None})
        values.append(f"{key}: {', '.join(names) or 'not told'}")
    near = ", ".join(f"{k}={v}" for k, v in near_values(reference, plain).items())
    hint = f" did you mean {near}?" if near else ""
    raise StoreError(f"no imported condition is the reference {written};{hint} there are {'; '.join(values)}")


def checked(run: ImportedRun, importer: str, remedy: str) -> ImportedRun:
    """The run; DataError where a setting's value cannot be one. remedy: what a user is to do then."""
    try:
        _cell(run, importer, 0)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        where = ".".join(str(p) for p in first["loc"] if isinstance(p, str) and p.islower())
        seen = repr(first["input"])
        shown = seen if len(seen) <= _LONGEST else f"{seen[:_LONGEST]} ..."
        raise DataError(f"{run.source}: {where} is {shown}: {first['msg']}; {remedy}") from None
    return run


def _refuse_used(store: Store) -> None:
    try:
        inside = sorted(p.name for p in store.folder.iterdir()) if store.folder.exists() else []
    except OSError as e:
        raise StoreError(f"{store.folder} is no folder ({e.strerror}); choose another one with --out DIR") from None
    if inside:
        what = "a study already" if store.exists() else f"{', '.join(inside[:3])}{' ...' if len(inside) > 3 else ''}"
        raise StoreError(f"{store.folder} holds {what}; choose a new or empty folder with --out DIR")


def _once(runs: Iterable[ImportedRun]) -> tuple[ImportedRun, ...]:
    """Without copies of the same file."""
    seen: dict[str, ImportedRun] = {}
    for i, run in enumerate(runs):
        seen.setdefault(run.copy or str(i), run)
    return tuple(seen.values())


def _cell(run: ImportedRun, importer: str, seed: int) -> Cell:
    plain: dict[str, object] = {
        "model": {"name": NOT_STATED},
        "task": {"name": NOT_STATED},
        "quantization": {"name": "none"},
        "method": {"name": NOT_STATED, "rank": None, "alpha": None, "dropout": None, "target_modules": None},
    }
    for setting, value in run.settings.items():
        lay(plain, setting.split("."), value)
    told = Imported(
        importer=importer, known=tuple(sorted(run.settings)), variant=run.variant or None, experiment=run.experiment
    )
    model = run.model or str(run.settings.get("model.name", NOT_STATED))
    data = run.data or str(run.settings.get("task.name", NOT_STATED))
    marks = Fingerprints(model=model, data=hashlib.sha256(canonical_json(data).encode()).hexdigest()[:16])
    plain |= {"imported": told.model_dump(), "seed": seed, "fingerprints": marks.model_dump()}
    return Cell.model_validate(plain, context=IMPORTED)


def _numbered(runs: Sequence[tuple[Cell, ImportedRun]]) -> tuple[list[tuple[Cell, ImportedRun]], bool]:
    """Each run with a seed, or number, that no other of its condition has; whether they are numbers."""
    by_condition: dict[str, list[ImportedRun]] = defaultdict(list)
    for cell, run in runs:
        by_condition[cell.condition_id].append(run)
    if all(len(m) == 1 or len({r.seed for r in m} - {None}) == len(m) for m in by_condition.values()):
        return [(_seeded(cell, run.seed or 0), run) for cell, run in runs], False
    began: dict[str, str] = {}
    for _, run in runs:
        began[run.series] = min(began.get(run.series, run.started_at), run.started_at)
    places: dict[int, tuple[str, str, int]] = {}
    for members in by_condition.values():
        often: Counter[str] = Counter()
        for run in sorted(members, key=lambda r: (r.started_at, r.source)):
            places[id(run)] = (began[run.series], run.series, often[run.series])
            often[run.series] += 1
    number = {place: i for i, place in enumerate(sorted(set(places.values())))}
    return [(_seeded(cell, number[places[id(run)]]), run) for cell, run in runs], True


def _seeded(cell: Cell, seed: int) -> Cell:
    return cell.model_copy(update={"seed": seed})


def _rerun_notes(runs: Sequence[tuple[Cell, ImportedRun]], renumbered: bool) -> tuple[str, ...]:
    if not renumbered:
        return ()
    often = Counter(cell.condition_id for cell, _ in runs)
    several = sum(n > 1 for n in often.values())
    named = {run.seed for _, run in runs}
    seed = f"all name seed {named.pop()}" if len(named) == 1 and None not in named else "name no seeds of their own"
    return (
        f"{plural(several, 'condition')} {'has' if several == 1 else 'have'} more than one run; these are re-runs,"
        f" which {seed}, and stand as replicates numbered by their software and date: their spread is what repeating"
        " showed, changes of the software included, and not the noise of a seed.",
    )


def _result(cell: Cell, run: ImportedRun) -> CellResult:
    return CellResult(
        cell=cell,
        outcome=run.outcome,
        readings=run.readings,
        environment=run.environment,
        started_at=run.started_at,
        error=run.error,
        source=run.source,
    )


def _study_name(text: str) -> str:
    """As a study may be called: other characters become '-'."""
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text).lstrip("._-")
    return clean[:100] or "imported"
