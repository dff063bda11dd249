"""What ends a phase of a cell, as it is recorded: foreseen faults in their own sentence, all others as the bugs that
they are.
"""

from __future__ import annotations

from safetensors import SafetensorError

from lorabench.engine.measure import is_out_of_memory
from lorabench.engine.train import Diverged
from lorabench.errors import LorabenchError
from lorabench.formatting import error_line
from lorabench.record.result import Fault, Outcome, Phase

FORESEEN = (
    LorabenchError,
    Diverged,
    MemoryError,
    OSError,  # a full disk, no network (the hub's errors are of this kind, too)
    RuntimeError,  # torch: memory, a kernel that a device lacks, a decomposition that does not converge
    SafetensorError,
)
"""what a cell may meet without anybody's mistake in the code"""


def outcome_of(error: Exception) -> Outcome:
    """How a cell ends that an error ended."""
    if isinstance(error, Diverged):
        return "diverged"
    return "out_of_memory" if is_out_of_memory(error) else "failed"


def fault_of(error: Exception, phase: Phase, step: int | None = None) -> Fault:
    """An error as it is recorded; one that is not foreseen says so, and where its traceback lies."""
    text = error_line(error, None if isinstance(error, LorabenchError | Diverged) else 500)
    if not isinstance(error, FORESEEN):
        text = (
            f"{type(error).__name__}: {text} (unexpected: a bug in lorabench or a library; see the "
            "traceback in the cell's log.txt)"
        )
    return Fault(kind=type(error).__name__, message=text, step=step, phase=phase)
