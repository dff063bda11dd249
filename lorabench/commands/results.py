"""What the CLI shows of a results directory, of a cell, of what there is, and of the study format, as text."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lorabench import plugins
from lorabench.config.decision import deciding_metric
from lorabench.config.elsewhere import unknown_choice
from lorabench.config.fingerprint import flattened
from lorabench.errors import LorabenchError, StoreError
from lorabench.runner.progress import count

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.record.result import CellResult
    from lorabench.record.store import Store
    from lorabench.runner.plan import Plan
    from lorabench.workflows.cell_lookup import Named


LONGER = "; how long it takes and what it needs: lorabench plan STUDY --gpu cpu, or a card"


def dry_run(plan: Plan) -> str:
    """The cells of a study, which of them would run, and what the check had to tell."""
    from lorabench.runner.progress import headline

    pending = {c.id for c in plan.pending}
    rows = [f"{c.id}  {'pending' if c.id in pending else 'done':<7}  {plan.words[c.id]}" for c in plan.cells]
    checked = "every pending cell can run as declared" if plan.pending else "nothing is left to run"
    checked += f", but {count(plan.large, 'condition')} may not or would not fit into memory" if plan.large else ""
    notes = [f"note: {notice}" for notice in plan.notices]
    return "\n".join(
        [
            headline(plan),
            f"{'cell':<12}  {'status':<7}  condition",
            *rows,
            *notes,
            f"dry run: {checked}; nothing was run or written{LONGER if plan.pending else ''}",
        ]
    )


def status(store: Store, every: bool = False) -> str:
    """Cells by outcome, then each that runs, failed or is missing; with `every` a line for each cell, to be searched."""
    from lorabench.runner.changes import standing_changes
    from lorabench.runner.plan import describe_cells

    cells = store.plan()
    words = describe_cells(cells)
    told, rows = [], []
    for cell in cells:
        word, reason = _standing(store, cell.id)
        told.append(word)
        if word != "finished" or reason:
            rows.append(f"{word.replace('_', ' '):<13}  {cell.id}  {words[cell.id]}{reason}")
    repeatable = any(" failed: " in row for row in rows if row.startswith("finished"))
    if every:
        rows = cell_rows(store, cells, words)
    counts = ", ".join(f"{n} {word.replace('_', ' ')}" for word, n in Counter(told).most_common())
    lines = [f"{store.folder}: {len(cells)} cells: {counts}", *rows]
    lines += [f"note: {sentence}" for sentence in (*standing_changes(store), *_left_behind(store))]
    if repeatable:
        lines.append(f"to repeat what failed after training: lorabench evaluate {store.folder}")
    if {"missing", "failed", "skipped"} & set(told):
        lines.append(
            f"to run what is missing, failed or skipped: lorabench run {store.folder / 'study.yaml'} --out {store.folder}"
        )
    if not every:
        lines.append(f"each cell with its id and result: lorabench status {store.folder} --cells")
    return "\n".join(lines)


def cell_rows(store: Store, cells: Iterable[Cell], words: Mapping[str, str]) -> list[str]:
    """A line for each cell: id, outcome, seconds of training, the study's metric, its words."""
    from lorabench.record.metrics import metric

    name = main_metric(store)
    rows = [("cell", "outcome", "seconds", name, "words")]
    for cell in cells:
        word, _ = _standing(store, cell.id)
        result = None
        with contextlib.suppress(StoreError):
            result = store.get(cell.id)
        seconds = None if result is None else result.value("train_seconds")
        value = None if result is None else result.value(name)
        rows.append(
            (
                cell.id,
                word.replace("_", " "),
                "-" if seconds is None else f"{seconds:.1f}",
                "-" if value is None else _in_unit(value, metric(name).unit).strip(),
                words[cell.id],
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]), row[3].rjust(widths[3]), row[4]]
        )
        for row in rows
    ]


def main_metric(store: Store) -> str:
    """What the study's answer is about."""
    return deciding_metric(store.study().comparison, (c.task for c in store.plan()))


def _left_behind(store: Store) -> list[str]:
    """What cells/ holds beside what the study asks for, and by which changes."""
    left = set(store.left_behind())
    if not left:
        return []
    told = [
        f"{count(len(left), 'further result')} in {store.cells_folder} {'belongs' if len(left) == 1 else 'belong'} to earlier forms of this study, which no table or report shows"
    ]
    told += [f"{change.at[:10]}: {change.words}" for change in store.earlier() if left & set(change.cells)]
    return told


def _standing(store: Store, cell_id: str, known: CellResult | None = None) -> tuple[str, str]:
    try:
        result = known or store.get(cell_id)
    except StoreError as e:
        return "unreadable", f": {e}"
    if store.is_claimed(cell_id):
        return "running", ""
    if result is None:
        return "missing", ""
    log = store.cells_folder / cell_id / "log.txt"
    where = f" (log: {log})" if log.exists() else ""
    told = f": {_reason(result)}{where}" if result.error else ""
    if result.outcome in ("failed", "out_of_memory") and result.is_trained:
        told += f"; trained: repeat its evaluation alone with lorabench evaluate {store.folder} {cell_id}"
    return result.outcome, told + _later(result, where)


def _later(result: CellResult, where: str) -> str:
    """What failed after the evaluation, which ends no cell."""
    from lorabench.runner.progress import AFTERWARDS

    told = [f"{AFTERWARDS[f.phase or 'measure']} failed: {f.message}" for f in result.faults]
    return f": {'; '.join(told)}{where}" if told else ""


def _reason(result: CellResult) -> str:
    error = result.error
    assert error is not None
    kind = "" if error.kind in error.message else f"{error.kind}: "
    step = f" (step {error.step})" if error.step is not None and f"step {error.step}" not in error.message else ""
    return f"{kind}{error.message}{step}"


def unfinished(plan: Plan, known: Mapping[str, CellResult]) -> list[tuple[bool, str]]:
    """A line for each cell that has not finished, with its reason and log, and whether that may be: skipped as was asked for, or diverged at a rate that was one of several to try."""
    rows = []
    for cell in plan.cells:
        word, reason = _standing(plan.store, cell.id, known.get(cell.id))
        if word != "finished":
            rows.append(
                (
                    word == "skipped" or (word == "diverged" and bool(cell.tuned_over)),
                    f"{word.replace('_', ' ')}: {plan.words[cell.id]} ({cell.id}){reason}",
                )
            )
    return rows


def explain_named(named: Named) -> str:
    """A cell, or a condition: its metrics over the seeds, then its cells."""
    if not named.is_condition:
        return explain(named.store, named.store.find(named.cells[0].id))
    if len(named.cells) == 1:
        result = named.store.get(named.cells[0].id)
        if result is not None:
            return explain(named.store, result)
    return explain_condition(named)


def explain_condition(named: Named) -> str:
    """A condition: what it declares, its metrics as the table has them, and a line for each cell."""
    from lorabench.record.metrics import metric
    from lorabench.report.view import make_view
    from lorabench.runner.plan import describe_cells

    store, view = named.store, make_view(named.store)
    summary = view.summary(named.cells[0].condition_id)
    parts = [
        f"condition {named.title} of {store.folder}: {count(len(named.cells), 'cell')}, {summary.outcomes.finished} of {summary.outcomes.total} of those it is reported by finished"
    ]
    tuning = next((t for t in view.tunings if t.condition == summary.condition), None)
    if tuning is not None and tuning.chosen is not None:
        tried = ", ".join(f"{t.rate:g}" for t in tuning.tried)
        parts.append(
            f"learning rate {tuning.chosen:g}, chosen by validation loss from {tried}; the metrics are of its cells"
        )
    parts.append(
        _block("declared", _rows({k: v for k, v in view.declared(summary.condition).items() if k != "fingerprints"}))
    )
    readings = []
    for name, statistic in summary.statistics.items():
        unit = metric(name).unit
        half = f" ± {_in_unit(statistic.ci_half_width, unit)}" if statistic.ci_half_width is not None else ""
        readings.append(
            (name, f"{_in_unit(statistic.mean, unit)}{half} over {count(statistic.n, 'seed')}   {metric(name).meaning}")
        )
    parts.append(
        _block("metrics, means with the half-width of their 95 % intervals", readings)
        if readings
        else "metrics    none yet"
    )
    parts.append("cells")
    parts += [f"  {row}" for row in cell_rows(store, named.cells, describe_cells(store.plan()))]
    parts.append(f"all that is known of one: lorabench explain {named.cells[0].id} --in {store.folder}")
    return "\n".join(parts)


def explain(store: Store, result: CellResult) -> str:
    """A cell from its row in a table back to what was declared, resolved, read and written."""
    from lorabench.record.metrics import metric
    from lorabench.runner.plan import describe_cells

    cell = result.cell
    folder = store.cells_folder / cell.id
    words = describe_cells(store.plan()).get(cell.id, "")
    outcome = result.outcome.replace("_", " ")
    parts = [
        f"cell {cell.id} of {store.folder}: {words}",
        f"condition {cell.condition_id}, outcome {outcome}, begun {result.started_at}",
    ]
    if result.error:
        parts.append(
            f"reason     {_reason(result)}{f' (in the phase {result.error.phase})' if result.error.phase else ''}"
        )
    parts += [f"later      {f.phase}: {f.kind}: {f.message}" for f in result.faults]
    declared = cell.model_dump(mode="json", exclude_none=True)
    parts.append(_block("declared", _rows(declared)))
    if result.resolved:
        resolved = result.resolved.model_dump(mode="json", exclude_none=True)
        modules = resolved.pop("target_modules", [])
        if modules:
            resolved["adapted modules"] = f"{len(modules)}, {modules[0]} to {modules[-1]}"
        parts.append(_block("resolved", _rows(resolved)))
    readings = []
    for r in result.readings:
        spread = f" +- {r.stderr:.2g} (standard error)" if r.stderr is not None else ""
        items = f" over {r.count:,} items" if r.count is not None else ""
        readings.append(
            (r.metric, f"{_in_unit(r.value, metric(r.metric).unit)}{spread}{items}   {metric(r.metric).meaning}")
        )
    parts.append(_block("readings", readings) if readings else "readings   none")
    if result.environment:
        parts.append(_block("environment", _rows(result.environment.model_dump(mode="json", exclude_none=True))))
    curve = folder / "curve.csv"
    if curve.is_file():
        rows = curve.read_text(encoding="utf-8").splitlines()
        parts.append(
            _block(
                f"curve, its end of {len(rows) - 1} steps",
                list(zip(rows[0].split(","), rows[-1].split(","), strict=False)),
            )
        )
    files = [
        (str(f.relative_to(folder)), _in_unit(f.stat().st_size, "bytes"))
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    ]
    parts.append(_block(f"files in {folder}", files))
    return "\n".join(parts)


def _block(title: str, rows: list[tuple[str, Any]]) -> str:
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def _rows(plain: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (name, (", ".join(map(str, value)) or "none") if isinstance(value, list) else value)
        for name, value in flattened(plain).items()
    ]


def _in_unit(value: float, unit: str) -> str:
    if unit == "bytes":
        for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if value >= size:
                return f"{value / size:.2f} {name}"
        return f"{value:.0f} bytes"
    if unit == "count":
        return f"{value:,.0f}"
    shown = f"{value:,.0f}" if value >= 10_000 else f"{value:.4g}"
    return shown + {"percent": " %", "ratio": "", "share": ""}.get(unit, f" {unit}")


def plugin_list(kind: str) -> str:
    """One line for each plug-in of a kind."""
    names = plugins.names(kind)
    width = max((len(n) for n in names), default=0)
    return "\n".join(f"{n:<{width}}  {plugins.describe(kind, n)}" for n in names)


def task_options(name: str) -> str:
    """What a task reads: its own page, then each option with its default."""
    if name not in plugins.names("tasks"):
        raise LorabenchError(unknown_choice("task", name, plugins.names("tasks")))
    task = plugins.load("tasks", name)
    rows = []
    for option, field in task.Options.model_fields.items():
        if option != "name":
            default = (
                "needed"
                if field.is_required()
                else json.dumps(field.get_default(call_default_factory=True), ensure_ascii=False)
            )
            rows.append(
                (
                    option,
                    f"{' '.join((field.description or '').split())} (default: {default})".replace(
                        "(default: needed)", "(needed)"
                    ).replace(" (default: null)", ""),
                )
            )
    return f"{name}: {(task.__doc__ or '').strip()}\n\n{_block(f'options, under task: with name: {name}', rows) if rows else 'it has no options'}"


def schema() -> str:
    """JSON Schema of the study file, for editors."""
    from lorabench.config.explain import paths_of
    from lorabench.config.study import Study

    plain = Study.model_json_schema(by_alias=True)
    definitions = plain.setdefault("$defs", {})
    tasks: list[dict[str, Any]] = [{"enum": list(plugins.names("tasks"))}]
    for name in plugins.names("tasks"):
        own = plugins.load("tasks", name).Options.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
        definitions.update(own.pop("$defs", {}))
        mapping = next((part for part in own.get("anyOf", []) if part.get("type") != "string"), own)
        reference = str(mapping.get("$ref", "")).rpartition("/")[2]
        mapping = dict(definitions.pop(reference)) if reference in definitions else dict(mapping)
        mapping["properties"] = {**mapping.get("properties", {}), "name": {"const": name}}
        mapping["required"] = sorted({"name", *mapping.get("required", [])})
        definitions[f"task-{name}"] = mapping
        tasks.append({"$ref": f"#/$defs/task-{name}"})
    plain["properties"]["task"] = {"anyOf": tasks, "description": "what is learned"}
    axes = {"anyOf": [{"enum": paths_of()}, {"pattern": r"^task\."}]}
    plain["properties"]["grid"]["propertyNames"] = axes
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "lorabench study"}
    plain.pop("title", None)
    return json.dumps({**head, **plain}, indent=2, ensure_ascii=False)
