"""The measured rows that benchmarks/peers.py asks about: what was trained, what was measured, what lorabench predicts,
and for which of them a peer has no words.

Rows that were measured after Liger's kernels had been put into Llama's module for good
(memory_trainers.liger_in_the_process) are groups of their own, "+ Liger's layers".
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass

import memory_trainers

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
UNPREDICTED = {"packing": "packing", "offload": "offloaded checkpoints", "evaluate": "evaluation during training"}


@dataclass(frozen=True)
class Row:
    """A measured row, as a peer is asked for it."""

    words: str
    group: str
    measured_bytes: int
    model: str
    method: str
    quantization: str
    double_quant: bool
    rank: int
    targets: tuple[str, ...]
    batch: int
    length: int
    checkpointing: bool
    attention: str
    dtype: str
    """of weights that are not quantized"""
    optimizer: str
    """as TrainingArguments.optim names it"""
    loss: str
    """stock: all logits at once, with a float32 copy"""
    prepared: bool
    """by PEFT's prepare_model_for_kbit_training"""
    other: str = ""
    """what else the training did that an estimate has to know"""
    lorabench_bytes: int | None = None


def published_rows() -> Iterator[Row]:
    """measured_memory_trainers.csv, predicted."""
    with memory_trainers.ROWS.open(encoding="utf-8", newline="") as stream, memory_trainers.old_losses():
        for row in csv.DictReader(stream):
            found, kind, grade = memory_trainers.published(row), row["quantization"], row["grade"]
            program, eager = row["program"], row["attention"] == "eager"
            targets = row["target_modules"]
            if grade == "A":
                group = "A eager" if eager else f"A {kind} sdpa"
            else:
                group = grade if grade == "C" else "B full" if row["method"] == "full" else f"B {kind.split('-')[0]}"
            yield Row(
                words=found["words"],
                group=group,
                measured_bytes=found["measured"],
                model=row["model"],
                method=row["method"],
                quantization=kind.split("-")[0],
                double_quant=kind.endswith("-dq"),
                rank=int(row["rank"] or 0),
                targets=LINEAR
                if targets == "all-linear"
                else tuple(memory_trainers.ATTENTION[t] for t in targets.split("+") if t),
                batch=int(row["micro_batch"]),
                length=int(row["sequence_length"]),
                checkpointing=True,
                attention=row["attention"],
                dtype="float16" if grade == "A" else "bfloat16",
                optimizer="adamw_torch",
                loss="fused" if "fused" in program else "chunked" if program == "torchtune" else "stock",
                prepared="kbit" in program or "trl-0.13" in program,
                lorabench_bytes=found["predicted"],
            )


def device_rows() -> Iterator[Row]:
    """The project's own rows of a GPU, predicted where memory_trainers predicts them."""
    predicted = {r["words"]: r for r in memory_trainers.measured_rows(memory_trainers.GPU_ROWS)}
    liger_before = False
    for row in json.loads(memory_trainers.GPU_ROWS.read_text())["rows"]:
        options, kind, trainer = row["options"], row["quantization"], row["trainer"]
        found = predicted.get(row["row"], {})
        kernels = " + Liger's layers" if liger_before and row["model"].startswith("llama") else ""
        liger_before |= "liger" in options
        name = "Trainer" if trainer == "transformers" else trainer
        group = "H200 TRL" if trainer == "trl" else f"H200 {name}{kernels}"
        yield Row(
            words=row["row"],
            group=f"H200 full{kernels}" if row["method"] == "full" else group,
            measured_bytes=found.get("measured", row["peak_bytes"] - row["before_bytes"]),
            model=row["model"],
            method=row["method"],
            quantization=kind.split("-")[0],
            double_quant=kind.endswith("-dq"),
            rank=row["rank"],
            targets=LINEAR[:4] if "attention" in options else LINEAR,
            batch=row["batch"],
            length=row["length"],
            checkpointing="ckpt" in options,
            attention="eager" if "eager" in options else "sdpa",
            dtype="float32" if "float32" in options else "bfloat16",
            optimizer=next(
                (o for o in options if "adamw" in o), "adamw_torch" if name == "loop" else "adamw_torch_fused"
            ),
            loss="fused" if "liger" in options else "chunked" if trainer == "trl" else "stock",
            prepared="kbit" in options,
            other=next((UNPREDICTED[o] for o in options if o in UNPREDICTED), ""),
            lorabench_bytes=found.get("predicted"),
        )


def unasked(peer: str, row: Row) -> str:
    """Why a peer is not asked; empty where it is."""
    if peer == "accelerate":
        return "adapters" if row.method != "full" else "8-bit optimizer" if "8bit" in row.optimizer else ""
    if row.other:
        return row.other
    if row.loss != "stock":
        return f"another loss ({row.loss})"
    if row.method == "dora":
        return "DoRA"
    if row.quantization != "none" and not row.prepared:
        return "quantized base without k-bit preparation"
    if peer == "fitcheck" and row.method == "full" and row.dtype != "float32":
        return "full fine-tuning without float32 master weights"
    if peer == "fitcheck" and "paged" in row.optimizer:
        return "paged optimizer"
    if peer == "canifinetune" and row.dtype == "float32":
        return "float32 weights under autocast"
    return ""
