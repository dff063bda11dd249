"""Where a cell is: each phase as it begins, how far a long one is, and how long each took.

load, sample, train, prepare, evaluate, save, decompose, truncate, measure      a cell may enter one again; its seconds
add up
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from lorabench.engine.checkpoint import StepRecord
from lorabench.engine.events import Event, Phase

BETWEEN = 0.2  # seconds between two events of a phase's progress at least
METRICS: Mapping[Phase, str] = {
    "sample": "sample_seconds", "prepare": "prepare_seconds", "save": "save_seconds", "decompose": "decompose_seconds",
    "truncate": "truncate_seconds", "measure": "measure_seconds",
}  # fmt: skip  # the others are read from synchronised clocks by the cell itself


class PhaseClock:
    """The phases of one cell, told to its runner."""

    def __init__(self, cell: str, report: Callable[[Event], None]) -> None:
        self._cell, self._report = cell, report
        self._began = self._entered = time.perf_counter()
        self._phase: Phase | None = None
        self._total: int | None = None
        self._reported = 0.0
        self._seconds: dict[Phase, float] = {}
        self.step: int | None = None
        """the last optimizer step that was taken"""

    def enter(
        self, phase: Phase, total: int | None = None, ahead: Mapping[str, tuple[float, float]] | None = None
    ) -> None:
        """A phase begins, with so many units of work where that is known; the one before it has ended."""
        self._leave()
        self._phase, self._total, self._reported = phase, total, time.perf_counter()
        self._report(Event(self._cell, phase, total=total, ahead=ahead))

    def step_taken(self, step: StepRecord, steps: int, tokens: int) -> None:
        """An optimizer step of so many is done, with so many tokens seen until then."""
        self.step = step.step
        pace = tokens / step.seconds if step.seconds else None
        self._report(Event(self._cell, "train", step.step, steps, step.loss, pace))

    def record_step(self, done: int) -> None:
        """So many units of the phase are done; reported now and then."""
        now = time.perf_counter()
        if self._phase is not None and now - self._reported >= BETWEEN:
            self._reported = now
            self._report(
                Event(
                    self._cell,
                    self._phase,
                    done=done if self._total is None else min(done, self._total),
                    total=self._total,
                )
            )

    @contextmanager
    def rows(self, model: nn.Module) -> Iterator[None]:
        """Counts the rows that go through a model meanwhile as the phase's progress."""
        rows_done = 0

        def count(module: nn.Module, arguments: tuple[object, ...], named: dict[str, object]) -> None:
            nonlocal rows_done
            batch = next(
                (t for t in (*arguments, *named.values()) if isinstance(t, torch.Tensor) and t.ndim >= 2), None
            )
            self.record_step(rows_done)
            rows_done += len(batch) if batch is not None else 0

        hook = model.register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def seconds(self) -> dict[str, float]:
        """By metric: the phases that no other clock reads, and the whole cell until now."""
        self._leave()
        return {METRICS[p]: s for p, s in self._seconds.items() if p in METRICS} | {
            "cell_seconds": time.perf_counter() - self._began
        }

    def _leave(self) -> None:
        now = time.perf_counter()
        if self._phase is not None:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._entered
        self._entered, self._phase = now, None
