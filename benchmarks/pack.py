"""What a pack gains: cells an hour of packed training against one cell after another, all in one run.

    python benchmarks/pack.py --json FILE [--model NAME] [--quantization none|int8|nf4 ...] [--shape ROWSxTOKENS ...]
        [--ranks R ...] [--rounds N] [--limit SECONDS] [--bfloat16] [--uneven [--padded]] [--apart]

For each storage and shape, alternating, round by round:

    packed    steps of the engine's train_packed, an adapter for each of --ranks with its own rate and seed
    solo      steps of the engine's train, of one adapter of each rank that differs
    bare      steps of model(input_ids, labels).loss.backward() over PEFT's model with torch's AdamW

A step takes the median over the steps after the first of each round. `ratio` is the sum of the solo steps of all
adapters over the packed step, `bare_ratio` that of the bare ones, `processor_ratio` as `ratio`, in processor seconds,
which other processes disturb less; on a GPU also the allocator's peaks. The base has random weights of a published
configuration at full size (smollm2-135m, llama-3.2-1b, llama-3.1-8b), or is a shipped model (tiny-4m).

bfloat16: products on a CPU in it, too, as `training.autocast: auto` has them where the CPU can. uneven: rows of a tenth
of the length to all of it, most a quarter, which lie end to end on a CPU. padded: those of the pack alone are padded.
apart: packed steps whose layers are computed one by one, too; `apart_ratio` is their step over the packed one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import peft
import torch

from benchmarks.trainers import CUDA, WHERE, Row, base, empty_cache, versions
from lorabench.config.paths import MODELS
from lorabench.config.settings import ModelSpec, TrainingSpec
from lorabench.engine.batches import Layout, collate
from lorabench.engine.data import Example
from lorabench.engine.packed import train_packed
from lorabench.engine.packed_adapters import AdapterStart
from lorabench.engine.train import train
from lorabench.memory.meta_model import configuration

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


def starts(model: Any, ranks: Sequence[int]) -> list[AdapterStart]:
    made = []
    for seed, rank in enumerate(ranks):
        with_adapter = adapted(model, rank, seed)
        made.append(AdapterStart.of(with_adapter, seed))
        with_adapter.unload()
    return made


@dataclass
class Steps:
    """Of one way to train: seconds and processor seconds of each step after a round's first, and the peak."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    def take(self, run: Callable[[Callable[[], None]], None]) -> None:
        """Runs some steps, which call what they are given at the end of each."""
        ends: list[tuple[float, float]] = []
        if CUDA:
            torch.cuda.reset_peak_memory_stats()

        def end() -> None:
            if CUDA:
                torch.cuda.synchronize()
            ends.append((time.perf_counter(), time.process_time()))

        run(end)
        wall, processor = np.diff(np.array(ends), axis=0).T.tolist()
        self.wall += wall
        self.processor += processor
        if CUDA:
            self.peak_bytes = max(self.peak_bytes or 0, torch.cuda.max_memory_allocated())

    def told(self) -> dict[str, Any]:
        return {
            "seconds": statistics.median(self.wall),
            "processor_seconds": statistics.median(self.processor),
            "steps": len(self.wall),
            "peak_bytes": self.peak_bytes,
        }


class Bench:
    """One base, bare between two ways to train on it."""

    def __init__(self, options: argparse.Namespace, quantization: str, rows: int, length: int) -> None:
        wide = frozenset() if CUDA else frozenset({"float32"})
        row = Row("loop", options.model, quantization, "lora", 16, rows, length, wide)
        self.model, self.ranks = base(row, folder(options.model)).requires_grad_(False), options.ranks
        self.starts = starts(self.model, options.ranks)
        self.autocast = torch.bfloat16 if CUDA or options.bfloat16 else None
        chance = np.random.default_rng(0)
        lengths = [length] * (4 * rows)
        if options.uneven:
            lengths = chance.triangular(length / 10, length / 4, length, 4 * rows).astype(int).tolist()
        self.examples = [Example(chance.integers(5, 500, n).astype(np.int32), np.arange(n) > 0, n) for n in lengths]
        hidden = self.model.config.hidden_size if options.uneven and not CUDA else None
        self.layout = Layout(0, end_to_end=hidden, by_rows=True)
        self.packed_layout = Layout(0) if options.padded else self.layout
        self.spec = TrainingSpec(steps=STEPS, batch_size=rows, sequence_length=length)

    def packed(self, end: Callable[[], None]) -> None:
        cells = range(len(self.ranks))
        train_packed(
            self.model,
            self.starts,
            self.examples,
            [self.spec.model_copy(update={"learning_rate": 1e-4 * (1 + c % 3)}) for c in cells],
            seeds=cells,
            layout=self.packed_layout,
            where=WHERE,
            autocast=self.autocast,
            on_step=lambda step, tokens, seconds: end(),
        )

    def apart(self, end: Callable[[], None]) -> None:
        with mock.patch("lorabench.engine.packed.joined_packs", return_value=nullcontext()):
            self.packed(end)

    def solo(self, rank: int, end: Callable[[], None]) -> None:
        model = adapted(self.model, rank, 0)
        train(
            model,
            self.examples,
            self.spec,
            seed=0,
            layout=self.layout,
            where=WHERE,
            autocast=self.autocast,
            on_step=lambda step, tokens: end(),
        )
        model.unload()

    def bare(self, rank: int, end: Callable[[], None]) -> None:
        model = adapted(self.model, rank, 0).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
        ids = collate(self.examples[: self.spec.batch_size], Layout(0), WHERE).ids
        for _ in range(STEPS):
            with torch.autocast(WHERE.type, self.autocast, enabled=self.autocast is not None):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            end()
        model.unload()


def measure(options: argparse.Namespace, quantization: str, rows: int, length: int, until: float) -> dict[str, Any]:
    empty_cache()
    bench, ranks = Bench(options, quantization, rows, length), sorted(set(options.ranks))
    packed, apart, solo, bare = Steps(), Steps(), {r: Steps() for r in ranks}, {r: Steps() for r in ranks}
    for done in range(options.rounds):
        packed.take(bench.packed)
        if options.apart:
            apart.take(bench.apart)
        for rank in ranks:
            solo[rank].take(partial(bench.solo, rank))
            bare[rank].take(partial(bench.bare, rank))
        if done and time.monotonic() > until:
            break

    def ratio(steps: dict[int, Steps], kind: str = "seconds") -> float:
        return float(sum(steps[r].told()[kind] for r in options.ranks) / packed.told()[kind])

    return {
        "model": options.model,
        "quantization": quantization,
        "rows": rows,
        "length": length,
        "tokens": int(np.mean([len(e.ids) for e in bench.examples])),
        "laid": "end to end" if bench.packed_layout.end_to_end else "padded",
        "ranks": options.ranks,
        "ratio": ratio(solo),
        "bare_ratio": ratio(bare),
        "processor_ratio": ratio(solo, "processor_seconds"),
        "packed": packed.told(),
        "solo": {r: s.told() for r, s in solo.items()},
        "bare": {r: s.told() for r, s in bare.items()},
    } | ({"apart_ratio": apart.told()["seconds"] / packed.told()["seconds"]} if options.apart else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m" if CUDA else "tiny-4m")
    parser.add_argument("--quantization", nargs="+", default=["none", "nf4"])
    parser.add_argument("--shape", nargs="+", default=["1x128", "4x256", "16x128"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[16] * 8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=240)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--uneven", action="store_true")
    parser.add_argument("--padded", action="store_true")
    parser.add_argument("--apart", action="store_true")
    options = parser.parse_args()
    began, rows = time.monotonic(), []
    for quantization in options.quantization:
        for shape in options.shape:
            if time.monotonic() - began < options.limit:
                size, length = map(int, shape.split("x"))
                rows.append(measure(options, quantization, size, length, began + options.limit))
                print(json.dumps(rows[-1]), flush=True)
                options.json.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")
    shutil.rmtree(Path(tempfile.gettempdir()) / f"lorabench-random-{options.model}", ignore_errors=True)


if __name__ == "__main__":
    main()
