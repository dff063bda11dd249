"""A table of anybody's own results, as comma-separated values: a row a run

Columns are mapped to fields (--map COLUMN=FIELD); a column that is called as a field needs no map. Fields are

    settings   method (needed, or variant), variant, model, task, quantization, rank, alpha, target_modules, ..., seed
    metrics    every metric of lorabench by its name (accuracy, eval_loss, ...), lm-eval's as task/acc, and any other
               name with --higher-is-better or --lower-is-better; at least one
    beside     METRIC_stderr: its standard error; items: test items of the accuracies

Shares (accuracy) are between 0 and 1 inside: a column with a % sign or a value above 1 is taken for percent, which the
notes say. Without a standard error that of an accuracy is the items' binomial one, sqrt(p (1 - p) / items).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorabench import plugins
from lorabench.errors import DataError, unknown
from lorabench.formatting import first_names, plural
from lorabench.importers._files import files_in
from lorabench.record.imported_run import ImportedRun, Readout, Request, checked
from lorabench.record.metrics import TABLE, is_accuracy, metric
from lorabench.record.result import Reading

SETTINGS = {
    "model": "model.name", "dtype": "model.dtype", "task": "task.name", "method": "method.name", "rank": "method.rank",
    "alpha": "method.alpha", "dropout": "method.dropout", "target_modules": "method.target_modules",
    "quantization": "quantization.name", "double_quant": "quantization.double_quant",
    "learning_rate": "training.learning_rate", "steps": "training.steps", "batch_size": "training.batch_size",
    "gradient_accumulation": "training.gradient_accumulation", "sequence_length": "training.sequence_length",
    "schedule": "training.schedule", "weight_decay": "training.weight_decay", "optimizer": "training.optimizer",
}  # fmt: skip
_WORDS = ("model", "dtype", "task", "method", "target_modules", "quantization", "schedule", "optimizer")
_WHOLE = ("rank", "steps", "batch_size", "gradient_accumulation", "sequence_length")
_BESIDE = ("variant", "seed", "items")
_EMPTY = ("", "-", "–", "n/a", "na", "nan", "none", "null")
_METHODS = {"full fine-tuning": "full", "fft": "full", "full-finetuning": "full", "qlora": "lora", "none": "base"}


@dataclass(frozen=True)
class _Columns:
    """What the columns of a table are."""

    fields: Mapping[str, str]
    """column to field; metrics by their lorabench name"""
    metrics: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass
class _Table:
    """A table as it stands in its file."""

    path: Path
    header: tuple[str, ...]
    rows: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """line in the file, and the row"""
    refused: list[str] = field(default_factory=list)
    """a sentence for each line that is no row"""


def read(request: Request) -> Readout:
    """The rows of the tables; a row that cannot be one is refused with a sentence."""
    runs: list[ImportedRun] = []
    refused: list[str] = []
    notes: list[str] = []
    names: dict[str, None] = {}
    for path in files_in(request.paths, "*.csv"):
        table = _read(path)
        columns = _columns(table, request)
        refused += table.refused
        percent = {m for m in columns.metrics if metric(m).unit == "share" and _is_percent(table, columns, m, request)}
        for line, row in table.rows:
            try:
                runs.append(_run(f"{path}, line {line}", row, columns, percent))
            except DataError as e:
                refused.append(str(e))
        notes += _notes(table, columns, percent, request)
        names |= dict.fromkeys(columns.metrics)
    return Readout("csv", tuple(runs), _deciding(request, tuple(names)), tuple(refused), tuple(dict.fromkeys(notes)))


def _read(path: Path) -> _Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            start = stream.read(4096)
            stream.seek(0)
            tabs = start.partition("\n")[0].count("\t") > start.partition("\n")[0].count(",")
            lines = csv.reader(stream, delimiter="\t" if tabs else ",", strict=True)
            header = tuple(c.strip() for c in next(lines, []))
            table = _Table(path, header)
            for row in lines:
                if len(row) == len(header) and any(c.strip() for c in row):
                    table.rows.append((lines.line_num, {c: v.strip() for c, v in zip(header, row, strict=True)}))
                elif any(c.strip() for c in row):
                    table.refused.append(
                        f"{path}, line {lines.line_num} has {plural(len(row), 'field')} and the header {len(header)};"
                        " complete the line"
                    )
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror}); give a file of comma-separated values") from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise DataError(
            f"{path} is no table of comma-separated values ({' '.join(str(e).split())[:120]}); save it as CSV in UTF-8"
        ) from None
    if len(header) == 1 and ";" in header[0]:
        raise DataError(f"{path} is separated by semicolons; save it with commas or tabs between its columns")
    if not header or not table.rows:
        if table.refused:
            raise DataError(table.refused[0])
        raise DataError(f"{path} has no {'rows below its header' if header else 'header'}; a table needs both")
    double = next((c for c in header if header.count(c) > 1), None)
    if double is not None:
        raise DataError(f"{path} has two columns '{double}'; rename one of them")
    return table


def _columns(table: _Table, request: Request) -> _Columns:
    directions = dict.fromkeys(request.higher_is_better, "score") | dict.fromkeys(request.lower_is_better, "error")
    asked = dict(request.columns or {})
    for column in asked:
        if column not in table.header:
            raise DataError(f"{table.path}: {unknown('column', column, table.header)}")
    fields: dict[str, str] = {}
    for column, wanted in {**{c: _own_name(c) for c in table.header if c not in asked}, **asked}.items():
        base = wanted.removesuffix("_stderr") if wanted.endswith("_stderr") else wanted
        if base in directions:
            fields[column] = f"{base}/{directions[base]}" + wanted[len(base) :]
        elif wanted in SETTINGS or wanted in _BESIDE or _is_metric(base):
            fields[column] = wanted
        elif column in asked:
            allowed = [*SETTINGS, *_BESIDE, *_measures()]
            raise DataError(
                f"{table.path}: column '{column}': {unknown('field', wanted, allowed)}; a metric of another name needs"
                " --higher-is-better or --lower-is-better"
            )
    names = list(fields.values())
    if twice := next((f for f in names if names.count(f) > 1 and f != "variant"), None):
        both = " and ".join(f"'{c}'" for c, f in fields.items() if f == twice)
        raise DataError(f"{table.path}: columns {both} are both {twice}; map one of them, or rename the other")
    metrics = tuple(f for f in names if f not in SETTINGS and f not in _BESIDE and not f.endswith("_stderr"))
    if "method" not in names and "variant" not in names:
        raise DataError(
            f"{table.path} has no column for the method ({', '.join(table.header)}); say which with --map COLUMN=method"
        )
    if not metrics:
        raise DataError(
            f"{table.path} has no column for a metric ({', '.join(table.header)}); say which with --map"
            " COLUMN=accuracy, or another metric"
        )
    return _Columns(fields, metrics, tuple(c for c in table.header if c not in fields))


def _own_name(column: str) -> str:
    """The field that a column is called as, in whatever case."""
    lower = column.lower()
    return lower if lower in SETTINGS or lower in _BESIDE or _is_metric(lower.removesuffix("_stderr")) else column


def _is_metric(name: str) -> bool:
    return name in TABLE or ("/" in name and metric(name).better != "none")


def _measures() -> list[str]:
    """Metrics that a table of results may well have, for the list of what is allowed."""
    return [m.name for m in TABLE.values() if m.better != "none" and not m.name.startswith("predicted_")]


def _is_percent(table: _Table, columns: _Columns, name: str, request: Request) -> bool:
    if request.unit != "auto":
        return request.unit == "percent"
    texts = _texts(table, columns, name)
    values = [v for t in texts if (v := _float(t)) is not None]
    return _signed(columns, name, texts) or max(values, default=0.0) > 1


def _texts(table: _Table, columns: _Columns, name: str) -> list[str]:
    return [row[c] for c, f in columns.fields.items() if f == name for _, row in table.rows]


def _signed(columns: _Columns, name: str, texts: list[str]) -> bool:
    """Whether a % sign says the unit."""
    return any("%" in text for text in (*texts, *(c for c, f in columns.fields.items() if f == name)))


def _run(place: str, row: Mapping[str, str], columns: _Columns, percent: set[str]) -> ImportedRun:
    texts = {f: row[c] for c, f in columns.fields.items() if f != "variant" and row[c].lower() not in _EMPTY}
    variant = ", ".join(v for c, f in columns.fields.items() if f == "variant" and (v := row[c])) or None
    told: dict[str, object] = {}
    for name, text in texts.items():
        if name in SETTINGS:
            told[SETTINGS[name]] = _setting(place, name, text)
    method = str(told.get("method.name", ""))
    if not method and variant:
        method, variant = variant, None
    known = method.lower() if method.lower() in plugins.names("methods") else method
    told["method.name"] = _METHODS.get(method.lower(), known)
    if method.lower() == "qlora" and "quantization" not in texts:
        told["quantization.name"] = "nf4"
    if told["method.name"] == "base":
        told["training.steps"] = 0
    seed = None if "seed" not in texts else _whole(place, "seed", texts["seed"], 0, 2**32 - 1)
    items = None if "items" not in texts else _whole(place, "items", texts["items"], 1)
    readings = tuple(r for m in columns.metrics if (r := _reading(place, m, texts, m in percent, items)) is not None)
    if not readings:
        raise DataError(f"{place} has no value of {', '.join(columns.metrics)}; complete the row or leave it out")
    run = ImportedRun(place, told, readings, variant, seed=seed, copy=json.dumps({"row": place, **row}, indent=1))
    return checked(run, "csv", "correct the row")


def _setting(place: str, name: str, text: str) -> object:
    if name in _WORDS:
        if name == "target_modules" and ("," in text or "+" in text):
            return tuple(m.strip() for m in text.replace("+", ",").split(",") if m.strip())
        return text
    if name == "double_quant":
        return text.lower() in ("true", "yes", "1")
    return _whole(place, name, text) if name in _WHOLE else _value(place, name, text)


def _reading(place: str, name: str, texts: Mapping[str, str], percent: bool, items: int | None) -> Reading | None:
    if name not in texts:
        return None
    scale = 100.0 if percent else 1.0
    value = _value(place, name, texts[name]) / scale
    share = metric(name).unit == "share"
    if share and not 0 <= value <= 1:
        unit = "percent" if percent else "a fraction"
        raise DataError(
            f"{place}: {name} is {texts[name]}, which is no share ({unit} was understood); correct it, or say --unit"
            f" {'fraction' if percent else 'percent'}"
        )
    stderr = None
    if f"{name}_stderr" in texts:
        stderr = _value(place, f"{name}_stderr", texts[f"{name}_stderr"]) / scale
    elif items and (is_accuracy(name) or share):
        stderr = math.sqrt(value * (1 - value) / items)
    return Reading(metric=name, value=value, stderr=stderr, count=items if share else None)


def _value(place: str, name: str, text: str) -> float:
    value = _float(text)
    if value is None:
        raise DataError(f"{place}: {name} is '{text}', which is no number; correct the row or leave it out")
    return value


def _whole(place: str, name: str, text: str, least: int | None = None, most: int | None = None) -> int:
    value = _value(place, name, text)
    if not value.is_integer() or (least is not None and value < least) or (most is not None and value > most):
        above = ("" if least is None else f" from {least}") + ("" if most is None else f" to {most}")
        raise DataError(f"{place}: {name} is {text}, which is no whole number{above}; correct the row")
    return int(value)


def _float(text: str) -> float | None:
    try:
        value = float(text.rstrip("%").replace("_", "").strip())
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _deciding(request: Request, names: tuple[str, ...]) -> str:
    if request.metric is not None:
        near = [n for n in names if n == request.metric or n.rpartition("/")[0] == request.metric]
        if not near:
            raise DataError(f"{unknown('metric', request.metric, names)}")
        return near[0]
    able = [n for n in names if metric(n).better != "none" and metric(n).unit in ("share", "nats", "ratio", "bits")]
    return (able or list(names))[0]


def _notes(table: _Table, columns: _Columns, percent: set[str], request: Request) -> list[str]:
    notes = []
    for name in (m for m in columns.metrics if m in percent):
        texts = _texts(table, columns, name)
        small = [t for t in texts if 0 < (_float(t) or 0) <= 1]
        also = ""
        if small and request.unit == "auto" and not _signed(columns, name, texts):
            also = f", {first_names(small, 3)} too: if that is a fraction, mend the table"
        notes.append(f"{name} was read as percent{also}.")
    if columns.unused:
        notes.append(f"Columns of {table.path.name} that are not used: {', '.join(columns.unused)}.")
    return notes
