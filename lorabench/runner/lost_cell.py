"""What is recorded of a cell whose worker process came to its end. Imports nothing heavy until a cell is lost."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event
    from lorabench.record.result import CellResult, Outcome


OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")  # kinds of faults


def failed(cell: Cell, folder: Path, started: float, last_event: Event | None, kind: str, message: str) -> CellResult:
    """The result of a cell whose worker came to its end: what training read and saved is not lost."""
    from datetime import UTC, datetime

    from lorabench.record.cell_files import TRAINED, read_trained
    from lorabench.record.result import CellResult, Fault

    phase = last_event.phase if last_event else None
    outcome: Outcome = "out_of_memory" if kind in OUT_OF_MEMORY else "failed"
    fault = Fault(kind=kind, message=message, step=last_event.step if last_event else None, phase=phase)
    if phase not in (None, "foresee", "load", "train") and (trained := read_trained(folder)) is not None:
        (folder / TRAINED).unlink()
        return trained.model_copy(update={"error": fault.model_copy(update={"phase": "evaluate"}), "outcome": outcome})
    return CellResult(
        cell=cell,
        outcome=outcome,
        started_at=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        error=fault,
    )


def lacked_memory(result: CellResult) -> bool:
    """Whether memory ended a cell or a part of it, or may have: the system's killer is not always told from others."""
    kinds = {f.kind for f in (result.error, *result.faults) if f is not None}
    return result.outcome in ("out_of_memory", "skipped") or not kinds.isdisjoint(
        (*OUT_OF_MEMORY, end_kind(-signal.SIGKILL))
    )


def end_kind(code: int) -> str:
    """What is recorded as the kind of a fault that ended a process, by its exit code."""
    return f"killed by signal {-code} ({signal_name(-code)})" if code < 0 else f"exit code {code}"


def end_words(code: int) -> str:
    """How a process ended, by its exit code."""
    return f"was killed by signal {-code} ({signal_name(-code)})" if code < 0 else f"ended with exit code {code}"


def signal_name(number: int) -> str:
    """SIGKILL, SIGSEGV, ..."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unnamed"


def phase_words(last_event: Event | None) -> str:
    """Where a cell was when its worker ended."""
    if last_event is None:
        return " before the model was loaded"
    return f" in the phase '{last_event.phase}'" + (f" after step {last_event.step}" if last_event.step else "")
