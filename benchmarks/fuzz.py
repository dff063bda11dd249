"""Thousands of nearly right inputs for every door of lorabench (tests/fuzz says which, and what must not happen).

    python -m benchmarks.fuzz [--inputs 100000] [--seed 0] [--only TARGET ...]

Prints a line for each target: inputs, seconds, and the least input that did harm, if one did; exit code 1 then. The
same seed gives the same inputs. Inputs are shared out by what they cost: a target that takes longer gets fewer.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

for _name, _value in (("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
    os.environ.setdefault(_name, _value)
MOST_BYTES = 16 * 2**30  # of addresses: an input that asks for more is a fault (torch alone takes some 6 GB)
SHARES = {"gguf": 6, "archive": 5, "import-peft": 4, "pickle": 4, "command": 1, "record": 1, "model": 2}
USUAL = 2


def main() -> int:
    from lorabench import plugins

    plugins.register("executors", "synthetic", "tests.synthetic")
    from tests.fuzz.hunt import hunt
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(TARGETS), choices=list(TARGETS))
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    whole = sum(SHARES.get(name, USUAL) for name in options.only)
    total, harm, began = 0, 0, time.monotonic()
    for name in options.only:
        inputs, start = max(1, options.inputs * SHARES.get(name, USUAL) // whole), time.monotonic()
        with tempfile.TemporaryDirectory(prefix="lorabench-fuzz-") as folder:
            try:
                ran = hunt(name, Path(folder) / "in", inputs, options.seed)
                print(f"{name:<16} {ran:>7,} inputs {time.monotonic() - start:>7.0f} s", flush=True)
            except BaseException as e:
                if isinstance(e, KeyboardInterrupt):
                    raise
                ran, harm = 0, harm + 1
                last = "".join(traceback.format_exception(e, limit=-4))
                print(f"{name:<16} HARM after {time.monotonic() - start:.0f} s\n{last}", flush=True)
        total += ran
    print(f"{total:,} inputs in {time.monotonic() - began:,.0f} s, seed {options.seed}; harm in {harm} targets")
    return 1 if harm else 0


if __name__ == "__main__":
    sys.exit(main())
