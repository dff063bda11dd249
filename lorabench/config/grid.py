"""From a study to its cells: the product of the axes, minus `exclude`, plus `include`, times the seeds.

An axis is a dotted path and its values. A value is laid over the base setting: a name alone
(`quantization: nf4`) changes the name and keeps the fields beside it, a mapping is merged; a new name for
a model or a task starts from that one's own defaults, since its options are others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from lorabench.config.checkpoint import as_stored
from lorabench.config.explain import paths_of, sentence
from lorabench.config.fingerprint import References, fingerprints, pinned
from lorabench.config.imported import refuse_imported
from lorabench.config.plain_settings import SETTINGS, agrees, get, lay, leaf_values, leaves, near_values
from lorabench.config.settings import TrainingSpec, Tune
from lorabench.config.source import Route, Source
from lorabench.config.study import Cell, Condition, Study
from lorabench.config.validity import quantized_base_fault
from lorabench.errors import LorabenchError, ModelError, StudyError, unknown

MAX_CELLS = 100_000
_Axes = Mapping[str, Sequence[object]]  # of a grid: dotted path to values
_Changes = list[tuple[str, object]]  # (dotted path, value) over the base setting


def expand(study: Study) -> tuple[Cell, ...]:
    """All cells of a study, conditions in the file's order, each with all its seeds; data and weights are hashed here.

    Args:
        study: as load_study gives it.
    Returns:
        Cells in the order in which they run.
    Raises:
        LorabenchError: a file of the study cannot be read.
    Example:
        >>> import lorabench as lb
        >>> study = lb.load_study("studies/quickstart.yaml", ["seeds=[0]"])
        >>> {cell.seed for cell in lb.expand(study)}
        {0}
    """
    cells: dict[str, Cell] = {}
    for declared in conditions(study):
        condition = declared.model_copy(update={"model": pinned(declared.model)})
        marks = fingerprints(condition)
        trains = condition.training.steps > 0
        shared = {n: getattr(condition, n) for n in SETTINGS} | {"seed": study.seeds[0], "fingerprints": marks}
        firsts = [Cell(**{**shared, "training": t, "tuned_over": rates}) for t, rates in _tuned(condition.training)]
        for seed in study.seeds if trains else study.seeds[:1]:  # an untrained base has no seed to vary
            for cell in (c.model_copy(update={"seed": seed}) if seed != c.seed else c for c in firsts):
                cells.setdefault(cell.id, cell)
    return tuple(cells.values())


def _tuned(training: TrainingSpec) -> Iterator[tuple[TrainingSpec, tuple[float, ...]]]:
    """The training of each cell of a condition and seed: one, or one for each learning rate that it chooses from."""
    declared = training.learning_rate
    if not isinstance(declared, Tune):
        yield training, ()
        return
    for learning_rate in declared.tune:
        yield training.model_copy(update={"learning_rate": learning_rate}), declared.tune


def conditions(study: Study, source: Source | None = None) -> tuple[Condition, ...]:
    """The conditions of a study, checked; StudyError with the place in the source where one is amiss."""
    if study.imported is not None:
        raise refuse_imported(f"study {study.name}", study.imported.importer)
    place = source or Source("study", {}, {}, Path.cwd())
    _check_axes(study, place)
    base = base_of(study)
    by_content: dict[str, Condition] = {}
    idle = set(range(len(study.exclude)))
    for changes, origin in _points(study.grid, ("grid",)):
        merged = _merged(base, changes)
        hit = [i for i, rule in enumerate(study.exclude) if agrees(merged, rule)]
        idle -= set(hit)
        if not hit:
            condition = _make(base, changes, origin, place)
            by_content.setdefault(condition.model_dump_json(), condition)
    for i, entry in enumerate(study.include):
        own = {k: v for k, v in entry.items() if k != "grid"}
        fixed = list(own.items())
        for changes, origin in _points(_grid_of(entry, i, place), ("include", i, "grid")):
            origin = {**{k: ("include", i, k) for k, _ in fixed}, **origin}
            condition = _make(base, [*fixed, *changes], origin, place)
            by_content.setdefault(condition.model_dump_json(), condition)
    if idle:
        first = min(idle)
        raise StudyError(
            f"{place.at(('exclude', first))}: exclude {study.exclude[first]} matches no condition of the grid; correct"
            " its values, or remove it"
        )
    if not by_content:
        raise StudyError(f"{place.at(('exclude',))}: exclude removes every condition of the grid; keep at least one")
    cells = len(study.seeds) * sum(
        len(c.training.learning_rate.tune) if isinstance(c.training.learning_rate, Tune) else 1
        for c in by_content.values()
    )
    if cells > MAX_CELLS:
        raise StudyError(f"{place.at(('grid',))}: {cells:,} cells; at most {MAX_CELLS:,} are allowed in one study")
    checked = tuple(by_content.values())
    _check_learning_rates(checked, place)
    _check_reference(study, checked, place)
    return checked


def base_of(study: Study) -> dict[str, object]:
    """The study's base setting as plain data."""
    plain = study.model_dump(mode="json")
    return {name: plain[name] for name in SETTINGS if plain[name] is not None}


def _points(grid: _Axes, place: Route) -> Iterator[tuple[_Changes, dict[str, Route]]]:
    """Each point of a product as (axis, value) pairs, with the route in the file of each value."""
    axes = list(grid)
    for picks in itertools.product(*(range(len(grid[a])) for a in axes)):
        yield (
            [(a, grid[a][i]) for a, i in zip(axes, picks, strict=True)],
            {a: (*place, a, i) for a, i in zip(axes, picks, strict=True)},
        )


def _merged(base: dict[str, object], changes: _Changes) -> dict[str, object]:
    plain = dict(base)
    for dotted, value in changes:
        lay(plain, dotted.split("."), value)
        named = set(leaves({dotted: value}))
        if (
            "training.epochs" in named
            and get(plain, "training.epochs") is not None
            and not _names(changes, "training.steps")
        ):
            # epochs replace the base's steps
            lay(plain, ["training", "steps"], TrainingSpec.model_fields["steps"].default)
        elif "training.steps" in named and not _names(changes, "training.epochs"):
            lay(plain, ["training", "epochs"], None)
    return plain


def _names(changes: _Changes, field: str) -> bool:
    return any(field in leaves({dotted: value}) for dotted, value in changes)


def _make(base: dict[str, object], changes: _Changes, origin: dict[str, Route], place: Source) -> Condition:
    """One condition, checked; its quantization is the checkpoint's own where that is stored quantized."""
    try:
        declared = Condition.model_validate(_merged(base, changes), context={"folders": (place.folder,)})
        stored = as_stored(declared.model, declared.quantization)
        if stored.name != declared.quantization.name and (
            fault := quantized_base_fault(declared.method.name, stored.name, declared.model.name)
        ):
            raise LorabenchError(fault)
        return declared.model_copy(update={"quantization": stored}).normalised()
    except ValidationError as e:
        route, words = sentence(e, Condition)
        raise StudyError(f"{place.at(_origin(route, origin))}: {words}") from None
    except ModelError as e:
        at = "model" if declared.quantization.name == "none" else "quantization"
        raise StudyError(f"{place.at(_origin((at,), origin))}: {e}") from None
    except LorabenchError as e:
        raise StudyError(f"{place.at(next(iter(reversed(origin.values())), ('method',)))}: {e}") from None


def _origin(route: Route, origin: dict[str, Route]) -> Route:
    """Where in the file the value at a condition's route came from: the last axis over it, else the base setting."""
    dotted = ".".join(str(p) for p in route)
    for axis, place in reversed(origin.items()):
        if dotted == axis or dotted.startswith(axis + ".") or axis.startswith(dotted + "."):
            return (*place, *(p for p in dotted[len(axis) :].strip(".").split(".") if p))
    return route


def _check_axes(study: Study, place: Source) -> None:
    allowed = paths_of()
    grids: list[tuple[Route, _Axes]] = [(("grid",), study.grid)]
    for i, entry in enumerate(study.include):
        for key in entry:
            if key != "grid" and key not in allowed and not key.startswith("task."):
                raise StudyError(
                    f"{place.at(('include', i, key))}: {unknown('key of include', key, ['grid', *allowed])}"
                )
        grids.append((("include", i, "grid"), _grid_of(entry, i, place)))
    for route, grid in grids:
        for axis in grid:
            if axis in ("seed", "seeds"):
                raise StudyError(
                    f"{place.at((*route, axis))}: seeds are not an axis; write them at the top of the study, as seeds:"
                    " [0, 1, 2]"
                )
            if axis not in allowed and not axis.startswith("task."):
                raise StudyError(f"{place.at((*route, axis))}: {unknown('axis', axis, allowed)}")
        if {"training.steps", "training.epochs"} <= {*grid}:
            raise StudyError(
                f"{place.at((*route, 'training.epochs'))}: training.steps and training.epochs are both axes, but one"
                " replaces the other; keep one of the two"
            )
        _check_clashes(
            route,
            [*grid, *(k for k in (study.include[int(route[1])] if route[0] == "include" else ()) if k != "grid")],
            grid,
            place,
        )
        count = math.prod(len(values) for values in grid.values())
        if count > MAX_CELLS:
            raise StudyError(f"{place.at(route)}: {count:,} conditions; at most {MAX_CELLS:,} are allowed in one study")
    for i, entry in enumerate(study.include):
        _check_clashes(
            ("include", i), [k for k in entry if k != "grid"], {k: [v] for k, v in entry.items() if k != "grid"}, place
        )
    rules: list[tuple[Route, dict[str, object]]] = [(("exclude", i), rule) for i, rule in enumerate(study.exclude)]
    rules += [(("reference",), study.reference)] if study.reference else []
    rules += [
        (("published", i, "rows", j, "at"), row.at)
        for i, column in enumerate(study.published)
        for j, row in enumerate(column.rows)
    ]
    for where, rule in rules:
        for dotted in leaves(rule):
            if dotted not in allowed and not dotted.startswith("task."):
                raise StudyError(
                    f"{place.at((*where, dotted.split('.')[0]))}: {unknown(f'key of {where[0]}', dotted, allowed)}"
                )
    for name in ("model", "task"):
        varied = any(a == name or a.startswith(name + ".") for _, g in grids for a in g) or any(
            name in e for e in study.include
        )
        if getattr(study, name) is None and not varied:
            raise StudyError(f"{place.name}: '{name}' is missing; a study needs it, or the axis '{name}' in its grid")


def _grid_of(entry: Mapping[str, object], index: int, place: Source) -> _Axes:
    """The grid of a study's include; StudyError where it is none."""
    own = entry.get("grid", {})
    if not isinstance(own, dict) or not all(isinstance(v, list | tuple) and v for v in own.values()):
        raise StudyError(
            f"{place.at(('include', index, 'grid'))}: grid must map dotted names to lists of at least one value"
        )
    return own


def _check_clashes(route: Route, names: list[str], values: _Axes, place: Source) -> None:
    """Two axes that set the same field: one of them would be lost."""
    for short in names:
        for long in names:
            inside = long.removeprefix(short + ".")
            if inside != long and any(isinstance(v, dict) and inside.split(".")[0] in v for v in values.get(short, ())):
                raise StudyError(
                    f"{place.at((*route, long))}: {long} is also set by {short}; set it in only one of the two"
                )


def _check_learning_rates(expanded: tuple[Condition, ...], place: Source) -> None:
    """One cell cannot belong to two grids of learning rates."""
    grids: dict[str, Tune] = {}
    for condition in expanded:
        tuned = condition.training.learning_rate
        if isinstance(tuned, Tune):
            key = condition.model_copy(
                update={"training": condition.training.model_copy(update={"learning_rate": 1.0})}
            ).model_dump_json()
            if key in grids:
                one, other = (", ".join(f"{r:g}" for r in g.tune) for g in (grids[key], tuned))
                raise StudyError(
                    f"{place.at(('grid',))}: one condition is tuned over two grids ({one}; {other}); give it a single"
                    " grid with all learning rates"
                )
            grids[key] = tuned


def _check_reference(study: Study, expanded: tuple[Condition, ...], place: Source) -> None:
    if study.reference is None:
        return
    plain = [c.model_dump(mode="json") for c in expanded]
    chosen = [p for p in plain if agrees(p, study.reference)]
    if not chosen:
        shown_anyway = ("method", "method.name", "quantization", "quantization.name")
        fields = [k for k in leaves(study.reference) if k not in shown_anyway]
        shown = sorted(
            {"/".join(str(get(p, k)) for k in ("method.name", "quantization.name", *fields)) for p in plain}
        )[:12]
        written = ", ".join(f"{k}: {v}" for k, v in leaf_values(study.reference))
        near = ", ".join(f"{k}: {v}" for k, v in near_values(study.reference, plain).items())
        raise StudyError(
            f"{place.at(('reference',))}: the reference {written} matches no condition;"
            f"{f' did you mean {near}?' if near else ''} the study has"
            f" ({'/'.join(('method', 'quantization', *fields))}) {', '.join(shown)}; name one of them, or include it"
        )
    references = References(chosen)
    for condition in plain:
        try:
            references.of(condition)
        except LorabenchError as e:
            raise StudyError(f"{place.at(('reference',))}: {e}") from None
