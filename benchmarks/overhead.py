"""What lorabench's training loop costs over a bare PEFT and PyTorch loop that takes the same steps.

    python benchmarks/overhead.py [--model lorabench/tiny-1m] [--rounds 7] [--steps 20] [--json FILE]

The two loops alternate within one run, each round on a fresh adapter over the same batches, with lorabench's
events written as JSON lines as in a study. The figure is the ratio of the median seconds per step; the losses
of both loops are compared, so that it is the same work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

from lorabench.config import TrainingSpec
from lorabench.config.paths import model_directory
from lorabench.engine.batches import Layout, batches
from lorabench.engine.data import Example
from lorabench.engine.events import Event
from lorabench.engine.train import train

CPU = torch.device("cpu")


def adapter(model: str, spec: TrainingSpec) -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_directory(model) or model, dtype=torch.float32)
    base.config.use_cache = False
    return peft.get_peft_model(
        base, peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    ).train()


def ours(model: Any, rows: list[Example], spec: TrainingSpec) -> tuple[float, list[float]]:
    with open(os.devnull, "w") as pipe:

        def on_step(step: Any, tokens: int) -> None:
            pipe.write(
                json.dumps(
                    dataclasses.asdict(Event("cell", "train", step.step, spec.steps, step.loss, tokens / step.seconds))
                )
                + "\n"
            )
            pipe.flush()

        start = time.perf_counter()
        done = train(model, rows, spec, seed=0, layout=Layout(0), where=CPU, autocast=None, on_step=on_step)
        return (time.perf_counter() - start) / spec.steps, [s.loss for s in done.curve]


def bare(model: Any, rows: list[Example], spec: TrainingSpec) -> tuple[float, list[float]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=0.0, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, spec.steps)
    order = batches(rows, spec.batch_size, 0)
    losses = []
    start = time.perf_counter()
    for _ in range(spec.steps):
        ids = torch.from_numpy(np.stack([e.ids for e in next(order)])).long()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, spec.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return (time.perf_counter() - start) / spec.steps, losses


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lorabench/tiny-1m")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    spec = TrainingSpec(steps=args.steps, batch_size=16, sequence_length=128, learning_rate=1e-3, warmup=0)
    chance = np.random.default_rng(0)
    mask = np.arange(128) > 0
    rows = [Example(chance.integers(3, 500, 128).astype(np.int32), mask, 128) for _ in range(256)]
    seconds: dict[str, list[float]] = {"lorabench": [], "bare": []}
    for number in range(args.rounds + 1):
        for name, loop in (
            (("lorabench", ours), ("bare", bare)) if number % 2 else (("bare", bare), ("lorabench", ours))
        ):
            taken, losses = loop(adapter(args.model, spec), rows, spec)
            if number:  # the first round warms up
                seconds[name].append(taken)
            if name == "bare":
                expected = losses
            else:
                got = losses
        np.testing.assert_allclose(got, expected, rtol=1e-4)
    ratio = statistics.median(seconds["lorabench"]) / statistics.median(seconds["bare"])
    found = {
        "benchmark": "overhead",
        "model": args.model,
        "ratio": round(ratio, 4),
        "seconds_per_step": {k: round(statistics.median(v), 5) for k, v in seconds.items()},
        "spread": {k: [round(min(v), 5), round(max(v), 5)] for k, v in seconds.items()},
        "rounds": args.rounds,
        "steps": args.steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
