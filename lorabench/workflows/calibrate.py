"""Measures the user's own card: some short trainings beside what was predicted for them, stored for later predictions.

The trainings run in a process of their own (memory.calibration_rows). This process watches the card's free memory,

    CUDA context = free before that process began - free now - what its allocator has reserved

so that what other processes hold cancels out; the median over the rows is taken, since those may come and go.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

from lorabench import startup
from lorabench.errors import LorabenchError
from lorabench.formatting import plural
from lorabench.record.card_calibration import (
    CalibrationRow,
    CardCalibration,
    calibrations_folder,
    file_name,
    installed_versions,
    write_calibration,
)

if TYPE_CHECKING:
    import torch

MODULE = "lorabench.memory.calibration_rows"
LAST_START = 100  # seconds after which no further row begins: the whole is to stay below two minutes
ROW_SECONDS = 180  # a first row imports torch, transformers and PEFT, from a slow disk too


def calibrate(
    gpu: str, out: Path | None = None, report: Callable[[CalibrationRow], None] = lambda row: None
) -> tuple[CardCalibration, Path]:
    """Measures a card by its number, or the CPU, and stores what was found; returns it with its file.

    `report` gets each row as it is measured. LorabenchError where there is no such card, no row could be measured, or
    the file cannot be written.
    """
    number = _number(gpu)
    import torch

    where = torch.device("cpu") if number is None else torch.device("cuda", number)
    from lorabench.memory.calibration_rows import calibration_rows, predicted
    from lorabench.memory.predict_cell import capability, computes_in_bfloat16, total_bytes

    with closing(MeasuringProcess(where)) as process:  # its imports take as long as these predictions
        rows = [predicted(row, where) for row in calibration_rows(where.type)]  # type: ignore[arg-type]  # cuda or cpu
        answered = _measured(rows, process, report)
    if all(row.measured_bytes is None for row in answered):
        raise LorabenchError(
            f"none of {plural(len(answered), 'row')} could be measured ({answered[0].fault}); see: lorabench doctor"
        )
    on_cpu = where.type == "cpu"
    card = CardCalibration(
        card="cpu" if on_cpu else torch.cuda.get_device_name(where),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        packages=installed_versions(),
        memory_bytes=total_bytes(where),
        bf16=computes_in_bfloat16(where),
        capability=capability(where),
        cores=torch.get_num_threads() if on_cpu else None,
        context_bytes=process.context_bytes,
        workspace_bytes=process.workspace_bytes,
        rows=tuple(answered),
    )
    path = out or calibrations_folder() / file_name(card.card)
    write_calibration(card, path)
    return card, path


def _number(gpu: str) -> int | None:
    """The number of a card that is here; None for the CPU."""
    text = gpu.strip().lower()
    if text == "cpu":
        return None
    import torch

    count = torch.cuda.device_count()
    here = "cpu" if count == 0 else "0 or cpu" if count == 1 else f"0 to {count - 1}, or cpu"
    if not text.isdecimal():
        raise LorabenchError(
            f"gpu '{gpu}' is not a number; calibrate measures a card of this machine, by its number as lorabench doctor"
            f" lists it: {here}"
        )
    if int(text) >= count:
        what = "no CUDA card is visible here" if count == 0 else f"{plural(count, 'CUDA card')} here"
        raise LorabenchError(f"there is no gpu {gpu} ({what}); allowed: {here}")
    return int(text)


def _measured(
    rows: list[CalibrationRow], process: MeasuringProcess, report: Callable[[CalibrationRow], None]
) -> list[CalibrationRow]:
    began, answered = time.monotonic(), []
    for row in rows:
        if time.monotonic() - began > LAST_START:
            answered.append(row.model_copy(update={"fault": "left out: not enough time"}))
        else:
            answered.append(process.measure(row))
        report(answered[-1])
    return answered


@dataclass
class MeasuringProcess:
    """The process that trains, begun anew where it has died; a context to be closed."""

    where: torch.device

    def __post_init__(self) -> None:
        self._contexts: list[int] = []
        self._workspaces: list[int] = []
        self._free_before = self._free()
        self._begin()

    @property
    def context_bytes(self) -> int | None:
        """The CUDA context; None on a CPU."""
        contexts = [n for n in self._contexts if n > 0]
        return round(statistics.median(contexts)) if contexts else None

    @property
    def workspace_bytes(self) -> int | None:
        """What the allocator held without a model; None on a CPU."""
        return min(self._workspaces) if self._workspaces else None

    def measure(self, row: CalibrationRow) -> CalibrationRow:
        """A row as the process answered; with a fault where it died or gave no answer."""
        if self._process.poll() is not None:
            self.close()
            self._begin()
        assert self._process.stdin is not None and self._process.stdout is not None
        timer = Timer(ROW_SECONDS, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(row.model_dump_json() + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            return row.model_copy(update={"fault": self._death()})
        answer: dict[str, Any] = json.loads(line)
        measured = CalibrationRow.model_validate(answer["row"])
        if self.where.type == "cuda" and measured.fault is None:
            self._contexts.append(self._free_before - self._free() - int(answer["reserved_bytes"]))
            self._workspaces.append(int(answer["allocated_bytes"]))
        return measured

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        self._log.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # a line that a dead process never read
                    stream.close()

    def _begin(self) -> None:
        package = str(Path(__file__).resolve().parents[2])
        visible = ""
        if self.where.type == "cuda":  # its only card: transformers' Trainer splits a batch over all that it sees
            own = [c for c in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if c.strip()]
            number = self.where.index or 0
            visible = own[number] if own else str(number)
        environment = {
            **os.environ,
            **startup.waiting(os.environ),
            "PYTHONPATH": os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), package) if p),
            "PYTHONSAFEPATH": "1",
            "CUDA_VISIBLE_DEVICES": visible,
            "TORCHDYNAMO_DISABLE": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  (until close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE, self.where.type],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
            encoding="utf-8",
        )

    def _death(self) -> str:
        """How the process ended, with the last that it said."""
        code = self._process.wait()
        self._log.seek(0)
        last = next((line.strip() for line in reversed(self._log.readlines()) if line.strip()), "nothing was said")
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"the process that measures {how} ({last[:200]})"

    def _free(self) -> int:
        import torch

        return int(torch.cuda.mem_get_info(self.where)[0]) if self.where.type == "cuda" else 0
