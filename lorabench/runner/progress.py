"""What a run shows: a live display on a terminal, plain lines elsewhere.

`Tally` keeps the numbers (cells done, seconds of each, time left); the two displays draw them.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TextIO

from lorabench.record.metrics import metric

if TYPE_CHECKING:
    from lorabench.engine.events import Event
    from lorabench.record.result import CellResult
    from lorabench.runner.plan import Plan
    from lorabench.spec.study import Cell

LINE_SECONDS = 10.0  # between two plain lines of a cell at least, or ...
LINE_SHARE = 0.1  # ... this share of its steps
DOING = {"foresee": "predicting its memory", "load": "loading", "train": "training", "evaluate": "evaluating", "decompose": "decomposing", "truncate": "evaluating lower ranks"}


class Progress(Protocol):
    """What a runner tells a display; calls come from several threads."""

    def begin(self, plan: Plan) -> None: ...
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
class Running:
    """A cell that runs now."""

    number: int
    words: str
    cell: Cell
    began: float
    last: Event | None = None
    loss: float | None = None
    trained_from: float | None = None
    """when its first optimizer step was reported"""

    def pace(self, now: float) -> float | None:
        """Seconds of a step so far, while it trains; None before its second step."""
        if self.last is None or self.last.phase != "train" or self.trained_from is None or (self.last.step or 0) < 2:
            return None
        return (now - self.trained_from) / ((self.last.step or 0) - 1)


@dataclass
class Tally:
    """The numbers of a run."""

    plan: Plan
    done: int
    left: list[Cell]
    running: dict[str, Running] = field(default_factory=dict)
    seconds: list[tuple[int, float]] = field(default_factory=list)
    """(steps, seconds) of the cells that this run has finished"""

    def start(self, cell: Cell) -> Running:
        self.left = [c for c in self.left if c.id != cell.id]
        taken = self.done + len(self.running) + 1
        self.running[cell.id] = Running(taken, self.plan.words[cell.id], cell, time.monotonic())
        return self.running[cell.id]

    def see(self, event: Event) -> Running | None:
        now = self.running.get(event.cell)
        if now is not None:
            now.last = event
            now.loss = event.loss if event.loss is not None else now.loss
            if event.step and now.trained_from is None:
                now.trained_from = time.monotonic()
        return now

    def end(self, cell: Cell, seconds: float) -> Running:
        self.done += 1
        self.seconds.append((cell.training.steps, seconds))
        return self.running.pop(cell.id)

    def skip(self, cell: Cell) -> None:
        self.left = [c for c in self.left if c.id != cell.id]
        self.done += 1

    def time_left(self) -> str:
        """ "about 3 min left", from the finished cells of as many steps; before there is one, "more than", from the running one's steps."""
        now = time.monotonic()
        total = 0.0
        for cell in self.left:
            expected = self._expected(cell)
            if expected is None:
                return "time left not known yet"
            total += expected
        for running in self.running.values():
            expected, pace = self._expected(running.cell), running.pace(now)
            if expected is None:
                return "time left not known yet"
            steps = (running.last.steps or 0) - (running.last.step or 0) if running.last else 0
            total += max(expected - (now - running.began), (pace or 0) * steps, 0)
        if not self.left and not self.running:
            return ""
        return f"{'about' if self.seconds else 'more than'} {duration(max(1.0, total / max(1, len(self.running))))} left"

    def _expected(self, cell: Cell) -> float | None:
        like = [s for steps, s in self.seconds if steps == cell.training.steps]
        if like:
            return sum(like) / len(like)
        paces = [pace for r in self.running.values() if (pace := r.pace(time.monotonic())) is not None]
        if paces:
            return sum(paces) / len(paces) * cell.training.steps
        trained = [(steps, s) for steps, s in self.seconds if steps]
        if trained:
            return sum(s for _, s in trained) / sum(n for n, _ in trained) * cell.training.steps
        return None


class Lines:
    """One line when a cell starts, some while it trains, one when it ends."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.lock = stream, threading.Lock()
        self.tally: Tally | None = None
        self.told: dict[str, tuple[float, int]] = {}
        self.waiting = False

    def begin(self, plan: Plan) -> None:
        self.tally = Tally(plan, plan.done, list(plan.pending))
        self._say(headline(plan))
        for notice in plan.notices:
            self._say(f"note: {notice}")

    def start(self, cell: Cell) -> None:
        with self.lock:
            now = self._tally.start(cell)
            self.told[cell.id] = (time.monotonic(), 0)
            self.waiting = False
            self._say(f"{self._number(now)} {now.words}: started ({cell.id})")

    def event(self, event: Event) -> None:
        with self.lock:
            now = self._tally.see(event)
            if now is not None and event.warning:
                self._say(f"{self._number(now)} {now.words}: warning: {event.warning}")
            if now is None or not event.step or not event.steps or event.step >= event.steps:
                return
            when, step = self.told[event.cell]
            soon = time.monotonic() - when < LINE_SECONDS
            if soon and (event.step - step < LINE_SHARE * event.steps or time.monotonic() - when < 1):
                return  # tenths of a cell that trains in a second would be noise
            self.told[event.cell] = (time.monotonic(), event.step)
            self._say(f"{self._number(now)} {now.words}: {state(now)}{self._left()}")

    def end(self, cell: Cell, result: CellResult, seconds: float) -> None:
        with self.lock:
            now = self._tally.end(cell, seconds)
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
        return f", {left}" if left and "not known" not in left else ""

    def _say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


def headline(plan: Plan) -> str:
    """What is to be done, in one line."""
    counts = f"{count(len(plan.cells), 'cell')}, {plan.done} done, {len(plan.pending)} to run"
    return f"study {plan.study.name}: {counts}, results in {plan.store.folder}"


def state(now: Running) -> str:
    """ "training step 30 of 150, loss 1.412, 5,230 tokens/s" """
    if now.last is None:
        return "starting"
    parts = [DOING[now.last.phase]]
    if now.last.step and now.last.steps:
        parts = [f"{parts[0]} step {now.last.step} of {now.last.steps}"]
        parts += [f"loss {now.loss:.3f}"] if now.loss is not None else []
        parts += [f"{now.last.tokens_per_second:,.0f} tokens/s"] if now.last.tokens_per_second else []
    return ", ".join(parts)


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
