"""What explain tells of a cell or a condition: from its row in a table back to what was declared, resolved, read and
written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorabench.commands.status_text import cell_rows, in_unit, reason_of
from lorabench.config.fingerprint import flattened
from lorabench.config.imported import declared
from lorabench.formatting import block, plural

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.record.result import CellResult
    from lorabench.record.store import Store
    from lorabench.workflows.cell_lookup import NamedCells


def explain_named(named: NamedCells) -> str:
    """A cell, or a condition: its metrics over the seeds, then its cells."""
    if not named.is_condition:
        return explain(named.store, named.store.find(named.cells[0].id))
    if len(named.cells) == 1:
        result = named.store.get(named.cells[0].id)
        if result is not None:
            return explain(named.store, result)
    return explain_condition(named)


def explain_condition(named: NamedCells) -> str:
    """A condition: what it declares, its metrics as the table has them, and a line for each cell."""
    from lorabench.record.metrics import metric
    from lorabench.report.view import make_view
    from lorabench.runner.plan import describe_cells

    store, view = named.store, make_view(named.store)
    summary = view.analysis.summary(named.cells[0].condition_id)
    parts = [
        f"condition {named.title} of {store.folder}: {plural(len(named.cells), 'cell')}; it is reported from"
        f" {summary.outcomes.total} of them, of which {summary.outcomes.finished} finished"
    ]
    tuning = next((t for t in view.analysis.tunings if t.condition == summary.condition), None)
    if tuning is not None and tuning.chosen is not None:
        candidates = ", ".join(f"{t.learning_rate:g}" for t in tuning.results)
        parts.append(
            f"learning rate {tuning.chosen:g}, chosen by validation loss from {candidates}; the metrics are those"
            " of its cells"
        )
    parts.append(
        block(
            "declared",
            _rows({k: v for k, v in view.analysis.declared(summary.condition).items() if k != "fingerprints"}),
        )
    )
    readings = []
    for name, statistic in summary.statistics.items():
        unit = metric(name).unit
        half_width = f" ± {in_unit(statistic.ci_half_width, unit)}" if statistic.ci_half_width is not None else ""
        readings.append(
            (
                name,
                f"{in_unit(statistic.mean, unit)}{half_width} over {plural(statistic.n, 'seed')}"
                f"   {metric(name).meaning}",
            )
        )
    parts.append(
        block("metrics, means with the half-width of their 95 % intervals", readings)
        if readings
        else "metrics    none yet"
    )
    parts.append("cells")
    parts += [f"  {row}" for row in cell_rows(store, named.cells, describe_cells(store.plan()))]
    parts.append(f"everything about one of them: lorabench explain {named.cells[0].id} --in {store.folder}")
    return "\n".join(parts)


def explain(store: Store, result: CellResult) -> str:
    """A cell from its row in a table back to what was declared, resolved, read and written."""
    from lorabench.record.metrics import metric
    from lorabench.runner.plan import describe_cells

    cell = result.cell
    folder = store.cells_folder / cell.id
    words = describe_cells(store.plan()).get(cell.id, "")
    outcome = result.outcome.replace("_", " ")
    begun = f", begun {result.started_at}" if result.started_at else ""  # an imported one may not tell
    parts = [
        f"cell {cell.id} of {store.folder}: {words}",
        f"condition {cell.condition_id}, outcome {outcome}{begun}",
    ]
    if result.error:
        parts.append(
            f"reason     {reason_of(result)}{f' (in the phase {result.error.phase})' if result.error.phase else ''}"
        )
    parts += [f"later      {f.phase}: {f.kind}: {f.message}" for f in result.faults]
    if result.source:
        parts.append(f"imported   from {result.source}; settings that it does not tell are left out below")
    parts.append(block("declared", _rows(told(cell))))
    if result.resolved:
        resolved = result.resolved.model_dump(mode="json", exclude_none=True)
        modules = resolved.pop("target_modules", [])
        if modules:
            resolved["adapted modules"] = f"{len(modules)}, {modules[0]} to {modules[-1]}"
        parts.append(block("resolved", _rows(resolved)))
    readings = []
    for r in result.readings:
        spread = f" +- {r.stderr:.2g} (standard error)" if r.stderr is not None else ""
        items = f" over {plural(r.count, 'item')}" if r.count is not None else ""
        readings.append(
            (r.metric, f"{in_unit(r.value, metric(r.metric).unit)}{spread}{items}   {metric(r.metric).meaning}")
        )
    parts.append(block("readings", readings) if readings else "readings   none")
    if result.environment:
        parts.append(block("environment", _rows(result.environment.model_dump(mode="json", exclude_none=True))))
    curve = folder / "curve.csv"
    if curve.is_file():
        rows = curve.read_text(encoding="utf-8").splitlines()
        parts.append(
            block(
                f"last of {plural(len(rows) - 1, 'step')} of the training curve",
                list(zip(rows[0].split(","), rows[-1].split(","), strict=False)),
            )
        )
    files = [
        (str(f.relative_to(folder)), in_unit(f.stat().st_size, "bytes"))
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    ]
    parts.append(block(f"files in {folder}", files))
    return "\n".join(parts)


def told(cell: Cell) -> dict[str, object]:
    """A cell as it was declared; of an imported one what its source tells."""
    if cell.imported is None:
        return cell.model_dump(mode="json", exclude_none=True)
    told = {
        part: {k: v for k, v in fields.items() if v is not None and f"{part}.{k}" != "imported.importer"}
        for part, fields in declared(cell).items()
    }
    return {**told, "seed": cell.seed, "fingerprints": {"model": cell.fingerprints.model}}


def _rows(plain: dict[str, object]) -> list[tuple[str, object]]:
    return [
        (name, (", ".join(map(str, value)) or "none") if isinstance(value, list) else value)
        for name, value in flattened(plain).items()
        if value is not None
    ]
