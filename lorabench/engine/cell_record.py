"""What is kept of a cell while it runs: its readings and faults, from which there is a result wherever it ends."""

from __future__ import annotations

import contextlib
import csv
import math
import shutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from lorabench.config.study import Cell
from lorabench.engine.data import Example
from lorabench.engine.distill import Teacher
from lorabench.engine.environment import environment
from lorabench.engine.evaluate import Losses
from lorabench.engine.events import Event
from lorabench.engine.lm_eval_runner import LmEvalRunner
from lorabench.engine.model import device, logical_numel, resolve_autocast
from lorabench.engine.phases import Phases
from lorabench.engine.saved import save_model
from lorabench.engine.train import Diverged, Step
from lorabench.engine.weight_deltas import Factors
from lorabench.errors import LorabenchError
from lorabench.record.cell_files import ADAPTER, MODEL, TRAINED
from lorabench.record.metrics import read_in
from lorabench.record.result import CellResult, Fault, Outcome, Phase, Reading, Resolved

Report = Callable[[Event], None]
_NOT_OF_A_CUT = (
    "forgetting",
    "validation_loss",
    "learned_bits_per_parameter",
    "eval_seconds",
    "eval_peak_bytes",
    "eval_reserved_bytes",
)


@dataclass(frozen=True)
class Adapted:
    """A model with its method attached, and what is needed to say later what it learned."""

    model: Any
    start: Factors
    tokenizer: Any
    targets: tuple[str, ...]


class CellRecord:
    """The state of one cell while it runs; what was read before a fault is kept."""

    def __init__(self, cell: Cell, folder: Path, report: Report, started_at: str) -> None:
        self.cell, self.folder, self.report, self.started_at = cell, folder, report, started_at
        self.phases = Phases(cell.id, report)
        self.device = device()
        self.autocast = resolve_autocast(cell.training, self.device)
        if self.device.type == "cuda":
            torch.use_deterministic_algorithms(True, warn_only=True)  # same seed, same machine: same numbers
        self.readings: list[Reading] = []
        self.curve: list[Step] = []
        self.resolved: Resolved | None = None
        self.step: int | None = None
        self.domain: tuple[Example, ...] = ()
        self.domain_loss: Losses | None = None
        self.accuracy: list[Reading] = []
        self.adapted: Adapted
        self.teacher: Teacher | None = None
        self.phase: Phase = "load"
        self.faults: list[Fault] = []
        self.before: CellResult | None = None
        """the result that phases are repeated of"""
        self.repeated: tuple[Phase, ...] = ()
        self.lm_eval_runner: LmEvalRunner | None = None

    def take(self, before: CellResult, phases: Sequence[Phase]) -> None:
        """Goes on from a former result: what was read in phases that are not repeated stays."""
        self.before, self.repeated = before, tuple(phases)
        self.readings = [r for r in before.readings if self._phase_of(r.metric) not in phases]
        self.accuracy = [
            r for r in self.readings if self._phase_of(r.metric) == "evaluate" and r.metric not in _NOT_OF_A_CUT
        ]
        self.faults = [f for f in before.faults if f.phase not in phases]
        self.resolved = before.resolved

    def _keep_weights(self) -> None:
        """Writes a fully fine-tuned model where nothing else of it would be left: a phase that failed can then be repeated."""
        if "adapted" not in self.__dict__:
            return
        with contextlib.suppress(Exception):  # no room on the disk either: the fault that led here is the one to tell
            if (
                self.cell.training.steps
                and not hasattr(self.adapted.model, "peft_config")
                and not (self.folder / MODEL).is_dir()
            ):
                save_model(self.adapted.model, self.adapted.tokenizer, self.folder)

    def _write_curve(self) -> None:
        if self.curve:
            with (self.folder / "curve.csv").open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                writer.writerow(f.name for f in fields(Step))
                writer.writerows(astuple(s) for s in self.curve)

    def ended(self, outcome: Outcome, error: BaseException | None = None, step: int | None = None) -> CellResult:
        """The result, with everything that was read until now; weights stay where a phase is to be repeated from them."""
        for metric, seconds in self.phases.seconds().items():
            if self.before is None or self._phase_of(metric) in self.repeated:
                self.read(metric, seconds)
        shutil.rmtree(self.folder / "start", ignore_errors=True)
        self._write_curve()
        fault = None
        if error is not None:
            phase = (
                self.phase if self.before is None else self.repeated[0]
            )  # what cannot be repeated is not to be trained anew
            fault = Fault(
                kind=type(error).__name__,
                message=sentence(error),
                step=step if step is not None or phase != "train" else self.step,
                phase=phase,
            )
            if phase == "evaluate" and outcome != "diverged":
                self._keep_weights()
        if outcome == "diverged":  # its weights are of no use
            shutil.rmtree(self.folder / ADAPTER, ignore_errors=True)
            shutil.rmtree(self.folder / MODEL, ignore_errors=True)
        self.__dict__.pop("adapted", None)  # frees the model before the next cell of this worker
        if error is not None and error.__traceback__ is not None:
            traceback.clear_frames(error.__traceback__)  # they hold the model, too
        if self.device.type == "cuda":
            with contextlib.suppress(RuntimeError):  # after some faults the device answers nothing any more
                torch.cuda.empty_cache()
        (self.folder / TRAINED).unlink(missing_ok=True)
        if (
            fault is not None and self.before is not None and self.before.outcome == "finished"
        ):  # the former result stands
            others = (f for f in self.before.faults if f.phase != fault.phase)
            return self.before.model_copy(update={"faults": (*others, fault)})
        return self.result(outcome, fault)

    def result(self, outcome: Outcome, error: Fault | None = None) -> CellResult:
        """As it is now."""
        return CellResult(
            cell=self.cell,
            outcome=outcome,
            resolved=self.resolved,
            readings=tuple(self.readings),
            environment=environment(self.device),
            started_at=self.started_at,
            error=error,
            faults=tuple(self.faults),
        )

    def read(self, metric: str, value: float) -> None:
        if math.isfinite(value):
            self.readings.append(Reading(metric=metric, value=value))

    def _phase_of(self, metric: str) -> str:
        return read_in(metric, on_cpu=self.device.type != "cuda")

    def _count(self, model: Any) -> None:
        total = sum(logical_numel(p) for p in model.parameters())
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.read("total_parameters", total)
        self.read("trainable_parameters", trainable)
        self.read("trainable_percent", 100 * trainable / total)


def sentence(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, LorabenchError | Diverged):
        return text
    return text[:500] or type(error).__name__
