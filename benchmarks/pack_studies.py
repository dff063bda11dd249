"""What packs and workers save of a whole study: wall time of `lorabench run STUDY` against `--pack off --workers 1`.

    python -m benchmarks.pack_studies --json FILE [--study PATH ...] [--set KEY=VALUE ...] [--rounds 1]

By default the quickstart and the studies of studies/paper that run on the 1M model. The two ways alternate, each with
results of its own; `ratio` is the median time with neither over that with both, `processor_ratio` the same in processor
seconds of all processes, which others disturb less. `packed` is how many cells trained in a pack, `evaluated`
how many were evaluated in one, `same` whether both ways ended with the same cells and outcomes, `apart` the largest
relative difference of a stored metric that is neither a clock nor a count of bytes.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from lorabench.record.result import CellResult
from lorabench.record.store import Store

ROOT = Path(__file__).parents[1]
WAYS = {"packed": ["--pack", "auto"], "off": ["--pack", "off", "--workers", "1"]}
UNEQUAL = r"_seconds$|_bytes$|^tokens_per_second$|^pack_"


def studies() -> list[Path]:
    """Those on the 1M model."""
    paths = [ROOT / "studies" / "quickstart.yaml", *sorted((ROOT / "studies" / "paper").glob("*.yaml"))]
    return [p for p in paths if yaml.safe_load(p.read_text()).get("model") == "lorabench/tiny-1m"]


def run(study: Path, out: Path, way: list[str], settings: list[str]) -> tuple[float, float]:
    """(seconds, processor seconds) of a run."""
    command = [sys.executable, "-m", "lorabench", "run", str(study), "--out", str(out), *way]
    command += [word for setting in settings for word in ("--set", setting)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def results(out: Path) -> dict[str, CellResult]:
    """By id."""
    return {r.cell.id: r for r in Store.open(out).results()}


def apart(one: dict[str, CellResult], other: dict[str, CellResult]) -> float:
    """The largest relative difference of two runs' metrics."""
    largest = 0.0
    for name in one.keys() & other.keys():
        for reading in one[name].readings:
            value = other[name].value(reading.metric)
            if not re.search(UNEQUAL, reading.metric) and value is not None and value != reading.value:
                largest = max(largest, abs(value - reading.value) / max(abs(value), abs(reading.value)))
    return largest


def compared(study: Path, settings: list[str], rounds: int) -> dict[str, Any]:
    """Both ways, alternating."""
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            for way, words in WAYS.items():
                taken[way].append(run(study, Path(scratch) / way, words, settings))
            found = {way: results(Path(scratch) / way) for way in WAYS}
    median = {way: [statistics.median(column) for column in zip(*rows, strict=True)] for way, rows in taken.items()}
    packed, off = found["packed"], found["off"]
    return {
        "study": study.stem,
        "set": settings,
        "cells": len(packed),
        "packed": sum(r.value("pack_cells") is not None for r in packed.values()),
        "evaluated": sum(r.value("pack_eval_seconds") is not None for r in packed.values()),
        "seconds": {way: seconds for way, (seconds, _) in median.items()},
        "ratio": median["off"][0] / median["packed"][0],
        "processor_ratio": median["off"][1] / median["packed"][1],
        "same": {i: r.outcome for i, r in packed.items()} == {i: r.outcome for i, r in off.items()},
        "apart": apart(packed, off),
    }


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--study", nargs="+", type=Path)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    found = []
    for study in options.study or studies():
        found.append(compared(study, options.settings, options.rounds))
        print(json.dumps(found[-1]), flush=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
