"""Result files of lm-eval (results_*.json of its --output_path): one file a model

    results      task: "metric,filter" and "metric_stderr,filter"; higher_is_better, n-samples (effective)
    config       model_args: pretrained, peft, dtype, load_in_4bit, load_in_8bit, bnb_4bit_*, as text or mapping
    date, lm_eval_version, transformers_version, model_sha, total_evaluation_time_seconds

A file with an adapter (peft) is a condition of that adapter: its method, rank and alpha are those of the
adapter_config.json in the folder, where that is here. Without one the model itself was evaluated: base where another
file puts an adapter on it, else a checkpoint, of which nobody says how it was trained. Files of one condition with
different tasks are one cell; with the same task they are runs of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from lorabench.errors import DataError, unknown
from lorabench.importers._files import files_in, read_json
from lorabench.record.imported_run import ImportedRun, Readout, Request, checked
from lorabench.record.metrics import is_accuracy, metric
from lorabench.record.result import Environment, Reading

_NO_METRICS = ("alias", "name", "sample_len", "sample_count")
_DTYPES = ("float32", "bfloat16", "float16")
_BASE, _CHECKPOINT, _ADAPTER = "base", "checkpoint", "adapter"


@dataclass(frozen=True)
class _File:
    """What one file tells."""

    path: Path
    text: str
    arguments: Mapping[str, str]
    readings: tuple[Reading, ...]
    plain: Mapping[str, object]


def read(request: Request) -> Readout:
    """The runs of the files; one that is none of lm-eval's, damaged or truncated is refused with a sentence."""
    files: list[_File] = []
    refused: list[str] = []
    for path in files_in(request.paths, "results*.json"):
        try:
            files.append(_file(path))
        except DataError as e:
            refused.append(str(e))
    adapted = {f.arguments["pretrained"] for f in files if f.arguments.get("peft")}
    made = []
    for file in files:
        try:
            made.append(checked(_run(file, adapted), "lm-eval", "leave the file out"))
        except DataError as e:
            refused.append(str(e))
    runs = _joined(made)
    names = tuple(dict.fromkeys(r.metric for run in runs for r in run.readings))
    return Readout("lm-eval", runs, _deciding(request, names), tuple(refused), _notes(runs))


def _file(path: Path) -> _File:
    text, plain = read_json(path)
    results, config = plain.get("results"), plain.get("config")
    if not isinstance(results, dict) or not isinstance(config, dict) or "model_args" not in config:
        raise DataError(
            f"{path} is no result file of lm-eval (it has no results and config.model_args); leave it out, or read a"
            " table with: lorabench import csv"
        )
    arguments = _arguments(config["model_args"])
    if "pretrained" not in arguments:
        raise DataError(f"{path} does not say which model was evaluated (config.model_args has no pretrained)")
    try:
        readings = tuple(r for task, values in results.items() for r in _readings(task, values, plain))
    except (TypeError, ValueError, AttributeError) as e:
        raise DataError(f"{path} is damaged ({' '.join(str(e).split())}); get it from its source again") from None
    if not readings:
        raise DataError(f"{path} has no metric of any task; leave it out")
    return _File(path, text, arguments, readings, plain)


def _arguments(written: object) -> dict[str, str]:
    """ "pretrained=M,peft=P,load_in_4bit=True" or the mapping of it."""
    if isinstance(written, dict):
        return {str(k): str(v) for k, v in written.items()}
    pairs = (part.partition("=") for part in str(written).split(","))
    return {k.strip(): v.strip() for k, _, v in pairs if k.strip()}


def _readings(task: str, values: Mapping[str, object], plain: Mapping[str, object]) -> Iterable[Reading]:
    samples = plain.get("n-samples")
    own = samples.get(task) if isinstance(samples, dict) else None
    count = own.get("effective") if isinstance(own, dict) else None
    for key, value in values.items():
        name, _, kind = key.partition(",")
        if name.endswith("_stderr") or name in _NO_METRICS or not _is_number(value):
            continue
        error = values.get(f"{name}_stderr,{kind}")
        suffix = "" if kind in ("none", "") else f":{kind}"
        yield Reading(
            metric=f"{task}/{name}{suffix}",
            value=float(str(value)),
            stderr=float(str(error)) if _is_number(error) else None,
            count=count if isinstance(count, int) else None,
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _run(file: _File, adapted: set[str]) -> ImportedRun:
    told = _settings(file.arguments, adapted, file.path)
    plain, versions = file.plain, {}
    for package, key in (("lm_eval", "lm_eval_version"), ("transformers", "transformers_version")):
        if plain.get(key):
            versions[package] = str(plain[key])
    date, seconds = plain.get("date"), plain.get("total_evaluation_time_seconds")
    try:
        began = datetime.fromtimestamp(float(str(date)), UTC).isoformat(timespec="seconds") if _is_number(date) else ""
    except (ValueError, OverflowError, OSError):  # no date of our time
        began = ""
    timed = _number(seconds)
    readings = file.readings if timed is None else (*file.readings, Reading(metric="eval_seconds", value=timed))
    commit = plain.get("model_sha")
    return ImportedRun(
        source=str(file.path),
        settings=told,
        readings=readings,
        variant=_variant(file.arguments, told),
        experiment=json.dumps({k: v for k, v in file.arguments.items() if k in ("pretrained", "peft", "revision")}),
        series=", ".join(f"{k} {v}" for k, v in versions.items()),
        started_at=began,
        environment=Environment(device="unknown", packages=versions) if versions else None,
        model=f"{file.arguments['pretrained']}@{commit}" if commit else None,
        data=", ".join(sorted({r.metric.rpartition("/")[0] for r in file.readings})),
        copy=file.text,
    )


def _settings(arguments: Mapping[str, str], adapted: set[str], path: Path) -> dict[str, object]:
    model, adapter = arguments["pretrained"], arguments.get("peft")
    told: dict[str, object] = {"model.name": model, "task.name": "lm-eval"}
    if arguments.get("revision"):
        told["model.revision"] = arguments["revision"]
    if (dtype := arguments.get("dtype", "").removeprefix("torch.")) in _DTYPES:
        told["model.dtype"] = dtype
    if _is_true(arguments.get("load_in_4bit")):
        told["quantization.name"] = arguments.get("bnb_4bit_quant_type", "fp4")  # bitsandbytes' default
        told["quantization.double_quant"] = _is_true(arguments.get("bnb_4bit_use_double_quant"))
    elif _is_true(arguments.get("load_in_8bit")):
        told["quantization.name"] = "int8"
    if not adapter:
        told["method.name"] = _BASE if model in adapted else _CHECKPOINT
        return told | ({"training.steps": 0} if model in adapted else {})
    return told | {"method.name": _ADAPTER} | _adapter(adapter, path)


def _adapter(name: str, path: Path) -> dict[str, object]:
    """What an adapter's own configuration says, where its folder is here: seen from the working directory, or from the
    results."""
    for folder in (Path(name), path.parent / name):
        file = folder / "adapter_config.json"
        if file.is_file():
            _, config = read_json(file)
            kind = str(config.get("peft_type", _ADAPTER)).lower().replace("_", "-")
            if kind == "lora":
                kind = "dora" if config.get("use_dora") else "rslora" if config.get("use_rslora") else "lora"
            told = {
                "method.name": kind,
                "method.rank": config.get("r"),
                "method.alpha": config.get("lora_alpha"),
                "method.dropout": config.get("lora_dropout"),
                "method.target_modules": config.get("target_modules") or None,
            }
            return {k: v for k, v in told.items() if v is not None}
    return {}


def _variant(arguments: Mapping[str, str], told: Mapping[str, object]) -> str | None:
    """The adapter's folder, or the checkpoint's, where nothing else tells it."""
    if told["method.name"] == _BASE:
        return None
    named = arguments.get("peft") or arguments["pretrained"]
    return Path(named).name


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("true", "1")


def _number(value: object) -> float | None:
    try:
        return float(str(value)) if value is not None else None
    except ValueError:
        return None


def _joined(runs: Iterable[ImportedRun]) -> tuple[ImportedRun, ...]:
    """Files of one condition with different tasks as one run, in the order of their dates."""
    joined: list[ImportedRun] = []
    for run in sorted(runs, key=lambda r: (r.started_at, r.source)):
        for i, other in enumerate(joined):
            alike = (other.settings, other.variant, other.experiment) == (run.settings, run.variant, run.experiment)
            tasks = {r.metric for r in other.readings} - {"eval_seconds"}
            if alike and tasks.isdisjoint(r.metric for r in run.readings):
                joined[i] = _both(other, run)
                break
        else:
            joined.append(run)
    return tuple(joined)


def _both(one: ImportedRun, other: ImportedRun) -> ImportedRun:
    seconds = [r.value for r in (*one.readings, *other.readings) if r.metric == "eval_seconds"]
    readings = [r for r in (*one.readings, *other.readings) if r.metric != "eval_seconds"]
    return replace(
        one,
        source=f"{one.source}; {other.source}",
        readings=(*readings, *([Reading(metric="eval_seconds", value=sum(seconds))] if seconds else [])),
        data=", ".join(sorted({*str(one.data).split(", "), *str(other.data).split(", ")})),
        copy=f"[{one.copy.strip().removeprefix('[').removesuffix(']')},\n{other.copy}]",
    )


def _deciding(request: Request, names: tuple[str, ...]) -> str:
    if request.metric is not None:
        if request.metric not in names:
            raise DataError(unknown("metric", request.metric, [n for n in names if "/" in n]))
        return request.metric
    able = [n for n in names if is_accuracy(n)] or [n for n in names if "/" in n and metric(n).better != "none"]
    return (able or [*names, "eval_loss"])[0]


def _notes(runs: tuple[ImportedRun, ...]) -> tuple[str, ...]:
    notes = [
        "± is lm-eval's error over the items where a condition was evaluated once; lm-eval does not tell how a model"
        " was trained, nor with which seed."
    ]
    if any(run.settings["method.name"] == _CHECKPOINT for run in runs):
        notes.append("A checkpoint is a model that was evaluated without an adapter: how it was trained is not told.")
    return tuple(notes)
