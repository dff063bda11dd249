"""The checks that need a GPU, in order of value, each written as JSON as soon as it is done.

    python benchmarks/gpu_session.py --out DIR [--limit 540] [--only NAME ...]

A check that would begin after the limit is left out and named in session.json, so that the command ends well
inside its time. Without a GPU the same checks run on the CPU at toy size: a rehearsal, not a measurement.

    trainers     memory and step time of Trainer, TRL's SFTTrainer and the plain loop (benchmarks/trainers.py)
    memory       memory of lorabench's own loop, random weights of 0.1B to 8B parameters; predicted afterwards with
                 `benchmarks/memory.py device --measured memory.json`
    calibrate    the rows of `lorabench calibrate` with their predictions, and the CUDA context
    methods      every method with every quantization trains, and its adapter loads again
    pack         several adapters on one frozen base against one after another (benchmarks/pack.py)
    ranks        a rank study of SmolLM2-135M (studies/smollm2.yaml), where --smollm2 and --data name its folders
    throughput   tokens per second and memory peaks of a random 160M Llama: full, lora, and lora on int8, fp4, nf4
    pretrain     the shipped models on more tokens, where the books are given with --books DIR
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from lorabench import plugins
from lorabench.config import expand
from lorabench.config.load import read_study
from lorabench.config.source import override, parse_source
from lorabench.engine.cell import run_cell
from lorabench.engine.environment import environment
from lorabench.engine.model import device

CUDA = torch.cuda.is_available()
STUDY = """
schema: 1
name: session
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 16, alpha: 16}
training: {steps: 20, batch_size: 8, sequence_length: 128, learning_rate: 1e-3}
evaluation: {lm_eval: [], max_sequences: 32, forgetting: none}
"""


def cells(*settings: str) -> Any:
    return expand(read_study(override(parse_source(STUDY, "session.yaml", Path.cwd()), settings)))


def run_all(found: Any) -> list[dict[str, Any]]:
    """Runs cells and gives a plain row for each; a fault is a row as well."""
    rows = []
    for cell in found:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cells" / "x.partial"
            path.mkdir(parents=True)
            result = run_cell(cell, path)
        rows.append(
            {
                "method": cell.method.name,
                "quantization": cell.quantization.name,
                "double_quant": cell.quantization.double_quant,
                "optimizer": cell.training.optimizer,
                "gradient_checkpointing": cell.training.gradient_checkpointing,
                "outcome": result.outcome,
                "error": result.error.message if result.error else None,
                "readings": {r.metric: r.value for r in result.readings},
            }
        )
        print(rows[-1]["method"], rows[-1]["quantization"], rows[-1]["outcome"], rows[-1]["error"] or "", flush=True)
    return rows


def trainers(options: argparse.Namespace) -> Any:
    return _measured("trainers", options, 230)


def pack(options: argparse.Namespace) -> Any:
    return _measured("pack", options, 60)


def _measured(name: str, options: argparse.Namespace, limit: int) -> Any:
    """A benchmark in a process of its own, whose peaks start at nothing."""
    file = options.out / f"{name}-rows.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(file), "--limit", str(limit if CUDA else 30)]
    ended = subprocess.run(command, check=False, timeout=limit + 60)
    return json.loads(file.read_text()) | {"exit": ended.returncode}


def memory(options: argparse.Namespace) -> Any:
    from benchmarks.memory import measured_rows

    return measured_rows()


def calibrate(options: argparse.Namespace) -> Any:
    from lorabench.workflows.calibrate import calibrate as measure

    found, _ = measure("0" if CUDA else "cpu", options.out / "card-calibration.json")
    return found.summarised | {"context_bytes": found.context_bytes, "faults": [r.fault for r in found.rows if r.fault]}


def ranks(options: argparse.Namespace) -> Any:
    """studies/smollm2.yaml, by the command line, as long as the time allows; what ran is packed into one file."""
    if not options.smollm2:
        return "left out: --smollm2 names no folder"
    out = options.work / "study-smollm2"
    data = [f"--set=task.train={options.data}/valid.txt", f"--set=task.eval={options.data}/test.txt"]
    study = ["studies/smollm2.yaml", f"--set=model={options.smollm2}", *data]
    toy = (
        []
        if CUDA
        else [
            "--set=training.steps=1",
            "--set=evaluation.max_sequences=4",
            "--set=seeds=[0]",
            "--set=grid={method.rank: [1]}",
        ]
    )
    command = [
        "timeout",
        "-s",
        "INT",
        str(options.study_seconds),
        sys.executable,
        "-m",
        "lorabench",
        "run",
        *study,
        *toy,
        f"--out={out}",
        "--workers=6",
    ]
    ended = subprocess.run(command, check=False)
    with tarfile.open(options.out / "smollm2.tar.xz", "w:xz") as archive:
        archive.add(out, "smollm2", filter=lambda f: None if f.name.endswith(".safetensors") else f)
    return {"exit": ended.returncode, "cells": sorted(p.name for p in (out / "cells").iterdir())}


def methods(options: argparse.Namespace) -> Any:
    adapters = [
        m
        for m in plugins.names("methods")
        if plugins.load("methods", m).FIELDS and not plugins.load("methods", m).UNQUANTIZED_ONLY
    ]
    steps = "training.steps=20" if CUDA else "training.steps=2"
    grid = (
        f"grid={{method: [{', '.join(adapters)}], quantization: [none, int8, fp4, nf4, {{name: nf4, double_quant:"
        " true}]}"
    )
    extra = [cells(steps, f"method={m}") for m in ("base", "full", "pissa")]
    optimizers = ("adamw-8bit", "paged-adamw", "paged-adamw-8bit") if CUDA else ("adamw-8bit",)
    extra += [cells(steps, f"training.optimizer={o}") for o in optimizers]
    return run_all((*cells(steps, grid), *(c for e in extra for c in e)))


def throughput(options: argparse.Namespace) -> Any:
    big = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 32000,
    }
    small = {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 1024,
    }
    with tempfile.TemporaryDirectory() as folder:
        shipped = Path(__file__).parents[1] / "lorabench" / "models" / "tiny-300k"
        transformers.AutoTokenizer.from_pretrained(shipped).save_pretrained(folder)
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**(big if CUDA else small), max_position_embeddings=2048)
        )
        model.to(torch.bfloat16).save_pretrained(folder)
        del model
        size = (
            ("training.batch_size=8", "training.sequence_length=1024", "training.steps=40")
            if CUDA
            else ("training.batch_size=2", "training.steps=3")
        )
        base = (f"model={folder}", *size)
        grid = (
            "grid={quantization: [none, int8, fp4, nf4, {name: nf4, double_quant: true}],"
            " training.gradient_checkpointing: [false, true]}"
        )
        return run_all((*cells(*base, "method=full"), *cells(*base, grid)))


def pretrain(options: argparse.Namespace) -> Any:
    from lorabench.models.pretrain import SIZES
    from lorabench.models.pretrain import pretrain as make

    if not options.books:
        return "left out: --books names no folder"
    tokens = {"300k": 30_000_000, "1m": 60_000_000, "4m": 100_000_000} if CUDA else dict.fromkeys(SIZES, 20_000)
    return [make(options.books, size, options.out / f"tiny-{size}", tokens[size]) for size in SIZES]


CHECKS: tuple[Callable[[argparse.Namespace], Any], ...] = (
    trainers,
    memory,
    calibrate,
    methods,
    pack,
    ranks,
    throughput,
    pretrain,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=540, help="seconds after which no further check begins")
    parser.add_argument("--only", nargs="*", choices=[c.__name__ for c in CHECKS])
    parser.add_argument("--books", type=Path)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct, for ranks")
    parser.add_argument("--data", type=Path, help="folder of the E2E data, for ranks")
    parser.add_argument("--study-seconds", type=int, default=240)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()), help="where what need not come back is written"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began, session = time.monotonic(), {"environment": dataclasses.asdict(_Session()), "checks": {}}
    for check in CHECKS:
        if options.only and check.__name__ not in options.only:
            continue
        start = time.monotonic()
        if start - began > options.limit * 0.6:
            session["checks"][check.__name__] = "left out: too little time"
            continue
        try:
            found = check(options)
            state = "done"
        except Exception as e:
            found, state = None, f"{type(e).__name__}: {e}"
        session["checks"][check.__name__] = {"state": state, "seconds": round(time.monotonic() - start, 1)}
        (options.out / f"{check.__name__}.json").write_text(json.dumps(found, indent=1) + "\n")
        (options.out / "session.json").write_text(json.dumps(session, indent=1) + "\n")
    print(json.dumps(session["checks"], indent=1))


@dataclasses.dataclass(frozen=True)
class _Session:
    """What the numbers were taken on."""

    device: str = dataclasses.field(default_factory=lambda: environment(device()).device)
    packages: dict[str, str] = dataclasses.field(default_factory=lambda: environment(device()).packages)
    git: str | None = dataclasses.field(default_factory=lambda: environment(device()).git)
    rehearsal: bool = not CUDA


if __name__ == "__main__":
    main()
