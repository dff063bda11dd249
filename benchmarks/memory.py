"""Predicted against measured memory.

    python benchmarks/memory.py cpu         the CPU probe on the shipped models, 72 combinations
    python benchmarks/memory.py published   GPU memory that others measured and published (measured_memory.csv)

Writes reports/memory-<part>.json. `published` compares the traced step's own bytes: the sources count what the allocator holds, no
CUDA context. `behaviour` names where a source's libraries differ from the ones that lorabench is tested with; the row is then predicted
for those, by the patches below, and not for the pinned ones:

- bitsandbytes-0.41 kept the input of every 4-bit layer until the backward pass; 0.50 keeps the packed weight alone.
- fused-gelu: litgpt has GELU's tanh approximation as one operator, transformers' gelu_new keeps its intermediates.
- plain-linear: litgpt quantises Falcon; transformers 5 leaves its FalconLinear layers as they are.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import json
import platform
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lorabench import plugins
from lorabench.engine.adapt import peft_targets, resolve_targets
from lorabench.engine.model import load_base, quiet
from lorabench.engine.train import Batch, peak_of_two_steps
from lorabench.memory.setting import Setting
from lorabench.memory.step import predict_step
from lorabench.spec.study import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec

ROOT = Path(__file__).parents[1]
FULL = MethodSpec(name="full", rank=None, alpha=None, dropout=None, target_modules=None)


def cpu_settings() -> list[Setting]:
    """72 combinations of model, method, quantization, rank, batch, length, checkpointing, optimizer and precision, each value many times."""
    models = itertools.cycle(("lorabench/tiny-300k", "lorabench/tiny-1m", "lorabench/tiny-4m"))
    shapes = itertools.cycle(((1, 64), (2, 128), (4, 96), (8, 32), (1, 256)))
    ranks, steps = itertools.cycle((1, 4, 8, 16, 32)), itertools.cycle(((False, 1), (True, 1), (False, 2), (True, 2)))
    targets = itertools.cycle(("all-linear", "attention", "mlp"))
    found = []
    pairs = [("full", "none"), ("lora", "none"), ("rslora", "none"), ("dora", "none"), ("pissa", "none"), ("lora", "nf4"), ("dora", "nf4"), ("lora", "fp4"), ("lora", "int8")]
    for (method, quantization), optimizer, autocast in itertools.product(pairs, ("adamw", "adamw-8bit", "sgd", "adamw"), ("none", "bfloat16")):
        (batch, length), (checkpointing, accumulation) = next(shapes), next(steps)
        spec = FULL if method == "full" else MethodSpec(name=method, rank=next(ranks), target_modules=next(targets))
        training = TrainingSpec(
            batch_size=batch, sequence_length=length, optimizer=optimizer, gradient_checkpointing=checkpointing, gradient_accumulation=accumulation, autocast=autocast
        )  # fmt: skip
        found.append(Setting(ModelSpec(name=next(models)), QuantizationSpec(name=quantization, double_quant=len(found) % 2 == 0), spec, training, "cpu"))
    return found


def cpu(setting: Setting) -> dict[str, Any]:
    """One combination, predicted and measured by the probe."""
    torch.manual_seed(0)
    base = load_base(setting, torch.device("cpu"))  # type: ignore[arg-type]  # a setting has what it asks of a condition
    method, spec = setting.method, setting.training
    targets = resolve_targets(base, method.target_modules) if method.target_modules else ()
    with quiet():
        model = plugins.load("methods", method.name).attach(base, method, peft_targets(base, targets) if targets else [])
    ids = torch.randint(5, model.config.vocab_size - 1, (spec.batch_size, spec.sequence_length))
    micro = [Batch(ids.clone(), ids.clone(), ids.numel()) for _ in range(spec.gradient_accumulation)]
    measured = peak_of_two_steps(model, micro, spec, torch.bfloat16 if spec.autocast == "bfloat16" else None)
    return compared(_words(setting), predict_step(setting).peak_bytes, measured)


def published(row: dict[str, str]) -> dict[str, Any]:
    """One published row, predicted as its libraries behave."""
    kind, _, double = row["quantization"].partition("-")
    paper = row["source"].startswith("QLoRA")
    fused = ("query_key_value",) if "falcon" in row["model"] or "stablelm" in row["model"] else ("q_proj", "v_proj")
    setting = Setting(
        ModelSpec(name=row["model"], dtype="bfloat16"),
        QuantizationSpec(name=kind, double_quant=double == "dq", compute_dtype="auto" if kind == "none" else "bfloat16"),
        MethodSpec(rank=int(row["rank"]), target_modules=row["target_modules"] if row["target_modules"] == "all-linear" else fused),
        TrainingSpec(
            batch_size=int(row["micro_batch"]), sequence_length=int(row["sequence_length"]), gradient_checkpointing=row["gradient_checkpointing"] == "yes",
            autocast="auto" if paper else "none",  # litgpt's bf16-true has none
        ),
        "cuda",
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        for behaviour in row["behaviour"].split("+"):
            stack.enter_context(BEHAVIOURS[behaviour]())
        step = predict_step(setting)
    words = f"{row['source']}: {row['model']} {row['quantization']} r={row['rank']} {row['target_modules']} {row['micro_batch']}x{row['sequence_length']}"
    return {**compared(words, step.peak_bytes, round(float(row["peak_gb"]) * 1e9)), "behaviour": row["behaviour"], "parts": step.parts}


@contextlib.contextmanager
def inputs_kept() -> Iterator[None]:
    from bitsandbytes.autograd._functions import MatMul4Bit

    own = MatMul4Bit.forward

    def forward(ctx: Any, a: torch.Tensor, *rest: Any, **named: Any) -> Any:
        ctx.kept = a
        return own(ctx, a, *rest, **named)

    MatMul4Bit.forward = staticmethod(forward)  # type: ignore[method-assign]  # what 0.41 did
    try:
        yield
    finally:
        MatMul4Bit.forward = staticmethod(own)  # type: ignore[method-assign]


@contextlib.contextmanager
def fused_gelu() -> Iterator[None]:
    from transformers.activations import ACT2FN

    own = dict.__getitem__(ACT2FN, "gelu_new")
    dict.__setitem__(ACT2FN, "gelu_new", dict.__getitem__(ACT2FN, "gelu_pytorch_tanh"))
    try:
        yield
    finally:
        dict.__setitem__(ACT2FN, "gelu_new", own)


@contextlib.contextmanager
def plain_linear() -> Iterator[None]:
    from transformers.models.falcon import modeling_falcon

    own = modeling_falcon.FalconLinear
    modeling_falcon.FalconLinear = torch.nn.Linear  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        modeling_falcon.FalconLinear = own  # type: ignore[misc]


BEHAVIOURS = {"pinned": contextlib.nullcontext, "bitsandbytes-0.41": inputs_kept, "fused-gelu": fused_gelu, "plain-linear": plain_linear}


def compared(words: str, predicted: int, measured: int) -> dict[str, Any]:
    """A row of the result, printed as it is made."""
    error = 100 * (predicted / measured - 1)
    print(f"{error:+7.2f} %  {predicted / 1e6:>10,.2f} MB predicted  {measured / 1e6:>10,.2f} MB measured  {words}", flush=True)
    return {"setting": words, "predicted_bytes": predicted, "measured_bytes": measured, "error_percent": round(error, 3)}


def _words(s: Setting) -> str:
    t, double = s.training, " dq" if s.quantization.double_quant and s.quantization.name.endswith("f4") else ""
    more = (" checkpointed" if t.gradient_checkpointing else "") + (" bf16 autocast" if t.autocast == "bfloat16" else "")
    rank = "" if s.method.rank is None else f" r={s.method.rank} {s.method.target_modules}"
    return f"{s.model.name} {s.method.name}{rank} {s.quantization.name}{double} {t.gradient_accumulation}x{t.batch_size}x{t.sequence_length} {t.optimizer}{more}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("part", choices=("cpu", "published"))
    part = parser.parse_args().part
    if part == "cpu":
        rows = [cpu(s) for s in cpu_settings()]
    else:
        with (Path(__file__).parent / "measured_memory.csv").open(encoding="utf-8", newline="") as stream:
            rows = [published(r) for r in csv.DictReader(stream)]
    groups = {"all": rows} | ({"pinned": [r for r in rows if r["behaviour"] == "pinned"]} if part == "published" else {})
    summary = {}
    for name, chosen in groups.items():
        errors = sorted(abs(r["error_percent"]) for r in chosen)
        summary[name] = {"rows": len(errors), "median_percent": round(statistics.median(errors), 3), "worst_percent": errors[-1]}
        print(name, summary[name])
    machine = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    (ROOT / "reports" / f"memory-{part}.json").write_text(json.dumps({"summary": summary, "environment": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
