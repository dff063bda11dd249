"""The display of a run: live on a terminal, plain lines elsewhere; both draw runner.progress's numbers."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from lorabench.formatting import plural
from lorabench.runner.progress import UNKNOWN, Progress, Tally, headline, postponed, state, verdict
from lorabench.runner.timing import LONG, Running

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event
    from lorabench.record.result import CellResult
    from lorabench.runner.plan import Plan

LINE_SECONDS = 10.0  # between two plain lines of a cell at least, or ...
LINE_SHARE = 0.1  # ... this share of its steps
LOOK_SECONDS = 0.25  # between looks at phases that last


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
        self.begun: dict[str, Running] = {}
        """cells whose phase nothing was told of yet"""
        self.closed = threading.Event()
        self.waiting = False

    def begin(self, plan: Plan, workers: int = 1) -> None:
        self.tally = Tally.of(plan, workers)
        self._print(headline(plan, workers))
        for notice in plan.notices:
            self._print(f"note: {notice}")
        self.closed = threading.Event()
        threading.Thread(target=self._announce, args=(self.closed,), daemon=True, name="phases").start()

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
                self.begun[event.cell] = now
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

    def _announce(self, closed: threading.Event) -> None:
        """Tells each phase as soon as it has lasted a second: each phase of a tiny cell would be noise."""
        while not closed.wait(LOOK_SECONDS):
            with self.lock, suppress(OSError):  # whoever reads is gone: the runner will notice
                for name, now in list(self.begun.items()):
                    if time.monotonic() - now.phase_from >= LONG:
                        del self.begun[name]
                        if not (now.last and now.last.step):
                            self._print_state(now)

    def _print_state(self, now: Running, step: int = 0) -> None:
        self.last_lines[now.cell.id] = (time.monotonic(), step)
        self._print(f"{self._number(now)} {now.words}: {state(now)}{self._time_left()}")
        now.former = None

    def end(self, cell: Cell, result: CellResult, seconds: float) -> None:
        with self.lock:
            self.begun.pop(cell.id, None)
            now = self._tally.end(cell, seconds, result.outcome == "finished")
            self._print(f"{self._number(now)} {now.words}: {verdict(result, seconds)}{self._time_left()}")

    def postpone(self, cell: Cell, result: CellResult) -> None:
        with self.lock:
            self.begun.pop(cell.id, None)
            now = self._tally.postpone(cell)
            self._print(f"{self._number(now)} {now.words}: {postponed(result)}{self._time_left()}")

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
        self.closed.set()
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
