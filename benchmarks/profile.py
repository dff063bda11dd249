"""Where the time of a cell goes, and how far its steps are from what this machine's products allow.

    python -m benchmarks.profile --json FILE [--model smollm2 tiny-1m] [--method lora lora-nf4 full] [--limit 190]

smollm2 is SmolLM2-135M-Instruct on SST-2 (studies/real, rank 16, benchmarks.real fetches it), tiny-1m the quickstart's
model, task and rank 16. For each, in one process that is set up as a worker's is, the base kept between its cells:

    phases      seconds of each phase of the whole cell, as its result stores them; `quantize` is what loading the nf4
                base took beyond loading the unquantized one; `rest` what no phase counts
    step        the median of the same optimizer steps, taken by the engine's take_step
    products    the matrix products and attention of one such step, forward and backward, seen by a dispatch mode and
                made again by themselves, each with its shape, strides and dtype, over fresh operands: the least time
                that a step could take with these libraries. `share` = products / step
    flops       2 m n k of each product, and 4 (14 with its backward pass) s^2 d of each head's attention over s tokens
                of width d (Dao et al. 2022, without the half that a causal mask leaves out); `counted` by formula:
                6 N tokens where the base is trained, 4 N where it is frozen (Kaplan et al. 2020, section 2.1: 2 N
                forward, and as much for the gradients of activations and of weights each), 6 for adapters, with the
                head's N at the positions that predict a label alone
    peak        a product of 2,048 x 2,048 x 2,048 in the dtype of most of the step's
    operators   share of a step's processor time by kind, by torch.profiler, which slows small operators
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lorabench import startup
from lorabench.runner.threads import thread_variables, threads_per_worker

BEGAN = time.perf_counter()
if (MOST := threads_per_worker(1)) is not None:  # before torch, as a worker is set up
    os.environ |= thread_variables(MOST, os.environ)
startup.settle()

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from benchmarks.real import ROOT, fetch  # noqa: E402
from benchmarks.solo import settings  # noqa: E402
from lorabench.config.grid import expand  # noqa: E402
from lorabench.config.load import read_study  # noqa: E402
from lorabench.config.source import parse_source  # noqa: E402
from lorabench.engine.batches import Batch, batches, collate  # noqa: E402
from lorabench.engine.cell import run_cell  # noqa: E402
from lorabench.engine.cell_context import CellContext, LoadedCell  # noqa: E402
from lorabench.engine.cell_load import load  # noqa: E402
from lorabench.engine.joined_adapters import joined_adapters  # noqa: E402
from lorabench.engine.train import FEW, make_optimizer, take_step  # noqa: E402

if TYPE_CHECKING:
    from lorabench.config.study import Cell

STARTED = time.perf_counter() - BEGAN
METHODS: Mapping[str, Mapping[str, Any]] = {
    "lora": {},
    "lora-nf4": {"quantization": "nf4"},
    "full": {"method": {"name": "full"}},
}
STEPS = {"smollm2": 16, "tiny-1m": 100}  # of a whole cell; the shares of the other phases are those of as many
BATCHES, TIMES = 2, 3  # different batches whose steps are taken, and how often each
PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm")
ATTENTION = "_scaled_dot_product"
FRESH = 2**27  # bytes of operands that a product goes round, so that no cache holds the next one's
KINDS = {
    "products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm"),
    "attention": ("scaled_dot_product",),
    "dequantization": ("bitsandbytes", "dequantize"),
    "loss": ("cross_entropy", "nll_loss", "log_softmax"),
    "optimizer": ("_fused_adamw", "adamw"),
    "copies and casts": ("copy_", "_to_copy", "cat"),
}


def cell_of(model: str, method: str) -> Cell:
    """The one cell of a model's setting with a method."""
    if model == "smollm2":
        plain = settings("sst2", STEPS[model])
        plain["evaluation"] = {"lm_eval": [], "max_sequences": 200, "forgetting": "none"}
    else:
        plain = yaml.safe_load((ROOT / "studies" / "quickstart.yaml").read_text())
        plain |= {"grid": {}, "include": [], "seeds": [0], "reference": None}
        plain["method"] = {"name": "lora", "rank": 16, "alpha": 16, "target_modules": "all-linear"}
        plain["training"]["steps"] = STEPS[model]
    plain = {k: v for k, v in (plain | METHODS[method]).items() if v is not None and v != {}}
    plain.pop("grid", None)
    (cell,) = expand(read_study(parse_source(yaml.safe_dump(plain), "profile.yaml", ROOT)))
    return cell


def phases(cell: Cell, folder: Path) -> dict[str, float]:
    """Seconds by phase of a cell that runs whole."""
    began = time.perf_counter()
    result = run_cell(cell, folder)
    whole = time.perf_counter() - began
    if result.outcome != "finished":
        raise SystemExit(f"the cell ended {result.outcome}: {result.error}")
    names = ("load", "sample", "train", "save", "prepare", "eval", "decompose", "truncate", "measure")
    found = {name: seconds for name in names if (seconds := result.value(f"{name}_seconds")) is not None}
    return found | {"rest": whole - sum(found.values()), "whole": whole}


class Seen(TorchDispatchMode):
    """The products of what runs under it, by what decides their time."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(
        self, operator: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = operator.overloadpacket.__name__
        if name in PRODUCTS or name.startswith(ATTENTION):
            form = tuple(
                (tuple(a.shape), a.stride(), a.dtype) if isinstance(a, torch.Tensor) else ("plain", a) for a in args
            )
            self.counts[operator, form, tuple(sorted((kwargs or {}).items()))] += 1
        return operator(*args, **(kwargs or {}))


def flops(operator: Any, form: tuple[Any, ...]) -> int:
    """Of one product or attention."""
    name, shapes = operator.overloadpacket.__name__, [f[0] for f in form if f[0] != "plain"]
    if name in PRODUCTS:
        *batch, rows, inner = shapes[-2]
        return int(2 * (batch[0] if batch else 1) * rows * inner * shapes[-1][-1])
    rows, heads, length, width = shapes[1 if "backward" in name else 0]
    return (10 if "backward" in name else 4) * rows * heads * length * length * width


def made_again(operator: Any, form: tuple[Any, ...], named: tuple[Any, ...]) -> float:
    """Median seconds of one product over fresh operands."""

    def operands() -> list[Any]:
        return [
            f[1]
            if f[0] == "plain"
            else torch.empty_strided(f[0], f[1], dtype=f[2]).normal_()
            if f[2].is_floating_point
            else torch.zeros(f[0], dtype=f[2])
            for f in form
        ]

    first = operands()
    size = sum(t.untyped_storage().nbytes() for t in first if isinstance(t, torch.Tensor))
    turns = [first, *(operands() for _ in range(min(6, FRESH // max(1, size))))]
    taken = []
    for arguments in turns:
        began = time.perf_counter()
        operator(*arguments, **dict(named))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:] or taken)


def peak(dtype: torch.dtype) -> float:
    """FLOP/s of a large square product."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        a @ b
        taken.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(taken)


def counted(loaded: LoadedCell, micro: Batch) -> int:
    """A step's operations by the formula above, without attention."""
    model, head = loaded.model, loaded.model.get_output_embeddings()
    layers = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lora_" not in n]
    weights = {id(m): m.in_features * m.out_features for m in layers}
    own = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    frozen = not any(p.requires_grad for p in head.parameters())
    body = sum(w for key, w in weights.items() if key != id(head))
    positions = micro.ids.numel()
    return int((4 if frozen else 6) * (positions * body + micro.predicted * weights[id(head)]) + 6 * positions * own)


def step(cell: Cell, folder: Path) -> dict[str, Any]:
    """Steps of a cell, and their products by themselves."""
    context = CellContext.of(cell, folder, ("train",), lambda event: None, "")
    loaded = _made(load(context))
    model, spec = loaded.model, cell.training
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, rows = make_optimizer(parameters, spec), batches(loaded.data.train, spec.batch_size, cell.seed)
    model.train()
    drawn = [collate(next(rows), loaded.layout, context.device) for _ in range(BATCHES)]

    def take(batch: Batch) -> None:
        take_step(model, [batch], parameters, optimizer, spec.max_grad_norm, context.autocast, loaded.loss)

    with joined_adapters(model, drawn[0].ids[:1, :FEW]):
        take(drawn[0])  # warms up
        taken = [statistics.median(_timed(take, batch) for _ in range(TIMES)) for batch in drawn]
        with Seen() as seen:
            for batch in drawn:
                take(batch)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
            take(drawn[0])
    products = sum(count * made_again(*key) for key, count in seen.counts.items())
    work = sum(count * flops(key[0], key[1]) for key, count in seen.counts.items())
    by_dtype: Counter[torch.dtype] = Counter()
    for (operator, form, _), count in seen.counts.items():
        by_dtype[form[-1][2] if form[-1][0] != "plain" else form[0][2]] += count * flops(operator, form)
    dtype = by_dtype.most_common(1)[0][0]
    fastest = peak(dtype)
    return {
        "tokens": sum(b.tokens for b in drawn) / BATCHES,
        "positions": sum(b.ids.numel() for b in drawn) / BATCHES,
        "labels": sum(b.predicted for b in drawn) / BATCHES,
        "step_seconds": sum(taken) / BATCHES,
        "products_seconds": products / BATCHES,
        "share": products / sum(taken),
        "flops": work / BATCHES,
        "counted_flops": sum(counted(loaded, b) for b in drawn) / BATCHES,
        "flops_per_second": work / sum(taken),
        "products_flops_per_second": work / products,
        "dtype": str(dtype).removeprefix("torch."),
        "peak_flops_per_second": fastest,
        "operators": _by_kind(profiled),
    }


def _made(under_way: Any) -> Any:
    while True:
        try:
            next(under_way)
        except StopIteration as end:
            return end.value


def _timed(take: Callable[[Batch], None], batch: Batch) -> float:
    began = time.perf_counter()
    take(batch)
    return time.perf_counter() - began


def _by_kind(profiled: Any) -> dict[str, float]:
    shares: Counter[str] = Counter()
    for event in profiled.key_averages():
        kind = next((k for k, words in KINDS.items() if any(w in event.key for w in words)), "other operators")
        shares[kind] += event.self_cpu_time_total
    return {kind: share / shares.total() for kind, share in shares.most_common()}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--model", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--method", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--limit", type=float, default=190, help="seconds after which no further cell begins")
    options = parser.parse_args()
    if "smollm2" in options.model:
        fetch()
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "imports_seconds": STARTED,
        "rows": [],
    }
    for model in options.model:
        for method in options.method:
            if time.perf_counter() - BEGAN > options.limit:
                continue
            cell = cell_of(model, method)
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "cells" / cell.id
                folder.mkdir(parents=True)
                row = {"model": model, "method": method, "phases": phases(cell, folder), **step(cell, folder)}
            plain = next((r for r in found["rows"] if r["model"] == model and r["method"] == "lora"), None)
            if method == "lora-nf4" and plain and "load" in plain["phases"]:
                row["phases"]["quantize"] = row["phases"]["load"] - plain["phases"]["load"]
            found["rows"].append(row)
            print(json.dumps(row), flush=True)
            options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
