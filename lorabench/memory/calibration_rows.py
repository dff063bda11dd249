"""Short measured trainings: the rows of a calibration, each four optimizer steps on a model with random weights.

`python -m lorabench.memory.calibration_rows cuda|cpu` is the process that measures: it takes a row a line on its
standard input and answers with a line (`Answer`), in a process of its own so that the memory it takes can be read off
the device, and so that a crash costs one row.

    lorabench     the engine's own step (engine.train.take_step)
    transformers  the installed Trainer with PEFT's adapter

Bytes are the allocator's peak over the steps, on a CPU those of live tensors; seconds are the median of the steps after
the first, each synchronised, and without the probe that counts tensors on a CPU.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from lorabench.config.precision import DeviceKind
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.config.trainer import OWN, find_trainer
from lorabench.engine.batches import Batch
from lorabench.engine.measure import Clock, LiveBytes, held_tensors
from lorabench.engine.model import computes_in_bfloat16, load_base
from lorabench.engine.train import make_optimizer, peak_of_two_steps, take_step
from lorabench.formatting import error_line
from lorabench.memory.predict_cell import capability
from lorabench.memory.random_model import adapted_base, random_base
from lorabench.memory.step_dtypes import resolve_autocast, resolve_dtype
from lorabench.memory.step_profile import predict_step
from lorabench.memory.train_config import TrainConfig
from lorabench.record.card_calibration import CalibrationRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEPS = 4
WORD_FROM = 5  # ids below are often special tokens
ON_GPU = """
lorabench    smollm2-135m none 16 4 1024
lorabench    smollm2-135m none 16 4 1024 checkpointed
lorabench    smollm2-135m nf4  16 4 1024 checkpointed
lorabench    smollm2-360m none 16 4 512
lorabench    smollm2-360m nf4  64 4 512
lorabench    smollm2-360m int8 16 4 512
transformers smollm2-135m none 16 4 512
transformers smollm2-135m nf4  16 4 1024 checkpointed
"""
ON_CPU = """
lorabench    lorabench/tiny-1m   none 16 4 128
lorabench    lorabench/tiny-1m   none 16 4 128 checkpointed
lorabench    lorabench/tiny-4m   none 8  2 256
lorabench    lorabench/tiny-4m   nf4  16 2 256 checkpointed
lorabench    lorabench/tiny-1m   nf4  16 4 128
lorabench    lorabench/tiny-1m   int8 16 4 128
transformers lorabench/tiny-1m   none 16 4 128
transformers lorabench/tiny-1m   nf4  16 4 128 checkpointed
"""


@dataclass(frozen=True)
class Answer:
    """A row as measured, and what the process holds now that its model is gone."""

    row: CalibrationRow
    reserved_bytes: int = 0
    allocated_bytes: int = 0


def calibration_rows(device: DeviceKind) -> tuple[CalibrationRow, ...]:
    """The settings that are measured on a kind of device."""
    rows = []
    for line in (ON_GPU if device == "cuda" else ON_CPU).strip().splitlines():
        trainer, model, quantization, rank, batch, length, *more = line.split()
        rows.append(
            CalibrationRow(
                trainer=trainer,
                model=model,
                quantization=quantization,
                rank=int(rank),
                batch_size=int(batch),
                sequence_length=int(length),
                gradient_checkpointing="checkpointed" in more,
            )
        )
    return tuple(rows)


def setting_of_row(row: CalibrationRow, where: torch.device) -> TrainConfig:
    """What is predicted for a row on a device of this machine."""
    return TrainConfig(
        ModelSpec(name=row.model),
        QuantizationSpec(name=row.quantization, double_quant=False),
        MethodSpec(rank=row.rank),
        TrainingSpec(
            batch_size=row.batch_size,
            sequence_length=row.sequence_length,
            gradient_checkpointing=row.gradient_checkpointing,
        ),
        "cuda" if where.type == "cuda" else "cpu",
        bf16=computes_in_bfloat16(where),
        capability=capability(where),
        trainer=find_trainer(row.trainer),
    )


def predicted(row: CalibrationRow, where: torch.device) -> CalibrationRow:
    """A row with its predicted peak and work; ModelError where its step cannot be traced."""
    step = predict_step(setting_of_row(row, where))
    work = (step.flops, step.moved_bytes, step.kernels)
    return row.model_copy(update={"predicted_bytes": step.peak_bytes, "work": work})


def measured(row: CalibrationRow, where: torch.device) -> CalibrationRow:
    """A row with what its training really took; whatever goes wrong is its fault."""
    try:
        setting = setting_of_row(row, where)
        model = adapted_base(setting, _base(setting, where))
        ids = torch.randint(WORD_FROM, model.config.vocab_size - 1, (row.batch_size, row.sequence_length), device=where)
        readings = (_own_steps if row.trainer == OWN else _trainer_steps)(model, setting, ids)
    except Exception as e:  # of any library: the other rows are measured all the same
        return row.model_copy(update={"fault": f"{type(e).__name__}: {error_line(e, 200)}"})
    return row.model_copy(update=readings)


def _base(setting: TrainConfig, where: torch.device) -> PreTrainedModel:
    """The weights of a shipped model, random ones of a preset; in the dtype that the trainer loads them in."""
    if not setting.model.name.startswith("lorabench/"):
        return random_base(setting, where)
    dtype = str(resolve_dtype(setting)).removeprefix("torch.")
    condition: Any = replace(setting, model=setting.model.model_copy(update={"dtype": dtype}))
    return load_base(condition, where)  # a setting has what it asks of a condition


def _own_steps(model: PreTrainedModel, setting: TrainConfig, ids: torch.Tensor) -> dict[str, Any]:
    """Of the engine's loop: the peak, what was reserved, and a step's seconds."""
    spec, where, autocast = setting.training, ids.device, resolve_autocast(setting)
    micro = [Batch(ids, ids.clone(), ids.numel())]
    readings: dict[str, Any] = {}
    if where.type == "cpu":
        readings["measured_bytes"] = peak_of_two_steps(model, micro, spec, autocast)
    elif spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, seconds = make_optimizer(parameters, spec), []
    _reset_peaks(where)
    for _ in range(STEPS):
        clock = Clock(where)
        take_step(model, micro, parameters, optimizer, spec.max_grad_norm, autocast)
        seconds.append(clock.seconds())
    return {**readings, **_peaks(where), "step_seconds": statistics.median(seconds[1:])}


def _trainer_steps(model: PreTrainedModel, setting: TrainConfig, ids: torch.Tensor) -> dict[str, Any]:
    """Of transformers' Trainer; on a CPU without seconds, since the probe that counts tensors slows it."""
    import tempfile

    import transformers

    where, autocast, seconds = ids.device, resolve_autocast(setting), list[float]()

    class Stopwatch(transformers.TrainerCallback):
        """Times each step."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.clock = Clock(where)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(self.clock.seconds())

    rows: Any = [{"input_ids": row, "labels": row} for row in ids.cpu()] * STEPS
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=setting.training.batch_size,
                max_steps=STEPS,
                bf16=autocast == torch.bfloat16,
                fp16=autocast == torch.float16,
                use_cpu=where.type == "cpu",
                gradient_checkpointing=setting.training.gradient_checkpointing,
                gradient_checkpointing_kwargs={"use_reentrant": setting.trainer.reentrant},
                optim="adamw_torch_fused" if where.type == "cuda" else "adamw_torch",
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=rows,
            data_collator=transformers.default_data_collator,
            callbacks=[Stopwatch()],
        )
        _reset_peaks(where)
        if where.type == "cuda":
            trainer.train()
            return {**_peaks(where), "step_seconds": statistics.median(seconds[1:])}
        with LiveBytes(held_tensors(model)) as live:
            trainer.train()
    return {"measured_bytes": live.peak}


def _reset_peaks(where: torch.device) -> None:
    gc.collect()
    if where.type == "cuda":
        torch.cuda.synchronize(where)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(where)


def _peaks(where: torch.device) -> dict[str, Any]:
    if where.type != "cuda":
        return {}
    return {
        "measured_bytes": torch.cuda.max_memory_allocated(where),
        "reserved_bytes": torch.cuda.max_memory_reserved(where),
    }


def answer(row: CalibrationRow, where: torch.device) -> Answer:
    """A measured row, after its model was let go of."""
    readings = measured(row, where)
    _reset_peaks(where)
    if where.type != "cuda":
        return Answer(readings)
    return Answer(readings, torch.cuda.memory_reserved(where), torch.cuda.memory_allocated(where))


def serve(kind: str) -> None:
    """Answers rows until the standard input ends; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    where = torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
    torch.manual_seed(0)
    for line in sys.stdin:
        reply = answer(CalibrationRow.model_validate_json(line), where)
        answers.write(json.dumps({**vars(reply), "row": reply.row.model_dump(mode="json")}) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
    sys.stderr.flush()
    os._exit(0)  # some builds of CUDA libraries take seconds to unload
