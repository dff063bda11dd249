"""Results as pandas frames: `frame` is tidy (a row per cell and metric), `wide` a row per cell (cells.csv).

Where learning rates were tuned, each is a cell with a row of its own. `chosen` says which count: true at the learning
rate that was chosen for the condition, false at its others, empty while the choice is open (a cell of the condition
has no result yet, or none finished); true where nothing was tuned. Average over `data[data.chosen]`: a mean over all
rows includes the learning rates that were rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pandas as pd

from lorabench.config.imported import knows
from lorabench.config.paths import model_label
from lorabench.record.metrics import PREDICTED_PARTS
from lorabench.record.whole_files import write_atomically

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.record.result import CellResult

SETTINGS = (
    "cell", "condition", "model", "task", "method", "rank", "alpha", "quantization", "double_quant", "target_modules",
    "learning_rate", "steps", "epochs", "batch_size", "sequence_length", "seed", "outcome", "chosen",
)  # fmt: skip
METRICS = (
    "total_parameters", "trainable_parameters", "trainable_percent", "adapter_bytes", "weight_bytes", "load_seconds",
    "train_seconds", "eval_seconds", "tokens_per_second", "train_peak_bytes", "eval_peak_bytes", "eval_loss",
    "perplexity", "bits_per_byte", "validation_loss", "forgetting",
)  # fmt: skip

_OF_SETTING = {
    **{name: f"method.{name}" for name in ("rank", "alpha", "target_modules")},
    **{name: f"training.{name}" for name in ("learning_rate", "steps", "epochs", "batch_size", "sequence_length")},
    "double_quant": "quantization.double_quant",
}  # columns that are empty where an imported result's source does not tell them


def settings(cell: Cell, steps: int | None) -> dict[str, object]:
    """The columns that say what a cell is; None where a setting does not apply. steps are those that its epochs came
    to."""
    targets = cell.method.target_modules
    trains = cell.training.steps > 0
    row: dict[str, object] = {
        "cell": cell.id,
        "condition": cell.condition_id,
        "model": model_label(cell.model.name),
        "task": cell.task.name,
        "method": cell.method.name,
        "rank": cell.method.rank,
        "alpha": cell.method.alpha,
        "quantization": cell.quantization.name,
        "double_quant": cell.quantization.double_quant,
        "target_modules": targets if targets is None or isinstance(targets, str) else ",".join(targets),
        "learning_rate": cell.training.fixed_learning_rate if trains else None,
        "steps": steps,
        "epochs": cell.training.epochs,
        "batch_size": cell.training.batch_size,
        "sequence_length": cell.training.sequence_length,
        "seed": cell.seed if trains else None,
    }
    return row | {column: None for column, setting in _OF_SETTING.items() if not knows(cell, setting)}


def _cell_columns(result: CellResult, chosen: Mapping[str, bool]) -> dict[str, object]:
    own = settings(result.cell, result.steps)
    return {**own, "outcome": result.outcome, "chosen": chosen.get(result.cell.id) if result.cell.tuned_over else True}


def frame(results: Iterable[CellResult], chosen: Mapping[str, bool] = MappingProxyType({})) -> pd.DataFrame:
    """Tidy: a row per cell and metric, with the cell's settings, value, stderr and count; `chosen` is by cell id, of
    those whose learning rate is tuned.

    A cell without readings (a failed one) has one row whose metric is absent.
    """
    rows: list[dict[str, object]] = []
    for result in results:
        own = _cell_columns(result, chosen)
        rows.extend(
            {**own, "metric": r.metric, "value": r.value, "stderr": r.stderr, "count": r.count} for r in result.readings
        )
        if not result.readings:
            rows.append(own)
    return _typed(pd.DataFrame(rows, columns=[*SETTINGS, "metric", "value", "stderr", "count"]))


def wide(results: Iterable[CellResult], chosen: Mapping[str, bool] = MappingProxyType({})) -> pd.DataFrame:
    """A row per cell: settings, every metric, and `<metric>_stderr` for lm-eval's and the evaluation loss; `chosen` is
    by cell id, of those whose learning rate is tuned."""
    rows: list[dict[str, object]] = []
    extra: dict[str, None] = {}  # further columns, in the order of their first appearance
    for result in results:
        row = _cell_columns(result, chosen)
        for reading in result.readings:
            row[reading.metric] = reading.value
            extra.setdefault(reading.metric)
            if reading.stderr is not None:
                row[f"{reading.metric}_stderr"] = reading.stderr
                extra.setdefault(f"{reading.metric}_stderr")
        if result.error:
            row["error"] = result.error.message
            extra.setdefault("error")
        rows.append(row)
    columns = [*SETTINGS, *METRICS, *(c for c in extra if c not in METRICS)]
    return _typed(pd.DataFrame(rows, columns=columns))


def write_csv(data: pd.DataFrame, path: Path) -> Path:
    """A frame as a file, whole or not at all; absent values are empty, which pandas reads as such."""
    write_atomically(path, data.to_csv(index=False, lineterminator="\n"))
    return path


def _typed(data: pd.DataFrame) -> pd.DataFrame:
    for column in (
        "rank",
        "seed",
        "steps",
        "count",
        "total_parameters",
        "trainable_parameters",
        "adapter_bytes",
        "weight_bytes",
        "train_peak_bytes",
        "predicted_train_peak_bytes",
        "eval_peak_bytes",
        *PREDICTED_PARTS,
    ):
        if column in data:
            data[column] = data[column].astype("Float64").round().astype("Int64")
    data["chosen"] = data["chosen"].astype("boolean")
    return data
