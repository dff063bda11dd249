"""Results of PEFT's method comparison (method_comparison/MetaMathQA/results): one JSON file a run

    run_info    created_at, experiment_name, train_config, peft_config (null: full fine-tuning), error_msg
    train_info  status, accelerator_memory_* (cuda_memory_* until 2025), train_time, file_size, num_*_params, metrics:
                an entry every eval_steps, then one with the test accuracy and forgetting
    meta_info   package_info, system_info, commits of model and data

What its numbers are, by its run.py: accuracy over the test split of GSM8K; memory reserved, of the whole run and after
each step; train_time with loading of batches, the test's evaluation and forgetting (the entries' "train time" are the
steps alone, which is lorabench's train_seconds); forgetting in two meanings (huggingface/peft#3419). The placeholder
99999999 for a size that was not measured is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from lorabench.errors import DataError, unknown
from lorabench.importers._files import files_in, read_json
from lorabench.record.imported_run import ImportedRun, Readout, Request, checked
from lorabench.record.result import Environment, Fault, Reading

TEST_ITEMS = 1319  # of openai/gsm8k's test split, which is evaluated whole
_NOT_MEASURED = 99999999  # run.py's file_size where saving failed
_UNSHIFTED_UNTIL = "2026-07-10"  # huggingface/peft#3419, which mends forgetting, was opened that day
_MENDED_FROM = "2026-07-14"  # the first published runs with it
_WARMUP = 0.1  # utils.py, WARMUP_STEP_RATIO
_PARTS = ("run_info", "train_info", "meta_info")
_OPTIMIZERS = {"AdamW": "adamw", "SGD": "sgd"}
_BY_OPTIMIZER = ("lora-fa", "lora+")
_QUANTIZED = {"int8": "int8", "int4": "fp4"}  # load_in_4bit alone is bitsandbytes' default, fp4
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets")


def read(request: Request) -> Readout:
    """The runs of the files; one that is none of PEFT's, damaged or truncated is refused with a sentence."""
    runs, refused = [], []
    for path in files_in(request.paths, "*.json"):
        try:
            runs.append(checked(_run(path), "peft", "leave the file out"))
        except DataError as e:
            refused.append(str(e))
    measured = dict.fromkeys(r.metric for run in runs for r in run.readings)
    if request.metric is not None and runs and request.metric not in measured:
        raise DataError(unknown("metric", request.metric, measured))
    return Readout("peft", tuple(runs), request.metric or "accuracy", tuple(refused), _notes(runs))


def _run(path: Path) -> ImportedRun:
    text, plain = read_json(path)
    absent = [part for part in _PARTS if not isinstance(plain.get(part), dict)]
    if absent:
        raise DataError(
            f"{path} is no result of PEFT's method comparison (it has no {', '.join(absent)}); leave it out, or read"
            " a table with: lorabench import csv"
        )
    try:
        return _told(path, text, plain)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
        what = f"it has no {e}" if isinstance(e, KeyError) else " ".join(str(e).split())[:200]
        raise DataError(f"{path} is damaged ({what}); get it from its source again") from None


def _told(path: Path, text: str, plain: Mapping[str, object]) -> ImportedRun:
    run, train, meta = (_mapping(plain[part], part) for part in _PARTS)
    config = _mapping(run["train_config"], "train_config")
    adapter = None if run.get("peft_config") is None else _mapping(run["peft_config"], "peft_config")
    created = datetime.fromisoformat(str(run["created_at"])).astimezone(UTC).isoformat(timespec="seconds")
    packages = _mapping(meta.get("package_info") or {}, "package_info")
    versions = {p: str(v) for p in _PACKAGES if (v := packages.get(f"{p}-version"))}
    system = _mapping(meta.get("system_info") or {}, "system_info")
    experiment = str(run["experiment_name"])
    settings = _settings(config, adapter)
    status = train.get("status")
    error = None
    if status != "success":
        message = " ".join(str(run.get("error_msg") or "no message").split())[:300]
        error = Fault(kind=str(status), message=message)
    lacking = error is not None and "out of memory" in error.message.lower()
    return ImportedRun(
        source=str(path),
        settings=settings,
        readings=() if error else tuple(_readings(train, config, created)),
        variant=_variant(experiment, config, settings),
        experiment=experiment,
        seed=int(str(config["seed"])),
        series=", ".join(f"{p} {versions[p]}" for p in ("torch", "transformers", "peft") if p in versions),
        started_at=created,
        environment=Environment(
            device=str(system.get("accelerator") or "unknown"),
            platform=" ".join(str(system[k]) for k in ("system", "release") if system.get(k)) or None,
            packages=versions,
        ),
        outcome="finished" if error is None else "out_of_memory" if lacking else "failed",
        error=error,
        model=_commit(str(config["model_id"]), meta.get("model_info")),
        data="MetaMathQA to GSM8K",
        copy=text,
    )


def _settings(config: Mapping[str, object], adapter: Mapping[str, object] | None) -> dict[str, object]:
    """What the file tells of a condition, by lorabench's names."""
    dtype, optimizer = str(config["dtype"]), str(config["optimizer_type"])
    options = _mapping(config["optimizer_kwargs"], "optimizer_kwargs")
    told: dict[str, object] = {
        "model.name": config["model_id"],
        "model.dtype": None if dtype in _QUANTIZED else dtype,
        "quantization.name": _QUANTIZED.get(dtype, "none"),
        "method.name": _method(adapter, optimizer),
        "task.name": "metamathqa-gsm8k",
        "training.steps": config["max_steps"],
        "training.batch_size": config["batch_size"],
        "training.gradient_accumulation": 1,  # run.py has none
        "training.warmup": _WARMUP if config["lr_scheduler"] == "cosine" else 0.0,
        "training.sequence_length": config["max_seq_length"],
        "training.learning_rate": options["lr"],
        "training.weight_decay": options.get("weight_decay"),
        "training.schedule": config["lr_scheduler"] or "constant",
        "training.optimizer": _OPTIMIZERS.get(optimizer),
        "training.max_grad_norm": config["grad_norm_clip"] or None,
        "training.gradient_checkpointing": config.get("use_gc"),
    }
    if adapter is not None:
        told |= {
            "method.rank": adapter.get("target_r") or adapter.get("r"),  # AdaLoRA's r is not used
            "method.alpha": adapter.get("lora_alpha") or adapter.get("alpha"),
            "method.dropout": adapter.get("lora_dropout"),
            "method.target_modules": adapter.get("target_modules") or None,
        }
    return {k: v for k, v in told.items() if v is not None}


def _method(adapter: Mapping[str, object] | None, optimizer: str) -> str:
    """full, lora and its variants, or PEFT's type in lower case."""
    if adapter is None:
        return "full"
    kind = str(adapter["peft_type"]).lower().replace("_", "-")
    if kind != "lora":
        return kind
    start = adapter.get("init_lora_weights")
    for name in ("dora", "bdlora", "qalora"):
        if adapter.get(f"use_{name}"):
            return name
    if optimizer in _BY_OPTIMIZER:
        return optimizer
    if isinstance(start, str) and start != "gaussian":
        return "pissa" if start.startswith("pissa") else start.lower().replace("_", "-")
    return "rslora" if adapter.get("use_rslora") else "lora"


def _variant(experiment: str, config: Mapping[str, object], settings: Mapping[str, object]) -> str | None:
    """What an experiment's name says that method, rank and learning rate do not: "a2-b2-s2.0"."""
    name, method = experiment.rpartition("/")[2], str(settings["method.name"])
    said = (
        re.escape(str(config["model_id"]).rpartition("/")[2]),
        re.escape(f"rank{settings.get('method.rank')}"),
        r"lr_?\d[\d.]*(e-?\d+)?",
        "default",
        re.escape(method),
        re.escape(method.replace("-", "")),
    )
    for pattern in said:
        name = re.sub(rf"(^|[-_]){pattern}(?=[-_]|$)", "", name, flags=re.IGNORECASE)
    optimizer = str(config["optimizer_type"])
    other = [] if optimizer in _OPTIMIZERS or optimizer == method else [optimizer]
    return ", ".join([*filter(None, [name.strip("-_")]), *other]) or None


def _readings(train: Mapping[str, object], config: Mapping[str, object], created: str) -> list[Reading]:
    entries = train["metrics"]
    if not isinstance(entries, list) or not entries:
        raise ValueError("train_info.metrics is empty")
    if not isinstance(entries[-1], dict) or "test accuracy" not in entries[-1]:
        raise ValueError("its last entry has no test accuracy; of the comparisons MetaMathQA's is read")
    last, between = _mapping(entries[-1], "metrics"), [_mapping(e, "metrics") for e in entries[:-1]]
    accuracy = float(str(last["test accuracy"]))
    if not 0 <= accuracy <= 1:
        raise ValueError(f"the test accuracy is {accuracy:g}, which is no share")
    whole = abs(accuracy * TEST_ITEMS - round(accuracy * TEST_ITEMS)) < 1e-6
    error = math.sqrt(accuracy * (1 - accuracy) / TEST_ITEMS)
    seconds = sum(float(str(e["train time"])) for e in between) if between else None
    tokens = _number(last.get("train total tokens"))
    trainable, total = _number(train.get("num_trainable_params")), _number(train.get("num_total_params"))
    size = _number(train.get("file_size"))
    forgetting = {
        "wikipedia_forgetting": created >= _MENDED_FROM,
        "wikipedia_forgetting_before_2026_07": created < _UNSHIFTED_UNTIL,
    }
    values: dict[str, float | None] = {
        "total_parameters": total,
        "trainable_parameters": trainable,
        "trainable_percent": 100 * trainable / total if trainable is not None and total else None,
        "adapter_bytes": None if size == _NOT_MEASURED else size,
        "run_reserved_bytes": _memory(train, "max"),
        "step_reserved_99th_bytes": _memory(train, "reserved_99th"),
        "step_reserved_mean_bytes": _memory(train, "reserved_avg"),
        "train_seconds": seconds,
        "run_seconds": _number(train.get("train_time")),
        "train_tokens": tokens,
        "tokens_per_second": tokens / seconds if tokens is not None and seconds else None,
        "last_interval_loss": _number(last.get("train loss")),
        **{name: _number(last.get("forgetting")) for name, meant in forgetting.items() if meant},
    }
    readings = [Reading(metric="accuracy", value=accuracy, stderr=error, count=TEST_ITEMS)]
    if not whole:  # of another test set, whose size is not told
        readings = [Reading(metric="accuracy", value=accuracy)]
    return readings + [Reading(metric=k, value=v) for k, v in values.items() if v is not None]


def _memory(train: Mapping[str, object], what: str) -> float | None:
    return _number(train.get(f"accelerator_memory_{what}", train.get(f"cuda_memory_{what}")))


def _number(value: object) -> float | None:
    """None where there is none; ValueError where it is no finite number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _mapping(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no mapping")
    return value


def _commit(model: str, info: object) -> str:
    commit = info.get("sha") if isinstance(info, dict) else None
    return f"{model}@{commit}" if commit else model


def _notes(runs: list[ImportedRun]) -> tuple[str, ...]:
    measured = {r.metric for run in runs for r in run.readings}
    notes = [
        f"The accuracy is over the {TEST_ITEMS:,} test items of GSM8K; where a condition has one run, ± is the items'"
        " error alone, and the noise between seeds is unknown.",
        "Memory is what PyTorch's allocator had reserved, of the whole run and after the training steps: it cannot be"
        " held against peaks of allocated memory. The size of full fine-tuning is an estimate of PEFT's.",
    ]
    if "wikipedia_forgetting_before_2026_07" in measured:
        notes.append(
            "PEFT's forgetting of runs before 2026-07 held logits against the wrong tokens (huggingface/peft#3419); it"
            " stands in a column of its own."
        )
    dates = [r.started_at for r in runs]
    if unclear := sum(_UNSHIFTED_UNTIL <= d < _MENDED_FROM for d in dates):
        notes.append(
            f"Forgetting is left out of {unclear} of the runs, begun between {_UNSHIFTED_UNTIL} and {_MENDED_FROM}:"
            " which of its two meanings they have cannot be told."
        )
    return tuple(notes)
