"""Predicted against measured memory.

    python benchmarks/memory.py cpu         the CPU probe on the shipped models, 72 combinations
    python benchmarks/memory.py published   GPU memory that others measured and published (measured_memory.csv)
    python benchmarks/memory.py device      random weights of 0.1B to 8B parameters on this GPU, 30 combinations
                                            (on a CPU: a rehearsal, tiny)
    python benchmarks/memory.py device --measured FILE    the same, predicted here, against what a GPU once measured
                                                          (benchmarks/gpu_session.py)
    python benchmarks/memory.py trainers    the real trainers on this CPU (benchmarks/trainers.py; --measured FILE: its
                                            rows) against the trace of each
    python benchmarks/memory.py published-trainers [--rows FILE]    peaks of other trainers that others published
    python benchmarks/memory.py measured-trainers [--measured FILE] rows of benchmarks/trainers.py from a GPU
    python benchmarks/memory.py peers [--peers VENV]    the rows of both by other estimators, too (benchmarks/peers.py)

Writes reports/memory-<part>.json. `published` compares the traced step's own bytes: the sources count what the
allocator holds, no CUDA context. `behaviour` names where a source's libraries differ from the ones that lorabench is
tested with; the row is then predicted for those, by the patches below, and not for the pinned ones:

- bitsandbytes-0.41 kept the input of every 4-bit layer until the backward pass; 0.50 keeps the packed weight alone.
- fused-gelu: litgpt has GELU's tanh approximation as one operator, transformers' gelu_new keeps its intermediates.
- plain-linear: litgpt quantizes Falcon; transformers 5 leaves its FalconLinear layers as they are.
- expanded-heads: litgpt copies Falcon's one key head to all, so that flash attention takes it; transformers
  broadcasts it, which only the path takes that keeps the attention matrix.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import itertools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import memory_trainers
import peers
import torch

from lorabench import plugins
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.engine.adapt import peft_targets, resolve_targets
from lorabench.engine.batches import Batch
from lorabench.engine.model import load_base, quiet
from lorabench.engine.train import make_optimizer, peak_of_two_steps, take_step
from lorabench.memory import kernels
from lorabench.memory.random_model import random_model
from lorabench.memory.step_profile import predict_step
from lorabench.memory.train_config import TrainConfig

PARTS = ("cpu", "published", "device", "trainers", "published-trainers", "measured-trainers")
CUDA = torch.cuda.is_available()
ROOT = Path(__file__).parents[1]
FULL = MethodSpec(name="full", rank=None, alpha=None, dropout=None, target_modules=None)


def cpu_settings() -> list[TrainConfig]:
    """72 combinations of model, method, quantization, rank, batch, length, checkpointing, optimizer and precision, each
    value many times."""
    models = itertools.cycle(("lorabench/tiny-300k", "lorabench/tiny-1m", "lorabench/tiny-4m"))
    shapes = itertools.cycle(((1, 64), (2, 128), (4, 96), (8, 32), (1, 256)))
    ranks, steps = itertools.cycle((1, 4, 8, 16, 32)), itertools.cycle(((False, 1), (True, 1), (False, 2), (True, 2)))
    targets = itertools.cycle(("all-linear", "attention", "mlp"))
    found = []
    pairs = [
        ("full", "none"),
        ("lora", "none"),
        ("rslora", "none"),
        ("dora", "none"),
        ("pissa", "none"),
        ("lora", "nf4"),
        ("dora", "nf4"),
        ("lora", "fp4"),
        ("lora", "int8"),
    ]
    for (method, quantization), optimizer, autocast in itertools.product(
        pairs, ("adamw", "adamw-8bit", "sgd", "adamw"), ("none", "bfloat16")
    ):
        (batch, length), (checkpointing, accumulation) = next(shapes), next(steps)
        spec = FULL if method == "full" else MethodSpec(name=method, rank=next(ranks), target_modules=next(targets))
        training = TrainingSpec(
            batch_size=batch,
            sequence_length=length,
            optimizer=optimizer,
            gradient_checkpointing=checkpointing,
            gradient_accumulation=accumulation,
            autocast=autocast,
        )
        found.append(
            TrainConfig(
                ModelSpec(name=next(models)),
                QuantizationSpec(name=quantization, double_quant=len(found) % 2 == 0),
                spec,
                training,
                "cpu",
            )
        )
    return found


def cpu(setting: TrainConfig) -> dict[str, Any]:
    """One combination, predicted and measured by the probe."""
    torch.manual_seed(0)
    base = load_base(setting, torch.device("cpu"))  # type: ignore[arg-type]  # a setting has what it asks of a condition
    method, spec = setting.method, setting.training
    targets = resolve_targets(base, method.target_modules) if method.target_modules else ()
    with quiet():
        model = plugins.load("methods", method.name).attach(
            base, method, peft_targets(base, targets) if targets else []
        )
    ids = torch.randint(5, model.config.vocab_size - 1, (spec.batch_size, spec.sequence_length))
    micro = [Batch(ids.clone(), ids.clone(), ids.numel()) for _ in range(spec.gradient_accumulation)]
    measured = peak_of_two_steps(model, micro, spec, torch.bfloat16 if spec.autocast == "bfloat16" else None)
    return compared(_words(setting), predict_step(setting).peak_bytes, measured)


def device_settings(on_cuda: bool = CUDA) -> list[TrainConfig]:
    """30 combinations for a GPU of 80 GB."""
    found = []
    for line in DEVICE.strip().splitlines():
        model, method, quantization, rank, batch, length, *more = line.split()
        kind, _, double = quantization.partition("-")
        training = TrainingSpec(
            batch_size=int(batch) if on_cuda else 2,
            sequence_length=int(length) if on_cuda else 64,
            gradient_checkpointing="ckpt" in more,
            optimizer=next(
                (
                    w
                    for w in more
                    if w in ("adamw-8bit", "paged-adamw-8bit", "sgd") and (on_cuda or not w.startswith("paged"))
                ),
                "adamw",
            ),
        )
        spec = FULL if method == "full" else MethodSpec(name=method, rank=int(rank) if on_cuda else 4)
        name = ModelSpec(name=model if on_cuda else "lorabench/tiny-300k", dtype="bfloat16" if on_cuda else "float32")
        found.append(
            TrainConfig(
                name,
                QuantizationSpec(name=kind, double_quant=double == "dq"),
                spec,
                training,
                "cuda" if on_cuda else "cpu",
            )
        )
    return found


DEVICE = """
gpt2          full none    0   8   512
gpt2          lora none    8   8   1024
gpt2          lora nf4     8   4   512
smollm2-360m  full none    0   4   1024
smollm2-360m  full none    0   2   2048  adamw-8bit
smollm2-360m  lora none    16  8   1024
smollm2-360m  lora nf4-dq  64  8   512
smollm2-360m  dora none    16  4   512
pythia-410m   lora none    16  4   1024
pythia-410m   lora int8    16  4   512
llama-3.2-1b  full none    0   1   1024  ckpt
llama-3.2-1b  full none    0   2   512   sgd
llama-3.2-1b  lora none    8   4   1024
llama-3.2-1b  lora none    256 4   1024
llama-3.2-1b  lora int8    16  4   512
llama-3.2-1b  lora fp4     16  4   512
llama-3.2-1b  lora nf4     16  4   1024  ckpt
llama-3.2-1b  lora nf4-dq  64  2   2048  paged-adamw-8bit
llama-3.2-1b  dora nf4     16  2   512
qwen2.5-1.5b  lora none    32  2   1024
qwen2.5-1.5b  lora nf4     32  1   4096  ckpt
gemma-2-2b    lora none    16  1   1024
gemma-2-2b    lora nf4-dq  16  2   512   ckpt
llama-3.2-3b  lora none    16  1   2048
llama-3.2-3b  lora nf4     128 2   1024  adamw-8bit
mistral-7b    lora none    16  1   512
mistral-7b    lora nf4-dq  64  1   2048  ckpt paged-adamw-8bit
llama-3.1-8b  lora none    16  1   1024  ckpt
llama-3.1-8b  lora int8    16  1   256
llama-3.1-8b  lora nf4-dq  16  1   2048
"""


def measured_on_device(setting: TrainConfig) -> dict[str, int]:
    """Peak bytes of one combination with random weights on this machine's device; on CUDA the allocator's."""
    spec, where = setting.training, torch.device("cuda" if CUDA else "cpu")
    model = random_model(setting, where)
    ids = torch.randint(5, model.config.vocab_size - 1, (spec.batch_size, spec.sequence_length), device=where)
    micro = [Batch(ids, ids.clone(), ids.numel())]
    if not CUDA:
        return {"measured_bytes": peak_of_two_steps(model, micro, spec, None)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = make_optimizer(parameters, spec)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        take_step(model, micro, parameters, optimizer, spec.max_grad_norm, torch.bfloat16)
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return {
        "measured_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "context_bytes": total - free - torch.cuda.memory_reserved(),
    }


def measured_rows() -> list[dict[str, Any]]:
    """Every combination measured, none predicted; a row that fails is told and costs no other."""
    rows: list[dict[str, Any]] = []
    for setting in device_settings():
        gc.collect()  # an adapted model is a cycle: without this it would be measured beside the next one
        if CUDA:
            torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated() if CUDA else 0
        try:
            rows.append({"setting": _words(setting), "before_bytes": before, **measured_on_device(setting)})
        except (RuntimeError, MemoryError) as e:
            rows.append({"setting": _words(setting), "fault": str(e)[:300]})
        print(rows[-1], flush=True)
    return rows


def predicted_beside(row: dict[str, Any], setting: TrainConfig, on_cuda: bool) -> dict[str, Any]:
    """A measured row with its prediction; on CUDA two cuBLAS workspaces belong to what the allocator holds."""
    if "fault" in row:
        return row
    predicted = predict_step(setting).peak_bytes
    return {**row, **compared(row["setting"], predicted, row["measured_bytes"])}


def published(row: dict[str, str]) -> dict[str, Any]:
    """One published row, predicted as its libraries behave."""
    kind, _, double = row["quantization"].partition("-")
    paper = row["source"].startswith("QLoRA")
    fused = ("query_key_value",) if "falcon" in row["model"] or "stablelm" in row["model"] else ("q_proj", "v_proj")
    setting = TrainConfig(
        ModelSpec(name=row["model"], dtype="bfloat16"),
        QuantizationSpec(
            name=kind, double_quant=double == "dq", compute_dtype="auto" if kind == "none" else "bfloat16"
        ),
        MethodSpec(
            rank=int(row["rank"]),
            target_modules=row["target_modules"] if row["target_modules"] == "all-linear" else fused,
        ),
        TrainingSpec(
            batch_size=int(row["micro_batch"]),
            sequence_length=int(row["sequence_length"]),
            gradient_checkpointing=row["gradient_checkpointing"] == "yes",
            autocast="auto" if paper else "none",  # litgpt's bf16-true has none
        ),
        "cuda",
    )
    with contextlib.ExitStack() as stack:
        for behaviour in row["behaviour"].split("+"):
            stack.enter_context(BEHAVIOURS[behaviour]())
        step = predict_step(setting)
    words = (
        f"{row['source']}: {row['model']} {row['quantization']} r={row['rank']} {row['target_modules']}"
        f" {row['micro_batch']}x{row['sequence_length']}"
    )
    return {
        **compared(words, step.peak_bytes, round(float(row["peak_gb"]) * 1e9)),
        "behaviour": row["behaviour"],
        "parts": step.parts,
    }


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


@contextlib.contextmanager
def expanded_heads() -> Iterator[None]:
    own = kernels._attention

    def attention(
        device: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **named: Any
    ) -> torch.Tensor:
        key, value = (t.expand(*t.shape[:-3], query.shape[-3], *t.shape[-2:]).contiguous() for t in (key, value))
        return own(device, query, key, value, *rest, **named)

    kernels._attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        kernels._attention = own


BEHAVIOURS = {
    "pinned": contextlib.nullcontext,
    "bitsandbytes-0.41": inputs_kept,
    "fused-gelu": fused_gelu,
    "plain-linear": plain_linear,
    "expanded-heads": expanded_heads,
}


def compared(words: str, predicted: int, measured: int) -> dict[str, Any]:
    """A row of the result, printed as it is made."""
    error = 100 * (predicted / measured - 1)
    print(
        f"{error:+7.2f} %  {predicted / 1e6:>10,.2f} MB predicted  {measured / 1e6:>10,.2f} MB measured  {words}",
        flush=True,
    )
    return {
        "setting": words,
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "error_percent": round(error, 3),
    }


def _words(s: TrainConfig) -> str:
    t, double = s.training, " dq" if s.quantization.double_quant and s.quantization.name.endswith("f4") else ""
    more = (" checkpointed" if t.gradient_checkpointing else "") + (
        " bf16 autocast" if t.autocast == "bfloat16" else ""
    )
    rank = "" if s.method.rank is None else f" r={s.method.rank} {s.method.target_modules}"
    return (
        f"{s.model.name} {s.method.name}{rank} {s.quantization.name}{double}"
        f" {t.gradient_accumulation}x{t.batch_size}x{t.sequence_length} {t.optimizer}{more}"
    )


def measure(part: str, measured: Path | None = None) -> dict[str, Any]:
    """The rows of a part, and their median and worst errors; a row that fails is told and costs no other."""
    if part == "published":
        with (Path(__file__).parent / "measured_memory.csv").open(encoding="utf-8", newline="") as stream:
            rows = [published(r) for r in csv.DictReader(stream)]
    elif part == "device":
        found = json.loads(measured.read_text()) if measured else measured_rows()
        on_cuda = CUDA or measured is not None
        rows = [predicted_beside(r, s, on_cuda) for r, s in zip(found, device_settings(on_cuda), strict=True)]
    else:
        rows = []
        for setting in cpu_settings():
            try:
                rows.append(cpu(setting))
            except (RuntimeError, MemoryError) as e:
                print(f"failed: {_words(setting)}: {e}", flush=True)
                rows.append({"setting": _words(setting), "fault": str(e)[:300]})
    groups = {"all": rows} | (
        {"pinned": [r for r in rows if r["behaviour"] == "pinned"]} if part == "published" else {}
    )
    summary = {}
    for name, chosen in groups.items():
        errors = sorted(abs(r["error_percent"]) for r in chosen if "error_percent" in r)
        summary[name] = {
            "rows": len(errors),
            "median_percent": round(statistics.median(errors), 3),
            "worst_percent": errors[-1],
        }
    return {
        "summary": summary,
        "environment": {"torch": torch.__version__, "machine": platform.processor() or platform.machine()},
        "rows": rows,
    }


def of_trainers(part: str, rows: Path | None, measured: Path | None) -> dict[str, Any]:
    """Rows of other trainers; `trainers` measures its rows first, on this machine."""
    if part != "trainers" or measured is not None:
        return memory_trainers.measure(part, rows or measured)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trainers.json"
        script = Path(__file__).parent / "trainers.py"
        subprocess.run([sys.executable, str(script), "--json", str(file), "--limit", "1500"], check=True)
        return memory_trainers.measure(part, file)


def main() -> None:
    if sys.argv[1:2] == ["peers"]:
        return peers.main(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rows", type=Path, help="published rows of other trainers, in the columns of their file")
    parser.add_argument("--json", type=Path, help="default: reports/memory-PART.json")
    parser.add_argument(
        "--measured", type=Path, help="rows that a GPU measured (memory.json of a session), with device"
    )
    options = parser.parse_args()
    if options.part in ("cpu", "published", "device"):
        found = measure(options.part, options.measured)
    else:
        found = of_trainers(options.part, options.rows, options.measured)
    print(json.dumps(found["summary"], indent=1))
    (options.json or ROOT / "reports" / f"memory-{options.part}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
