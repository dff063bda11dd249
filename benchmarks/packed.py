"""What training several adapters on one frozen base could gain: a spike, before a packed engine exists.

    python benchmarks/packed.py --json FILE [--limit SECONDS]

One optimizer step of n LoRA adapters of rank 16 on all linear layers of a random SmolLM2-135M, each with its own 4 x
128 tokens:

    sequential   n steps of PEFT's model, one adapter after another
    packed       one step of all n: the base's product once over n x 4 rows, the adapters' products as batched small
                 products (x (n, tokens, in) @ A (n, in, r) @ B (n, r, out)); one fused AdamW over all

The ratio of their medians, tokens per second and the allocator's peak, for a bfloat16 and an nf4 base.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F

from benchmarks.trainers import CUDA, WHERE, Models, Row, base, empty_cache, versions

RANK, ROWS, LENGTH = 16, 4, 128


class PackedLinear(torch.nn.Module):
    """base(x) + scaling * x A B for n adapters; x (n * rows, length, in), the rows of an adapter beside each other."""

    def __init__(self, layer: Any, n: int) -> None:
        super().__init__()
        self.layer, self.n = layer, n
        self.a = torch.nn.Parameter(torch.randn(n, layer.in_features, RANK, device=WHERE) / layer.in_features**0.5)
        self.b = torch.nn.Parameter(torch.zeros(n, RANK, layer.out_features, device=WHERE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(self.n, -1, x.shape[-1])
        delta = torch.bmm(torch.bmm(flat, self.a.to(x.dtype)), self.b.to(x.dtype))
        return self.layer(x) + delta.reshape(*x.shape[:-1], -1)  # type: ignore[no-any-return]


def packed(model: Any, n: int) -> Any:
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, PackedLinear(module, n))
    return model.train()


def step(model: Any, optimizer: Any, ids: torch.Tensor, n: int) -> None:
    with torch.autocast(WHERE.type, torch.bfloat16):
        logits = model(input_ids=ids).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()) * n
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def timed(run: Callable[[], None], repeats: int) -> float:
    run()
    run()
    seconds = []
    for _ in range(repeats):
        if CUDA:
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if CUDA:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def sequential(model: Any) -> Any:
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config).train()


def one_way(model: Any, n: int, rows: int) -> tuple[float, int | None]:
    """Median seconds of a step over so many rows, and the allocator's peak."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=CUDA)
    ids = torch.randint(5, 500, (rows, LENGTH), device=WHERE)
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(lambda: step(model, optimizer, ids, n), 7 if CUDA else 1)
    return seconds, torch.cuda.max_memory_allocated() if CUDA else None


def measure(quantization: str, n: int, models: Models) -> dict[str, Any]:
    row = Row("loop", "smollm2-135m", quantization, "lora", RANK, ROWS, LENGTH, frozenset())
    folder = models.folder(row.model)
    empty_cache()
    alone, alone_peak = one_way(sequential(base(row, folder)), 1, ROWS)
    empty_cache()
    together, together_peak = one_way(packed(base(row, folder), n), n, n * ROWS)
    return {
        "quantization": quantization,
        "adapters": n,
        "sequential_seconds": n * alone,
        "packed_seconds": together,
        "ratio": n * alone / together,
        "sequential_peak_bytes": alone_peak,
        "packed_peak_bytes": together_peak,
        "packed_tokens_per_second": n * ROWS * LENGTH / together,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=60)
    options = parser.parse_args()
    began, models, rows = time.monotonic(), Models(), []
    for quantization in ("none", "nf4"):
        for n in (1, 4, 16, 8, 32) if CUDA else (1, 2):
            if time.monotonic() - began < options.limit:
                rows.append(measure(quantization, n, models))
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
                options.json.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
