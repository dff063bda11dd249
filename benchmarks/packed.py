"""What a pack gains: cells an hour of packed training against one cell after another, all in one run.

    python benchmarks/packed.py --json FILE [--model NAME] [--quantization none|int8|nf4 ...] [--shape ROWSxTOKENS ...]
        [--cells N] [--rounds N] [--limit SECONDS]

For each storage and shape, alternating, round by round:

    packed    steps of the engine's train_packed, all adapters at once (ranks 4 to 64, own rates and seeds)
    solo      steps of the engine's train with one adapter of rank 16
    bare      steps of model(input_ids, labels).loss.backward() over PEFT's model with torch's AdamW

A step's seconds are the median over the steps after the first of each round. `ratio` = N * solo / packed,
`bare_ratio` = N * bare / packed; on a GPU also the allocator's peaks. The base has random weights of a published
configuration at full size (smollm2-135m, llama-3.2-1b, llama-3.1-8b), or is a shipped model (tiny-4m).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch

from benchmarks.trainers import CUDA, WHERE, Row, base, empty_cache, versions
from lorabench.config.paths import MODELS
from lorabench.config.settings import ModelSpec, TrainingSpec
from lorabench.engine.data import Example
from lorabench.engine.packed import train_packed
from lorabench.engine.packed_layers import AdapterStart
from lorabench.engine.train import collate, train
from lorabench.memory.meta_model import configuration

RANKS = (4, 8, 16, 32, 64, 8, 16, 16)  # of the cells in turn
AUTOCAST = torch.bfloat16 if CUDA else None  # as training.autocast: auto takes it
STEPS = 4  # of a round; the first is not counted


def folder(name: str) -> Path:
    """A shipped model, or a checkpoint of random weights, on disk once a run."""
    if (MODELS / name).is_dir():
        return MODELS / name
    import transformers

    made = Path(tempfile.gettempdir()) / f"lorabench-random-{name}"
    if not made.exists():
        with WHERE:
            model = transformers.AutoModelForCausalLM.from_config(
                configuration(ModelSpec(name=name)), dtype=torch.bfloat16
            )
        model.save_pretrained(made)
    return made


def adapted(model: Any, rank: int, seed: int) -> Any:
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config)


def starts(model: Any, cells: int) -> list[AdapterStart]:
    made = []
    for seed in range(cells):
        with_adapter = adapted(model, RANKS[seed % len(RANKS)], seed)
        made.append(AdapterStart.of(with_adapter, seed))
        with_adapter.unload()
    return made


def peak(run: Callable[[], list[float]]) -> tuple[list[float], int | None]:
    """Seconds at the end of each step, as seconds of each step but the first; the allocator's peak on a GPU."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    ends = run()
    return np.diff(ends).tolist(), torch.cuda.max_memory_allocated() if CUDA else None


class Bench:
    """One base, twice in memory: bare for the pack, with PEFT's layers for the others."""

    def __init__(self, options: argparse.Namespace, quantization: str, rows: int, length: int) -> None:
        wide = frozenset() if CUDA else frozenset({"float32"})
        row = Row("loop", options.model, quantization, "lora", 16, rows, length, wide)
        self.bare, self.cells = base(row, folder(options.model)).requires_grad_(False), options.cells
        self.starts = starts(self.bare, options.cells)
        self.model = adapted(base(row, folder(options.model)), 16, 0)
        chance = np.random.default_rng(0)
        predicted = np.arange(length) > 0
        self.examples = [
            Example(chance.integers(5, 500, length).astype(np.int32), predicted, length) for _ in range(4 * rows)
        ]
        self.spec = TrainingSpec(steps=STEPS, batch_size=rows, sequence_length=length)

    def packed(self) -> list[float]:
        ends: list[float] = []
        specs = [self.spec.model_copy(update={"learning_rate": 1e-4 * (1 + c % 3)}) for c in range(self.cells)]
        train_packed(
            self.bare,
            self.starts,
            self.examples,
            specs,
            seeds=range(self.cells),
            padding=0,
            where=WHERE,
            autocast=AUTOCAST,
            on_step=lambda step, tokens, seconds: ends.append(seconds),
        )
        return ends

    def solo(self) -> list[float]:
        done = train(
            self.model,
            self.examples,
            self.spec,
            seed=0,
            padding=0,
            where=WHERE,
            autocast=AUTOCAST,
            on_step=lambda step, tokens: None,
        )
        return [s.seconds for s in done.curve]

    def loop(self) -> list[float]:
        optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-4, fused=True)
        ids, ends, began = collate(self.examples[: self.spec.batch_size], 0, WHERE).ids, [], time.perf_counter()
        for _ in range(STEPS):
            with torch.autocast(WHERE.type, AUTOCAST, enabled=AUTOCAST is not None):
                loss = self.model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            ends.append(time.perf_counter() - began)
        return ends


def measure(options: argparse.Namespace, quantization: str, rows: int, length: int, until: float) -> dict[str, Any]:
    empty_cache()
    bench = Bench(options, quantization, rows, length)
    seconds: dict[str, list[float]] = {"packed": [], "solo": [], "bare": []}
    peaks: dict[str, int | None] = {}
    for done in range(options.rounds):
        for name, run in (("packed", bench.packed), ("solo", bench.solo), ("bare", bench.loop)):
            taken, peaks[name] = peak(run)
            seconds[name] += taken
        if done and time.monotonic() > until:
            break
    step = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "model": options.model,
        "quantization": quantization,
        "rows": rows,
        "length": length,
        "cells": options.cells,
        "packed_step_seconds": step["packed"],
        "solo_step_seconds": step["solo"],
        "bare_step_seconds": step["bare"],
        "ratio": options.cells * step["solo"] / step["packed"],
        "bare_ratio": options.cells * step["bare"] / step["packed"],
        "steps": seconds,
        "peak_bytes": peaks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m" if CUDA else "tiny-4m")
    parser.add_argument("--quantization", nargs="+", default=["none", "nf4"])
    parser.add_argument("--shape", nargs="+", default=["1x128", "4x256", "16x128"])
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=240)
    options = parser.parse_args()
    began, rows = time.monotonic(), []
    for quantization in options.quantization:
        for shape in options.shape:
            if time.monotonic() - began < options.limit:
                size, length = map(int, shape.split("x"))
                rows.append(measure(options, quantization, size, length, began + options.limit))
                short = {k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items() if k != "steps"}
                print(short, flush=True)
                options.json.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")
    shutil.rmtree(Path(tempfile.gettempdir()) / f"lorabench-random-{options.model}", ignore_errors=True)


if __name__ == "__main__":
    main()
