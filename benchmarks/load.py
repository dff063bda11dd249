"""What a large study costs beside its training: planning, running, resuming, status, report, against its cells.

    python -m benchmarks.load [--cells 100 1000 10000 100000] [--steps plan run resume status report] [--keep FOLDER]
                              [--json FILE]

Cells are made up at once by an executor of this file (no curve, no spectra), 20 seeds a condition, so that what is
left is lorabench's own. Each step runs in a fresh process; told are its wall seconds, its processor seconds (user and
system, what a busy machine does not change), its peak memory, and how the processor seconds grow from one size to the
next: the exponent log(t2 / t1) / log(n2 / n1), after the start of the process (the same step of the smallest study)
is taken off. n log n has an exponent of 1.1 between 1,000 and 10,000.

The claims, for 10,000 cells: planned in 10 s, 5 ms of the runner a cell, 500 MB, resumed when finished in 5 s, status
in 2 s, the report of the 500 conditions in 30 s.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lorabench.config.grid import MAX_CELLS

SEEDS, SMALLEST = 20, 20
STEPS = ("plan", "run", "resume", "status", "report")
CLAIMS = {"plan": 10.0, "resume": 5.0, "status": 2.0, "report": 30.0}  # seconds for 10,000 cells
STUDY = """
schema: 1
name: load
question: What does the number of cells cost?
model: lorabench/tiny-300k
task: {{name: python-docs}}
method: {{name: lora, alpha: 16}}
training: {{steps: 10, batch_size: 4, sequence_length: 64, learning_rate: 3e-3}}
grid:
  method.rank: {ranks}
  quantization: {stored}
  training.sequence_length: {lengths}
include:
  - {{method: {{name: full}}, training.learning_rate: 1e-3}}
seeds: {seeds}
reference: {{method: {{name: full}}}}
"""


class Instant:
    """A worker that knows every result, and is asked to pack as real ones are."""

    packs = True

    def check(self, cells: Iterable[Any], calibrations: Path | None = None) -> tuple[()]:
        return ()

    def run(self, cell: Any, folder: Path, on_event: Callable[[Any], None], *_: object) -> Any:
        from lorabench.engine.events import Event
        from lorabench.record.result import CellResult, Environment, Reading

        on_event(Event(cell.id, "train", cell.training.steps, cell.training.steps, 2.0))
        noise = int(cell.id, 16) % 1000 / 1e5
        loss = 2 + 0.6 / math.sqrt(1 + (cell.method.rank or 64)) + noise
        values = {"eval_loss": loss, "train_seconds": 1.0, "train_peak_bytes": 1e8, "trainable_parameters": 1e4}
        return CellResult(
            cell=cell,
            outcome="finished",
            readings=tuple(Reading(metric=m, value=v) for m, v in values.items()),
            environment=Environment(device="synthetic"),
            started_at="2026-01-01T00:00:00+00:00",
        )

    def close(self) -> None:
        """Nothing is held."""


def study_text(cells: int) -> str:
    """A study of about so many cells: full fine-tuning, and adapters of ranks, storages and lengths."""
    conditions = max(1, cells // SEEDS - 1)
    ranks = list(range(1, min(conditions, 25) + 1))
    stored = ["none", "nf4"] if conditions >= 50 else ["none"]
    allowed = (MAX_CELLS // SEEDS - 1) // (len(ranks) * len(stored))
    lengths = list(range(8, 8 + max(1, min(allowed, round(conditions / len(ranks) / len(stored))))))
    return STUDY.format(ranks=ranks, stored=stored, lengths=lengths, seeds=list(range(min(SEEDS, cells))))


def step(name: str, folder: Path) -> None:
    """One step, in this process, of the study in a folder."""
    from lorabench.commands.main import main as command
    from lorabench.config import load_study
    from lorabench.runner.display import Lines
    from lorabench.runner.plan import make_plan
    from lorabench.runner.run import run
    from lorabench.runner.worker_pool import WorkerPool

    store = folder / "store"
    if name == "plan":
        make_plan(load_study(folder / "study.yaml"), store).save()
    elif name in ("run", "resume"):
        with open("/dev/null", "w", encoding="utf-8") as nowhere:
            run(load_study(folder / "study.yaml"), store, pool=WorkerPool(lambda _: Instant()), progress=Lines(nowhere))
    else:
        command([name, str(store)])


def child(name: str, folder: Path) -> None:
    """Runs a step and tells what it took."""
    import resource

    began = time.perf_counter()
    step(name, folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    took = {"wall": time.perf_counter() - began, "cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024}
    print(json.dumps(took))


def measured(name: str, folder: Path) -> dict[str, float]:
    code = f"from benchmarks.load import child; from pathlib import Path; child({name!r}, Path({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(sizes: list[int], steps: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each size and step, the smallest size first."""
    before: dict[str, tuple[int, float]] = {}
    start: dict[str, float] = {}
    for size in sorted({SMALLEST, *sizes}):
        place = folder / str(size)
        place.mkdir(parents=True, exist_ok=True)
        (place / "study.yaml").write_text(study_text(size), encoding="utf-8")
        for name in steps:
            took = measured(name, place)
            cells = len(json.loads((place / "store" / "plan.json").read_text())["cells"])
            row = {"cells": cells, "step": name, **took}
            if size == SMALLEST:
                start[name] = took["cpu"]
            else:
                own = max(took["cpu"] - start[name], 1e-3)
                row |= {"cpu_per_cell": own / cells}
                if name in before:
                    row["exponent"] = math.log(own / before[name][1]) / math.log(cells / before[name][0])
                before[name] = cells, own
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description="What a large study costs beside its training.")
    parser.add_argument("--cells", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--keep", metavar="FOLDER", help="where the stores are made and kept")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        print(f"{'cells':>7} {'step':<7} {'wall s':>8} {'cpu s':>8} {'ms/cell':>8} {'MB':>6} {'exponent':>8}")
        for row in rows(options.cells, options.steps, Path(options.keep or scratch)):
            found.append(row)
            each = f"{1000 * row['cpu_per_cell']:8.2f}" if "cpu_per_cell" in row else " " * 8
            grows = f"{row['exponent']:8.2f}" if "exponent" in row else " " * 8
            took = f"{row['wall']:8.1f} {row['cpu']:8.1f} {each} {row['peak'] / 1e6:6.0f}"
            print(f"{row['cells']:>7} {row['step']:<7} {took} {grows}", flush=True)
    if options.json:
        plain = {"command": "python -m benchmarks.load", "machine": platform.platform(), "rows": found}
        Path(options.json).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
