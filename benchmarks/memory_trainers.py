"""Memory of other trainers, predicted against measured: a part of benchmarks/memory.py.

`published_trainers` reads rows that others measured and published (measured_memory_trainers.csv, or a file of the same
columns). Rows whose libraries are older than the trainers of lorabench/trainers are predicted as those behave, by the
programs below:

- loop: `out = model(...); out.loss.backward()`, with PEFT's prepare_model_for_kbit_training on quantized bases.
- transformers-4.45, transformers-4.48: the losses of then (logits.float(), shifted contiguous copies; from 4.48 on both
  within the loss, so that the outputs keep the 16-bit logits).
- trl-0.13: SFTTrainer's own preparation and, after it, embeddings and head back in bfloat16
  (peft_module_casting_to_bf16).
- fused cross entropy (fms-acceleration, from unsloth): the logits' gradient is written over them; its fused norms and
  positions; its fused LoRA layers are not modelled.
- torchtune: the chunked loss of the trainer `torchtune`, compiled.

`measured_trainers` reads rows of benchmarks/trainers.py, measured on a GPU or by live tensors on a CPU.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import re
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.config.trainer import Trainer, find_trainer
from lorabench.memory import losses, trainer_step
from lorabench.memory.liger import liger_layers
from lorabench.memory.losses import Inputs, Loss
from lorabench.memory.model_shape import ModelShape
from lorabench.memory.step_profile import predict_step
from lorabench.memory.train_config import TrainConfig

ROOT = Path(__file__).parents[1]
ROWS = Path(__file__).parent / "measured_memory_trainers.csv"
GPU_ROWS = ROOT / "reports" / "gpu" / "2026-11-27-h200" / "trainers.json"
COLUMNS = [
    *("source", "origin", "grade", "model", "method", "quantization", "rank", "target_modules", "micro_batch"),
    *("sequence_length", "gpu", "peak_mib", "program", "autocast", "attention", "dropout", "versions"),
]
FULL = MethodSpec(name="full", rank=None, alpha=None, dropout=None, target_modules=None)
ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
POWERLM = {
    "model_type": "granite",
    "vocab_size": 49152,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 40,
    "num_attention_heads": 36,
    "num_key_value_heads": 36,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 9.0,
}
"""config.json of ibm/PowerLM-3b"""
LOOP = Trainer(
    "loop",
    "a plain loop with PEFT",
    (),
    (),
    outputs="held",
    mixed_precision=False,
    optimizer_kernel="foreach",
    clips=False,
)
OLD_TRAINER = Trainer("transformers 4", "Trainer of 4.45 to 4.48", (), (), optimizer_kernel="foreach")


def described(row: dict[str, str]) -> dict[str, str]:
    """A row with its settings in columns; they are read from its note where it has one."""
    if "note" not in row:
        return row
    note, old = row["note"], "4.45" if "transformers 4.45" in row["note"] else "4.48"
    grade = re.search(r"\[([ABC])\]", note)
    versions = re.findall(r"(torch|transformers|peft|bitsandbytes|trl) (\d+\.\d+[.\w+]*)", note)
    allocated = re.search(r"max_memory_allocated (\d+) MiB", note)
    fused = "fused LoRA" in note
    if row["source"].startswith("torchtune"):
        program = "torchtune"
    elif grade and grade[1] == "A":
        program = "loop kbit" if "prepare_model_for_kbit_training" in note else "loop"
    elif "fused linear cross-entropy" in note:
        program = "fused linear cross entropy"
    elif fused:
        program = f"fused cross entropy {old}"
    elif "SFTTrainer's preparation" in note:
        program = f"transformers-{old} trl-0.13"
    else:
        program = f"transformers-{old}" + (" non-reentrant" if "no fp32 upcast" in note else "")
    return {
        "source": row["source"],
        "origin": note.rsplit("; ", 1)[-1],
        "grade": grade[1] if grade else "",
        **{k: row[k] for k in ("model", "method", "quantization", "rank")},
        "target_modules": row["target_modules"].removesuffix("+c_attn"),
        **{k: row[k] for k in ("micro_batch", "sequence_length", "gpu")},
        "peak_mib": allocated[1] if allocated else f"{float(row['peak_gb']) * 1e9 / 2**20:.1f}",
        "program": program,
        "autocast": "bfloat16" if "bf16 autocast" in note else "none",
        "attention": "eager" if "attention eager" in note else "sdpa",
        "dropout": "0.1" if "dropout 0.1" in note else "0",
        "versions": ", ".join(f"{package} {number}" for package, number in dict(versions).items()),
    }


def trainer_of(row: dict[str, str]) -> Trainer:
    program = row["program"]
    if program == "torchtune":
        return find_trainer("torchtune").with_options(loss="fused")  # the README's are compiled
    if program.startswith("loop"):
        return replace(LOOP, kbit_preparation="kbit" in program, attention=row["attention"])  # type: ignore[arg-type]
    loss = program if "linear" in program else " ".join(program.split()[:4]) if "fused" in program else program[:17]
    plain = "fused" in program or "non-reentrant" in program
    return replace(OLD_TRAINER, losses=(("full", loss),), kbit_preparation="trl-0.13" in program, reentrant=not plain)


def published(row: dict[str, str]) -> dict[str, Any]:
    """One published row, predicted as its libraries behave."""
    row = described(row)
    kind, _, double = row["quantization"].partition("-")
    trainer, half = trainer_of(row), "float16" if row["grade"] == "A" else "bfloat16"
    targets: Any = row["target_modules"]
    if targets != "all-linear":
        targets = tuple(ATTENTION[t] for t in targets.split("+") if t)
    setting = TrainConfig(
        ModelSpec(name=row["model"], dtype=half),
        QuantizationSpec(
            name=kind, double_quant=double == "dq", compute_dtype=half if kind in ("nf4", "fp4") else "auto"
        ),
        FULL
        if row["method"] == "full"
        else MethodSpec(
            name=row["method"], rank=int(row["rank"]), target_modules=targets, dropout=float(row["dropout"])
        ),
        TrainingSpec(
            batch_size=int(row["micro_batch"]),
            sequence_length=int(row["sequence_length"]),
            gradient_checkpointing=True,
            autocast=row["autocast"],
        ),
        "cuda",
        bf16=row["gpu"] != "T4",
        capability=7 if row["gpu"] == "T4" else 8,
        trainer=trainer,
    )
    if "PowerLM" in row["model"]:
        setting = with_config(setting, _powerlm())
    patch = fms_kernels if "fused" in row["program"] else trl_0_13 if "trl-0.13" in row["program"] else None
    with patch() if patch else contextlib.nullcontext():
        step = predict_step(setting)
    words = (
        f"[{row['grade']}] {row['model']} {row['method']} {row['quantization']} {row['attention']}"
        f" {row['micro_batch']}x{row['sequence_length']} {row['program']}"
    )
    return {
        "words": words,
        "group": f"{row['grade']} {row['attention']}",
        "predicted": step.peak_bytes,
        "measured": round(float(row["peak_mib"]) * 2**20),
        "at": step.peak_at,
    }


def with_config(setting: TrainConfig, config: Any) -> TrainConfig:
    """The setting with a configuration that no preset has."""
    shape = ModelShape(setting.model)
    vars(shape)["config"] = config
    return replace(setting, shape=shape)


def _powerlm() -> Any:
    from transformers import AutoConfig

    fields = dict(POWERLM)
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def _old_loss(model: Any, inputs: Inputs, wide_outputs: bool, fused: bool) -> Loss:
    hidden, _ = losses._hidden_and_head(model, inputs)  # alive until the model's forward returns, as in the model's
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    logits = base.get_output_embeddings()(hidden)
    if scale := getattr(base.config, "logits_scaling", None):
        logits = logits / scale
    if wide_outputs:
        logits = logits.float()
    wide, width = logits.float(), logits.shape[-1]
    shifted = wide[..., :-1, :].contiguous().view(-1, width)
    labels = inputs.labels[..., 1:].contiguous().view(-1)
    if fused:
        value = losses.InPlaceCrossEntropy.apply(shifted).sum() / labels.numel()
    else:
        value = torch.nn.functional.cross_entropy(shifted, labels)
    del wide, shifted
    return Loss(value, [logits])  # type: ignore[arg-type]  # what accelerate copies


OLD_LOSSES = {
    "fused linear cross entropy": losses.liger,
    "transformers-4.45": lambda model, inputs: _old_loss(model, inputs, True, False),
    "transformers-4.48": lambda model, inputs: _old_loss(model, inputs, False, False),
    "fused cross entropy 4.45": lambda model, inputs: _old_loss(model, inputs, True, True),
    "fused cross entropy 4.48": lambda model, inputs: _old_loss(model, inputs, False, True),
}


@contextlib.contextmanager
def old_losses() -> Iterator[None]:
    """The losses of older libraries, beside those of today."""
    losses.PROGRAMS.update(OLD_LOSSES)
    try:
        yield
    finally:
        for name in OLD_LOSSES:
            del losses.PROGRAMS[name]


@contextlib.contextmanager
def trl_0_13() -> Iterator[None]:
    """trl/trainer/utils.py (0.13), peft_module_casting_to_bf16: norms float32, embeddings and head bfloat16."""
    own = trainer_step.with_adapter_dtype

    def cast(setting: TrainConfig, model: Any, base: torch.dtype) -> Any:
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.LayerNorm) or "norm" in name:
                module.to(torch.float32)
            elif any(part in name for part in ("lm_head", "embed_tokens", "wte", "wpe")) and hasattr(module, "weight"):
                module.to(torch.bfloat16)
        return model

    trainer_step.with_adapter_dtype = cast
    try:
        yield
    finally:
        trainer_step.with_adapter_dtype = own


def measured_setting(row: dict[str, Any], on_cuda: bool) -> TrainConfig:
    """A row of benchmarks/trainers.py as what is predicted."""
    words = set(row["options"])
    kind, _, double = row["quantization"].partition("-")
    trainer = LOOP if row["trainer"] == "loop" else find_trainer(row["trainer"])
    trainer = replace(
        trainer,
        kbit_preparation="kbit" in words,
        reentrant="reentrant" in words,
        attention="eager" if "eager" in words else None,
        loss="fused" if "liger" in words else None,
        packing="packing" in words or None,
    )
    method = FULL
    if row["method"] != "full":
        targets: Any = tuple(ATTENTION.values()) if "attention" in words else "all-linear"
        method = MethodSpec(name=row["method"], rank=row["rank"], dropout=0.0, target_modules=targets)
    autocast = row["trainer"] not in ("loop", "torchtune") and (on_cuda or "float32" not in words)
    name = row["model"]
    cast = method is FULL and trainer.full_dtype == "float32"  # LLaMA-Factory's trained weights, whatever was loaded
    setting = TrainConfig(
        ModelSpec(
            name=f"lorabench/{name}" if name.startswith("tiny") else name,
            dtype="float32" if "float32" in words or cast else "bfloat16",
        ),
        QuantizationSpec(
            name=kind, double_quant=double == "dq", compute_dtype="bfloat16" if kind in ("nf4", "fp4") else "auto"
        ),
        method,
        TrainingSpec(
            batch_size=row["batch"],
            sequence_length=row["length"],
            gradient_checkpointing="ckpt" in words,
            optimizer=next((o.replace("_", "-") for o in words if "adamw" in o), "adamw"),
            gradient_accumulation=2 if "accumulate" in words else 1,
            autocast="bfloat16" if autocast else "none",
        ),
        "cuda" if on_cuda else "cpu",
        capability=9,
        trainer=trainer,
    )
    if on_cuda or name.startswith("tiny"):
        return setting
    if name == "narrow-llama":
        from other_trainers import NARROW_LLAMA
        from transformers import LlamaConfig

        return with_config(setting, LlamaConfig(**NARROW_LLAMA))
    from trainers import narrow_config

    return with_config(setting, narrow_config(name))


NOT_PREDICTED = {"offload", "evaluate"}


@contextlib.contextmanager
def fms_kernels() -> Iterator[None]:
    """fms-acceleration's fused norms and positions, which keep what Liger's keep; it has none of the MLP's product."""

    @contextlib.contextmanager
    def kernels(setting: TrainConfig, model: Any) -> Iterator[None]:
        with liger_layers(model):
            for module in model.modules():
                if hasattr(module, "gate_proj"):
                    vars(module).pop("forward", None)
            yield

    own = trainer_step.layer_kernels
    trainer_step.layer_kernels = kernels
    try:
        yield
    finally:
        trainer_step.layer_kernels = own


@contextlib.contextmanager
def liger_in_the_process(setting: TrainConfig) -> Iterator[None]:
    """The rows of 2026-11-27 were measured in one process, in which Liger's kernels stay in a family's module once a
    model has asked for them: all later Llamas had them, with their own losses."""
    own = trainer_step.layer_kernels
    if setting.shape.config.model_type == "llama":
        trainer_step.layer_kernels = lambda setting, model: liger_layers(model)
    try:
        yield
    finally:
        trainer_step.layer_kernels = own


@contextlib.contextmanager
def sdpa_of_gemma_2(setting: TrainConfig) -> Iterator[TrainConfig]:
    """transformers 5.17, of the rows of 2026-11-27, took sdpa for Gemma-2 and left its soft-capping out; 5.24 refuses
    sdpa there, so that its default is eager attention (modeling_gemma2.py, _supports_sdpa)."""
    from transformers.models.gemma2.modeling_gemma2 import Gemma2PreTrainedModel

    own, config = Gemma2PreTrainedModel._supports_sdpa, copy.deepcopy(setting.shape.config)
    if config.model_type == "gemma2":
        config.attn_logit_softcapping = None
        setting = with_config(setting, config)
    Gemma2PreTrainedModel._supports_sdpa = True
    try:
        yield setting
    finally:
        Gemma2PreTrainedModel._supports_sdpa = own


def measured_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of benchmarks/trainers.py, predicted."""
    found = json.loads(file.read_text())
    on_cuda = not found["versions"]["device"].startswith("cpu")
    losses.TiledHead.device = "cuda" if on_cuda else "cpu"
    first, liger_before = True, False
    try:
        for row in found["rows"]:
            if "peak_bytes" not in row or NOT_PREDICTED & set(row["options"]):
                print(f"not predicted: {row['row']}", flush=True)
                continue
            setting = measured_setting(row, on_cuda)
            with contextlib.ExitStack() as stack:
                if on_cuda and liger_before:
                    stack.enter_context(liger_in_the_process(setting))
                if found["versions"].get("transformers", "").startswith("5.17."):
                    setting = stack.enter_context(sdpa_of_gemma_2(setting))
                step = predict_step(setting)
            liger_before |= "liger" in row["options"]
            before = row.get("before_bytes", 0)  # from the second row of a process on, the workspaces are among them
            own = 0 if first or not on_cuda else step.parts["workspace"] and 2 * 32 * 2**20
            first = False
            yield {
                "words": row["row"],
                "group": row["trainer"],
                "predicted": step.peak_bytes,
                "measured": row["peak_bytes"] - max(0, before - own),
                "at": step.peak_at,
            }
    finally:
        losses.TiledHead.device = "cuda"


def result(rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Rows as they are written, printed one by one, and the errors of each group."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        error = 100 * (row["predicted"] / row["measured"] - 1)
        print(
            f"{error:+7.2f} %  {row['predicted'] / 2**20:>10,.1f} MiB predicted  {row['measured'] / 2**20:>10,.1f} MiB"
            f" measured  {row['words']}  ({row['at']})",
            flush=True,
        )
        kept.append(
            {
                "setting": row["words"],
                "group": row["group"],
                "predicted_bytes": row["predicted"],
                "measured_bytes": row["measured"],
                "error_percent": round(error, 3),
                "peak_at": row["at"],
            }
        )
    summary = {}
    for group in dict.fromkeys(r["group"] for r in kept):
        errors = [abs(r["error_percent"]) for r in kept if r["group"] == group]
        summary[group] = {
            "rows": len(errors),
            "median_percent": round(statistics.median(errors), 3),
            "worst_percent": max(errors),
        }
    return {"summary": summary, "environment": {"torch": torch.__version__}, "rows": kept}


def measure(part: str, file: Path | None = None) -> dict[str, Any]:
    """`published-trainers`, `measured-trainers` or `trainers` (this CPU's own rows), as it is written."""
    if part == "published-trainers":
        with (file or ROWS).open(encoding="utf-8", newline="") as stream, old_losses():
            return result(map(published, list(csv.DictReader(stream))))
    return result(measured_rows(file or GPU_ROWS))


def carry(source: Path) -> None:
    """Writes measured_memory_trainers.csv from rows with notes."""
    with source.open(encoding="utf-8", newline="") as stream:
        rows = [described(row) for row in csv.DictReader(stream)]
    with ROWS.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
