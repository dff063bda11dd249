"""What is recorded of a cell while it runs, from which there is a result wherever it ends."""

from __future__ import annotations

import contextlib
import shutil
import traceback

import torch

from lorabench.engine.cell_context import CellContext, PhaseRun, Returned, reading
from lorabench.engine.environment import environment
from lorabench.engine.faults import fault_of, outcome_of
from lorabench.engine.saved import START
from lorabench.record.cell_files import ADAPTER, MODEL, TRAINED, write_trained
from lorabench.record.metrics import read_in
from lorabench.record.result import CellResult, Fault, Outcome, Phase, Reading, Resolved

_NOT_OF_A_CUT = (
    "forgetting",
    "validation_loss",
    "learned_bits_per_parameter",
    "eval_peak_bytes",
    "eval_reserved_bytes",
)

_NOTHING = contextlib.nullcontext()


class CellRecord:
    """The readings and faults of one cell; nothing that was recorded is taken back.

    Of a cell whose phases are repeated, `before` is its result so far: what other phases read stays.
    """

    def __init__(self, context: CellContext, before: CellResult | None = None) -> None:
        self._context, self._before = context, before
        self._phase: Phase = "load"
        self._resolved: Resolved | None = None
        self._faults: list[Fault] = []
        self.readings: list[Reading] = []
        if before is not None:
            self.readings = [r for r in before.readings if not self._is_recorded(r.metric)]
            self._faults = [f for f in before.faults if f.phase not in context.phases]
            self._resolved = before.resolved

    def run(self, phase: Phase, under_way: PhaseRun[Returned]) -> Returned:
        """Runs a phase to its end, recording what it yields; returns what it returns."""
        self._phase = phase
        while True:
            try:
                item = next(under_way)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # of a generator that returns it
            if isinstance(item, Resolved):
                self._resolved = item
            elif self._is_recorded(item.metric):
                self.readings.append(item)

    def run_analysis(
        self,
        phase: Phase,
        under_way: PhaseRun[None],
        on_fault: contextlib.AbstractContextManager[None] = _NOTHING,
    ) -> None:
        """Runs a phase after the evaluation, within `on_fault`: its fault is recorded, and the cell has finished all
        the same.
        """
        try:
            with on_fault:
                self.run(phase, under_way)
        except Exception as e:  # whatever it is: the fault stands in the result, its traceback in the log
            traceback.print_exc()
            self._faults.append(fault_of(e, phase))
            traceback.clear_frames(e.__traceback__)  # they hold tensors that the next phase has no room for

    def scores(self) -> list[Reading]:
        """What the evaluation measured of the model as it was trained, which cuts of it are held against."""
        return [
            r
            for r in self.readings
            if self._read_in(r.metric) == "evaluate"
            and r.metric not in _NOT_OF_A_CUT
            and not r.metric.endswith("_seconds")
        ]

    def write_trained(self) -> None:
        """Keeps what was read until the end of training: only a death in the evaluation asks for it."""
        if self._context.cell.training.steps:
            with contextlib.suppress(OSError):  # a full disk
                write_trained(self._context.folder, self._result("failed"))

    def finished(self) -> CellResult:
        """The result of a cell that went through."""
        self._end()
        return self._result("finished")

    def ended_by(self, error: Exception) -> CellResult:
        """The result of a cell that an error ended, with everything that was read until then; a finished one that was
        repeated stays finished.
        """
        outcome = outcome_of(error)
        if outcome != "diverged":
            traceback.print_exception(error)
        phase = (
            self._phase if self._before is None else self._context.phases[0]
        )  # what cannot be repeated is not to be trained anew
        at = getattr(error, "step", None) if outcome == "diverged" else None
        fault = fault_of(error, phase, self._context.clock.step if at is None and phase == "train" else at)
        if outcome == "diverged":  # its weights are of no use
            for name in (ADAPTER, MODEL):
                shutil.rmtree(self._context.folder / name, ignore_errors=True)
        traceback.clear_frames(
            error.__traceback__
        )  # they hold the model, which the next cell of this worker has no room for
        self._end()
        if self._before is not None and self._before.outcome == "finished":
            others = (f for f in self._before.faults if f.phase != phase)
            return self._before.model_copy(update={"faults": (*others, fault)})
        return self._result(outcome, fault)

    def _end(self) -> None:
        for metric, seconds in self._context.clock.seconds().items():
            if self._is_recorded(metric):
                self.readings += reading(metric, seconds)
        shutil.rmtree(self._context.folder / START, ignore_errors=True)
        (self._context.folder / TRAINED).unlink(missing_ok=True)
        if self._context.device.type == "cuda":
            with contextlib.suppress(RuntimeError):  # after some faults the device answers nothing any more
                torch.cuda.empty_cache()

    def _result(self, outcome: Outcome, error: Fault | None = None) -> CellResult:
        return CellResult(
            cell=self._context.cell,
            outcome=outcome,
            resolved=self._resolved,
            readings=tuple(self.readings),
            environment=environment(self._context.device),
            started_at=self._context.started_at,
            error=error,
            faults=tuple(self._faults),
        )

    def _is_recorded(self, metric: str) -> bool:
        return self._before is None or self._read_in(metric) in self._context.phases

    def _read_in(self, metric: str) -> str:
        return read_in(metric, on_cpu=self._context.device.type != "cuda")
