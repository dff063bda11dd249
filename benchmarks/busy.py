"""What another busy process on the machine costs a training step: threads that wait as lorabench's workers do, against
torch's default.

    python benchmarks/busy.py [--rounds 3] [--json FILE]

Each round runs benchmarks/overhead.py four times, with and without as many processes beside it as leave one core, which
do nothing but count; the median seconds of lorabench's step are compared. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from lorabench.runner.threads import COUNTS, usable_cores
from lorabench.startup import POLICIES, waiting

HERE = Path(__file__).parent
CLEAN = {k: v for k, v in os.environ.items() if k not in (*POLICIES, *COUNTS)}
WAYS = {
    "torch's default": CLEAN,
    "lorabench's workers": CLEAN | waiting(CLEAN) | {"OMP_NUM_THREADS": str(usable_cores())},
}


def seconds_per_step(environment: dict[str, str]) -> float:
    """The median of overhead.py's rounds for lorabench's loop."""
    command = [sys.executable, str(HERE / "overhead.py"), "--rounds", "1", "--steps", "6"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(ran.stdout)["seconds_per_step"]["lorabench"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    seen: dict[str, dict[str, list[float]]] = {place: {way: [] for way in WAYS} for place in ("quiet", "busy")}
    for _ in range(args.rounds):
        for place, ways in seen.items():
            neighbours = [
                subprocess.Popen([sys.executable, "-c", "while True: pass"])
                for _ in range(max(1, usable_cores() - 1))
                if place == "busy"
            ]
            try:
                for way, taken in ways.items():
                    taken.append(seconds_per_step(WAYS[way]))
            finally:
                for neighbour in neighbours:
                    neighbour.kill()
    median = {place: {way: statistics.median(taken) for way, taken in ways.items()} for place, ways in seen.items()}
    found = {
        "benchmark": "busy",
        "seconds_per_step": median,
        "default_over_lorabench": {
            place: round(by["torch's default"] / by["lorabench's workers"], 2) for place, by in median.items()
        },
        "all": seen,
        "cores": usable_cores(),
    }
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
