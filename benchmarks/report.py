"""What the light arm takes on large studies: the report of 1,000 cells and the table of 10,000 conditions.

    python benchmarks/report.py [--keep FOLDER]

The stores are made by the synthetic executor (their making is not counted); each command then runs in a process of its
own, whose wall time and peak memory are measured. The claims: 20 s and 1 GB for the report, 20 s for the table, no
torch. Writes reports/report-cost.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lorabench.config import expand, load_study
from lorabench.record.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests import synthetic

OUT = Path(__file__).parents[1] / "reports" / "report-cost.json"
STUDY = """
schema: 1
name: {name}
question: Which rank and which storage type?
model: lorabench/tiny-300k
task: {{name: python-docs}}
method: {{name: lora, alpha: 16}}
training: {{steps: {steps}, batch_size: 4, sequence_length: 64, learning_rate: 3e-3}}
grid:
{grid}
include:
  - {{method: {{name: full}}, training.learning_rate: 1e-3}}
  - {{method: {{name: base}}}}
seeds: {seeds}
reference: {{method: {{name: full}}}}
"""
RANKS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
CASES: dict[str, dict[str, Any]] = {
    "report of 1,000 cells": {
        "steps": 100, "seeds": [0, 1, 2, 3, 4],
        "grid": f"  method.rank: {RANKS}\n  quantization: [none, nf4]\n"
        "  training.sequence_length: [32, 40, 48, 56, 64, 72, 80, 88, 96, 104]",
        "command": ["report", "-o", "report.html"],
    },
    "table of 10,000 rows": {
        "steps": 2, "seeds": [0],
        "grid": f"  method.rank: {RANKS}\n  quantization: [none, nf4]\n  training.batch_size: {list(range(1, 21))}\n"
        f"  training.sequence_length: {list(range(8, 33))}",
        "command": ["table", "--format", "md", "-o", "table.md"],
    },
}  # fmt: skip
_RUN = """
import resource, sys, time
began = time.perf_counter()
from lorabench.commands.main import main
code = main(sys.argv[1:])
seconds = time.perf_counter() - began
import json
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"code": code, "seconds": seconds, "peak_bytes": peak, "torch": "torch" in sys.modules}))
"""


def made(folder: Path, name: str, case: dict[str, Any]) -> Store:
    """The store of a case, filled in this process."""
    path = folder / f"{name}.yaml"
    path.write_text(
        STUDY.format(name=name, steps=case["steps"], grid=case["grid"], seeds=case["seeds"]), encoding="utf-8"
    )
    study = load_study(path)
    cells = expand(study)
    store = Store(folder / name)
    store.save_plan(study, cells)
    worker = synthetic.open_worker()
    for cell in cells:
        if store.get(cell.id) is None:
            store.put(worker.run(cell, store.partial(cell.id), lambda event: None))
    return store


def measured(store: Store, command: list[str]) -> dict[str, Any]:
    """Wall seconds and peak bytes of a command in a fresh process."""
    began = time.perf_counter()
    output = str(store.folder / command[-1])
    done = subprocess.run(
        [sys.executable, "-c", _RUN, command[0], str(store.folder), *command[1:-1], output],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "seconds": round(time.perf_counter() - began, 2), "output_bytes": Path(output).stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser(description="What reports and tables of large studies take.")
    parser.add_argument(
        "--keep", metavar="FOLDER", help="where the stores are made and kept (default: a temporary folder)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = {}
        for title, case in CASES.items():
            store = made(folder, title.replace(" ", "-").replace(",", ""), case)
            found[title] = {"cells": len(store.plan()), **measured(store, case["command"])}
            print(title, found[title], flush=True)
        OUT.write_text(
            json.dumps(
                {"command": "python benchmarks/report.py", "machine": platform.platform(), "cases": found}, indent=1
            )
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
