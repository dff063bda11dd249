"""The display of a run: live on a terminal, plain lines elsewhere; both draw runner.progress's numbers."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

from lorabench.formatting import plural
from lorabench.runner.progress import UNKNOWN, Progress, Tally, headline, state, verdict
from lorabench.runner.timing import LONG, Running

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event
    from lorabench.record.result import CellResult
    from lorabench.runner.plan import Plan

LINE_SECONDS = 10.0  # between two plain lines of a cell at least, or ...
LINE_SHARE = 0.1  # ... this share of its steps


def open_progress(stream: TextIO | None = None) -> Progress:
    """The live display on a terminal that can redraw, plain lines otherwise."""
    stream = stream or sys.stdout
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from lorabench.runner.live_display import Live  # rich: ~150 ms

        return Live(stream)
    return Lines(stream)


class Lines:
    """One line when a cell starts, one for each of its phases that lasts a while, some within long ones, one when it
    ends."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.lock = stream, threading.Lock()
        self.tally: Tally | None = None
        self.last_lines: dict[str, tuple[float, int]] = {}
        self.timers: dict[str, threading.Timer] = {}
        self.waiting = False

    def begin(self, plan: Plan, workers: int = 1) -> None:
        self.tally = Tally.of(plan, workers)
        self._print(headline(plan))
        for notice in plan.notices:
            self._print(f"note: {notice}")

    def start(self, cell: Cell) -> None:
        with self.lock:
            now = self._tally.start(cell)
            self.last_lines[cell.id] = (time.monotonic(), 0)
            self.waiting = False
            self._print(f"{self._number(now)} {now.words}: started ({cell.id}){self._time_left()}")

    def event(self, event: Event) -> None:
        with self.lock:
            now, begins = self._tally.see(event)
            if now is None:
                return
            if event.warning:
                self._print(f"{self._number(now)} {now.words}: warning: {event.warning}")
            if event.note:
                self._print(f"{self._number(now)} {now.words}: {event.note}")
            if begins:
                self._announce_later(now)
            elif event.step and event.steps:
                self._step(now, event.step, event.steps)
            elif event.done and time.monotonic() - self.last_lines[event.cell][0] >= LINE_SECONDS:
                self._print_state(now)

    def _step(self, now: Running, step: int, steps: int) -> None:
        when, last_step = self.last_lines[now.cell.id]
        since = time.monotonic() - when
        if step >= steps or (since < LINE_SECONDS and (step - last_step < LINE_SHARE * steps or since < 1)):
            return  # tenths of a cell that trains in a second would be noise
        self._print_state(now, step)

    def _announce_later(self, now: Running) -> None:
        """Tells a phase as soon as it has lasted a second: each phase of a tiny cell would be noise."""
        self._cancel_timer(now.cell)
        timer = threading.Timer(LONG, self.lasts, (now, now.phase))
        timer.daemon = True
        self.timers[now.cell.id] = timer
        timer.start()

    def lasts(self, now: Running, phase: str) -> None:
        """A phase goes on."""
        with self.lock:
            if self._tally.running.get(now.cell.id) is now and now.phase == phase and not (now.last and now.last.step):
                self._print_state(now)

    def _print_state(self, now: Running, step: int = 0) -> None:
        self.last_lines[now.cell.id] = (time.monotonic(), step)
        self._print(f"{self._number(now)} {now.words}: {state(now)}{self._time_left()}")
        now.former = None

    def _cancel_timer(self, cell: Cell) -> None:
        if (timer := self.timers.pop(cell.id, None)) is not None:
            timer.cancel()

    def end(self, cell: Cell, result: CellResult, seconds: float) -> None:
        with self.lock:
            self._cancel_timer(cell)
            now = self._tally.end(cell, seconds, result.outcome == "finished")
            self._print(f"{self._number(now)} {now.words}: {verdict(result, seconds)}{self._time_left()}")

    def skip(self, cell: Cell) -> None:
        with self.lock:
            self._tally.skip(cell)
            self._print(f"{self._tally.plan.words[cell.id]}: done by another runner ({cell.id})")

    def wait(self, cells: int) -> None:
        with self.lock:
            if not self.waiting:
                self._print(f"waiting for {plural(cells, 'cell')} that another runner has")
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

    def _time_left(self) -> str:
        left = self._tally.time_left()
        return f", {left}" if left not in ("", UNKNOWN) else ""

    def _print(self, text: str) -> None:
        print(text, file=self.stream, flush=True)
