"""What a run tells of itself.

`Tally` keeps the numbers (cells done, where each is, time left by runner.timing); the two displays (runner.display,
runner.live_display) draw them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lorabench.formatting import duration, plural
from lorabench.record.metrics import metric
from lorabench.runner.phase_seconds import Measured, stored
from lorabench.runner.timing import Running, TimeEstimator

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event
    from lorabench.record.result import CellResult
    from lorabench.runner.plan import Plan

SHARE = 0.05  # of a run's time at most, that working out the time left may take where it takes ...
NOTABLE = 0.005  # ... so many seconds: about 1,000 cells
UNKNOWN = "time left not known yet"
DOING = {
    "foresee": "predicting its memory",
    "load": "loading",
    "sample": "sampling the base's text",
    "train": "training",
    "prepare": "preparing lm-eval",
    "evaluate": "evaluating",
    "save": "saving",
    "decompose": "decomposing",
    "truncate": "evaluating lower ranks",
    "measure": "measuring memory",
}
UNITS = {"sample": "tokens", "evaluate": "rows", "decompose": "modules", "truncate": "rows"}

AFTERWARDS = {
    "evaluate": "evaluation",
    "decompose": "decomposition",
    "truncate": "evaluation of lower ranks",
    "measure": "memory measurement",
}


class Progress(Protocol):
    """What a runner tells a display; calls come from several threads."""

    def begin(self, plan: Plan, workers: int = 1) -> None:
        """A run begins; called first, once."""

    def start(self, cell: Cell) -> None:
        """A worker takes a cell."""

    def event(self, event: Event) -> None:
        """A running cell reports its phase or its step."""

    def end(self, cell: Cell, result: CellResult, seconds: float) -> None:
        """A cell has ended, well or not, after so many seconds."""

    def postpone(self, cell: Cell, result: CellResult) -> None:
        """A cell lacked memory beside others, by this result, and runs by itself when they are done."""

    def skip(self, cell: Cell) -> None:
        """Another runner has finished a pending cell."""

    def wait(self, cells: int) -> None:
        """All cells that are left, so many, are with other runners."""

    def close(self) -> None:
        """The run is over or was stopped; called last, once."""


@dataclass
class Tally:
    """The numbers of a run."""

    plan: Plan
    done: int
    left: dict[str, Cell]
    """cells that nobody has begun, by id, in their order"""
    workers: int = 1
    estimator: TimeEstimator = field(default_factory=TimeEstimator)
    running: dict[str, Running] = field(default_factory=dict)
    _told: tuple[float, float, tuple[float, bool] | None] = (-math.inf, 0.0, None)
    """when the time left was last worked out, the seconds that took, and what it was"""

    @classmethod
    def of(cls, plan: Plan, workers: int) -> Tally:
        """At the beginning of a run, with what earlier ones measured in its store."""
        return cls(plan, plan.done, {c.id: c for c in plan.pending}, workers, TimeEstimator(_measured(plan)))

    def start(self, cell: Cell) -> Running:
        """Counts a cell as running."""
        self.left.pop(cell.id, None)
        taken = (now.number for now in self.running.values())  # one of them may have been postponed
        number, now = max(self.done + len(self.running), *taken, 0) + 1, time.monotonic()
        self.running[cell.id] = Running(
            number, self.plan.words[cell.id], cell, now, phase_from=now, new_base=self.estimator.begin(cell)
        )
        self.workers = max(self.workers, len(self.running))
        return self.running[cell.id]

    def see(self, event: Event) -> tuple[Running | None, bool]:
        """The cell that an event is of, and whether it begins a phase."""
        now = self.running.get(event.cell)
        return now, now is not None and now.see(event, time.monotonic())

    def end(self, cell: Cell, seconds: float, finished: bool = True) -> Running:
        """Counts a running cell as done; only a finished one's seconds tell how long others take."""
        self.done += 1
        now = self.running.pop(cell.id)
        if finished:
            self.estimator.finished(now, seconds, time.monotonic())
        return now

    def postpone(self, cell: Cell) -> Running:
        """Counts a running cell among those that nobody has begun."""
        self.left[cell.id] = cell
        return self.running.pop(cell.id)

    def skip(self, cell: Cell) -> None:
        """Counts a pending cell as done by another runner."""
        self.left.pop(cell.id, None)
        self.done += 1

    def time_left(self) -> str:
        """ "about 3 min left", of all phases of all cells; "more than" where one of them cannot be told. See
        runner.timing."""
        if not self.left and not self.running:
            return ""
        workers, now = min(self.workers, len(self.left) + len(self.running)), time.monotonic()
        when, took, remaining = self._told
        since = now - when
        if took > NOTABLE and since * SHARE < took and remaining is not None:
            remaining = remaining[0] - since, remaining[1]
        else:
            remaining = self.estimator.left(tuple(self.running.values()), tuple(self.left.values()), workers, now)
            self._told = now, time.monotonic() - now, remaining
        if remaining is None:
            return UNKNOWN
        seconds, whole = remaining
        return f"{'about' if whole else 'more than'} {duration(max(1.0, seconds))} left"


def _measured(plan: Plan) -> list[Measured]:
    """What the cells that have a result took."""
    pending = {c.id for c in plan.pending}
    results = (plan.results.get(c.id) for c in plan.cells if c.id not in pending)
    return [measured for result in results if result is not None and (measured := stored(result)) is not None]


def headline(plan: Plan, workers: int = 1) -> str:
    """What is to be done, in one line."""
    counts = f"{plural(len(plan.cells), 'cell')}, {plan.done} done, {len(plan.pending)} to run"
    counts += f", {workers} at a time" if workers > 1 else ""
    return f"study {plan.study.name}: {counts}, results in {plan.store.folder}"


def state(now: Running) -> str:
    """ "training step 30 of 150, loss 1.412, 5,230 tokens/s", of a pack "..., 8 cells at once";
    "decomposing, 12 of 210 modules (evaluating took 8.1 s)" """
    last = now.last
    if last is None or now.phase not in DOING:
        return "starting"
    former = now.former if now.former in DOING else None
    took = f" ({DOING[former]} took {duration(now.took[former])})" if former else ""
    if last.step and last.steps:
        parts = [f"{DOING['train']} step {last.step} of {last.steps}"]
        parts += [f"loss {now.loss:.3f}"] if now.loss is not None else []
        parts += [f"{last.tokens_per_second:,.0f} tokens/s"] if last.tokens_per_second else []
        parts += [f"{len(now.pack)} cells at once"] if now.pack else []
        return ", ".join(parts) + took
    words = DOING[now.phase]
    if last.total and now.phase in UNITS:
        words += f", {f'{last.done:,} of ' if last.done else ''}{last.total:,} {UNITS[now.phase]}"
    return words + took


def postponed(result: CellResult) -> str:
    """Why a cell runs by itself in the end."""
    why = result.error.message if result.error else "not enough memory beside other cells"
    return f"{why}; it runs by itself when the others are done"


def verdict(result: CellResult, seconds: float) -> str:
    """ "finished in 21 s, held-out loss 1.293", or why not"""
    words = {
        "finished": "finished",
        "diverged": "DIVERGED",
        "out_of_memory": "OUT OF MEMORY",
        "failed": "FAILED",
        "skipped": "SKIPPED",
    }[result.outcome]
    text = (
        words
        if result.outcome == "skipped"
        else f"{words} {'in' if result.outcome == 'finished' else 'after'} {duration(seconds)}"
    )
    loss = result.value("eval_loss")
    if loss is not None:
        text += f", held-out loss {loss:.3f}"
    right = next((r for r in result.readings if r.metric in ("accuracy", "exact_match")), None)
    if right is not None:
        text += f", {metric(right.metric).label} {100 * right.value:.1f} %"
    for fault in result.faults:
        text += f"; {AFTERWARDS[fault.phase or 'measure']} failed: {fault.message}"
    if result.error and result.error.phase == "evaluate":
        text += " in evaluation (its weights are kept)" if result.outcome != "diverged" else " in evaluation"
    return text + (f": {result.error.message}" if result.error else "")
