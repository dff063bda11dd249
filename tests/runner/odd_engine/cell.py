"""run_cell of the odd engine; a line in $ODD_LOG for every cell that begins tells how often each was run."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from lorabench.engine.events import Event
from lorabench.record.result import CellResult, Fault, Reading


def run_cell(cell, folder, report):
    seed = cell.seed
    with open(os.environ["ODD_LOG"], "a") as log:
        log.write(
            f"{cell.id} {seed} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')} {os.environ.get('OMP_WAIT_POLICY')}\n"
        )
    report(Event(cell.id, "load"))
    if seed == 159 or (seed == 158 and _times_begun(cell) == 1):
        fault = Fault(kind="OutOfMemoryError", message="the card is full")
        return CellResult(cell=cell, outcome="out_of_memory", error=fault, started_at="2026-01-01")
    steps, pause = (20, 0.01) if seed < 200 else ((seed - 200) * 20, 0.05)
    for step in range(1, steps + 1):
        time.sleep(pause)
        report(Event(cell.id, "train", step, steps, 2.0 / step, 1000.0))
        if step == 7:
            _misbehave(seed)
    if 111 <= seed < 120:
        (folder / "large").write_bytes(bytes(300_000))
    (folder / "curve.csv").write_text("step,loss\n1,2.0\n")
    reading = Reading(metric="eval_loss", value=1.0 + seed / 1000)
    return CellResult(cell=cell, outcome="finished", readings=(reading,), started_at="2026-01-01")


def _times_begun(cell):
    with open(os.environ["ODD_LOG"]) as log:
        return sum(line.startswith(cell.id) for line in log)


def repeat_cell(cell, folder, before, phases, report):
    raise NotImplementedError("the odd engine saves no weights")


def _misbehave(seed):
    if seed == 100:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 101:
        print("last words", flush=True)
        os._exit(3)
    if seed == 102:
        print('{"result": "from python"}', end="")
        print("to standard error", file=sys.stderr)
        os.write(1, b'{"result": 1}\n\xff\xfe')
        os.system("echo from a child of ours; echo and its errors >&2")
    if seed == 103:
        ctypes.string_at(0)
    if seed == 104:
        sys.exit(5)
    if seed == 105:
        raise RuntimeError("the library\nis at fault")
    if seed == 108:
        while True:
            time.sleep(1)
    if seed == 109:
        os.kill(os.getpid(), signal.SIGSTOP)
    if seed == 110:
        taken = []
        while True:
            taken.append(b"x" * 2**20)
