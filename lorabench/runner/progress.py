"""What a run shows: a live display on a terminal, plain lines elsewhere.

`Tally` keeps the numbers (cells done, where each is, time left by runner.timing); the two displays draw them.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TextIO

from lorabench.errors import StoreError
from lorabench.record.metrics import metric
from lorabench.runner.timing import LONG, Clockwork, Measured, Running, stored

if TYPE_CHECKING:
    from lorabench.engine.events import Event
    from lorabench.record.result import CellResult
    from lorabench.runner.plan import Plan
    from lorabench.spec.study import Cell

LINE_SECONDS = 10.0  # between two plain lines of a cell at least, or ...
LINE_SHARE = 0.1  # ... this share of its steps
UNKNOWN = "time left not known yet"
DOING = {
    "foresee": "predicting its memory", "load": "loading", "sample": "sampling the base's text", "train": "training", "prepare": "preparing lm-eval", "evaluate": "evaluating",
    "save": "saving", "decompose": "decomposing", "truncate": "evaluating lower ranks", "measure": "measuring memory",
}  # fmt: skip
UNITS = {"sample": "tokens", "evaluate": "rows", "decompose": "modules", "truncate": "rows"}

AFTERWARDS = {"evaluate": "evaluation", "decompose": "decomposition", "truncate": "evaluation of lower ranks", "measure": "memory measurement"}


class Progress(Protocol):
    """What a runner tells a display; calls come from several threads."""

    def begin(self, plan: Plan, workers: int = 1) -> None: ...
    def start(self, cell: Cell) -> None: ...
    def event(self, event: Event) -> None: ...
    def end(self, cell: Cell, result: CellResult, seconds: float) -> None: ...
    def skip(self, cell: Cell) -> None: ...
    def wait(self, cells: int) -> None: ...
    def close(self) -> None: ...


def open_progress(stream: TextIO | None = None) -> Progress:
    """The live display on a terminal that can redraw, plain lines otherwise."""
    stream = stream or sys.stdout
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from lorabench.runner.live import Live  # rich: ~150 ms

        return Live(stream)
    return Lines(stream)


@dataclass
class Tally:
    """The numbers of a run."""

    plan: Plan
    done: int
    left: list[Cell]
    workers: int = 1
    clockwork: Clockwork = field(default_factory=Clockwork)
    running: dict[str, Running] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, workers: int) -> Tally:
        """At the beginning of a run, with what earlier ones measured in its store."""
        return cls(plan, plan.done, list(plan.pending), workers, Clockwork(_measured(plan)))

    def start(self, cell: Cell) -> Running:
        self.left = [c for c in self.left if c.id != cell.id]
        taken, now = self.done + len(self.running) + 1, time.monotonic()
        self.running[cell.id] = Running(taken, self.plan.words[cell.id], cell, now, phase_from=now, new_base=self.clockwork.begin(cell))
        self.workers = max(self.workers, len(self.running))
        return self.running[cell.id]

    def see(self, event: Event) -> tuple[Running | None, bool]:
        """The cell that an event is of, and whether it begins a phase."""
        now = self.running.get(event.cell)
        return now, now is not None and now.see(event, time.monotonic())

    def end(self, cell: Cell, seconds: float, finished: bool = True) -> Running:
        self.done += 1
        now = self.running.pop(cell.id)
        if finished:
            self.clockwork.finished(now, seconds, time.monotonic())
        return now

    def skip(self, cell: Cell) -> None:
        self.left = [c for c in self.left if c.id != cell.id]
        self.done += 1

    def time_left(self) -> str:
        """ "about 3 min left", of all phases of all cells; "more than" where one of them cannot be told. See runner.timing."""
        if not self.left and not self.running:
            return ""
        workers = min(self.workers, len(self.left) + len(self.running))
        found = self.clockwork.left(tuple(self.running.values()), self.left, workers, time.monotonic())
        if found is None:
            return UNKNOWN
        seconds, whole = found
        return f"{'about' if whole else 'more than'} {duration(max(1.0, seconds))} left"


def _measured(plan: Plan) -> list[Measured]:
    """What the cells that have a result took."""
    pending, found = {c.id for c in plan.pending}, []
    for cell in plan.cells:
        with suppress(StoreError, OSError):
            result = plan.store.get(cell.id, cell) if cell.id not in pending else None
            if result is not None and (measured := stored(result)) is not None:
                found.append(measured)
    return found


class Lines:
    """One line when a cell starts, one for each of its phases that lasts a while, some within long ones, one when it ends."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.lock = stream, threading.Lock()
        self.tally: Tally | None = None
        self.told: dict[str, tuple[float, int]] = {}
        self.timers: dict[str, threading.Timer] = {}
        self.waiting = False

    def begin(self, plan: Plan, workers: int = 1) -> None:
        self.tally = Tally.of(plan, workers)
        self._say(headline(plan))
        for notice in plan.notices:
            self._say(f"note: {notice}")

    def start(self, cell: Cell) -> None:
        with self.lock:
            now = self._tally.start(cell)
            self.told[cell.id] = (time.monotonic(), 0)
            self.waiting = False
            self._say(f"{self._number(now)} {now.words}: started ({cell.id}){self._left()}")

    def event(self, event: Event) -> None:
        with self.lock:
            now, begins = self._tally.see(event)
            if now is None:
                return
            if event.warning:
                self._say(f"{self._number(now)} {now.words}: warning: {event.warning}")
            if event.note:
                self._say(f"{self._number(now)} {now.words}: {event.note}")
            if begins:
                self._await(now)
            elif event.step and event.steps:
                self._step(now, event.step, event.steps)
            elif event.done and time.monotonic() - self.told[event.cell][0] >= LINE_SECONDS:
                self._tell(now)

    def _step(self, now: Running, step: int, steps: int) -> None:
        when, told = self.told[now.cell.id]
        since = time.monotonic() - when
        if step >= steps or (since < LINE_SECONDS and (step - told < LINE_SHARE * steps or since < 1)):
            return  # tenths of a cell that trains in a second would be noise
        self._tell(now, step)

    def _await(self, now: Running) -> None:
        """Tells a phase as soon as it has lasted a second: each phase of a tiny cell would be noise."""
        self._forget(now.cell)
        timer = threading.Timer(LONG, self.lasts, (now, now.phase))
        timer.daemon = True
        self.timers[now.cell.id] = timer
        timer.start()

    def lasts(self, now: Running, phase: str) -> None:
        """A phase goes on."""
        with self.lock:
            if self._tally.running.get(now.cell.id) is now and now.phase == phase and not (now.last and now.last.step):
                self._tell(now)

    def _tell(self, now: Running, step: int = 0) -> None:
        self.told[now.cell.id] = (time.monotonic(), step)
        self._say(f"{self._number(now)} {now.words}: {state(now)}{self._left()}")
        now.former = None

    def _forget(self, cell: Cell) -> None:
        if (timer := self.timers.pop(cell.id, None)) is not None:
            timer.cancel()

    def end(self, cell: Cell, result: CellResult, seconds: float) -> None:
        with self.lock:
            self._forget(cell)
            now = self._tally.end(cell, seconds, result.outcome == "finished")
            self._say(f"{self._number(now)} {now.words}: {verdict(result, seconds)}{self._left()}")

    def skip(self, cell: Cell) -> None:
        with self.lock:
            self._tally.skip(cell)
            self._say(f"{self._tally.plan.words[cell.id]}: done by another runner ({cell.id})")

    def wait(self, cells: int) -> None:
        with self.lock:
            if not self.waiting:
                self._say(f"waiting for {count(cells, 'cell')} that another runner has")
            self.waiting = True

    def close(self) -> None:
        self.stream.flush()

    @property
    def _tally(self) -> Tally:
        assert self.tally is not None, "begin() comes first"
        return self.tally

    def _number(self, now: Running) -> str:
        total = str(len(self._tally.plan.cells))
        return f"[{now.number:>{len(total)}}/{total}]"

    def _left(self) -> str:
        left = self._tally.time_left()
        return f", {left}" if left not in ("", UNKNOWN) else ""

    def _say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


def headline(plan: Plan) -> str:
    """What is to be done, in one line."""
    counts = f"{count(len(plan.cells), 'cell')}, {plan.done} done, {len(plan.pending)} to run"
    return f"study {plan.study.name}: {counts}, results in {plan.store.folder}"


def state(now: Running) -> str:
    """ "training step 30 of 150, loss 1.412, 5,230 tokens/s"; "decomposing, 12 of 210 modules (evaluating took 8.1 s)" """
    last = now.last
    if last is None or now.phase not in DOING:
        return "starting"
    former = now.former if now.former in DOING else None
    took = f" ({DOING[former]} took {duration(now.took[former])})" if former else ""
    if last.step and last.steps:
        parts = [f"{DOING['train']} step {last.step} of {last.steps}"]
        parts += [f"loss {now.loss:.3f}"] if now.loss is not None else []
        parts += [f"{last.tokens_per_second:,.0f} tokens/s"] if last.tokens_per_second else []
        return ", ".join(parts) + took
    words = DOING[now.phase]
    if last.total and now.phase in UNITS:
        words += f", {f'{last.done:,} of ' if last.done else ''}{last.total:,} {UNITS[now.phase]}"
    return words + took


def verdict(result: CellResult, seconds: float) -> str:
    """ "finished in 21 s, held-out loss 1.293", or why not"""
    words = {"finished": "finished", "diverged": "DIVERGED", "out_of_memory": "OUT OF MEMORY", "failed": "FAILED", "skipped": "SKIPPED"}[result.outcome]
    text = words if result.outcome == "skipped" else f"{words} {'in' if result.outcome == 'finished' else 'after'} {duration(seconds)}"
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


def duration(seconds: float) -> str:
    """ "0.4 s", "41 s", "3 min 20 s", "2 h 05 min" """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s" if whole < 600 else f"{round(whole / 60)} min"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: int, what: str) -> str:
    """ "1 cell", "3 cells" """
    return f"{number} {what}{'' if number == 1 else 's'}"
