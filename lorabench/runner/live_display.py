"""The live display: a headline, a bar for each running cell, and what has ended scrolling by above."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lorabench.formatting import plural
from lorabench.runner.progress import Tally, headline, postponed, state, verdict
from lorabench.runner.timing import Running

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event
    from lorabench.record.result import CellResult
    from lorabench.runner.plan import Plan

COLOURS = {"finished": "green", "diverged": "yellow", "out_of_memory": "red", "failed": "red", "skipped": "yellow"}


class Live:
    """A Progress that redraws twice a second (more would take time from the cells)."""

    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream, highlight=False)
        self.lock = threading.RLock()
        self.tally: Tally | None = None
        self.display: RichLive | None = None
        self.waiting = 0

    def begin(self, plan: Plan, workers: int = 1) -> None:
        self.tally = Tally.of(plan, workers)
        self.console.print(Text(headline(plan, workers)))
        for notice in plan.notices:
            self.console.print(Text("note: ").append(notice, "yellow"))
        if plan.pending:
            self.display = RichLive(
                console=self.console, get_renderable=self._draw, refresh_per_second=2, transient=True
            )
            self.display.start()

    def start(self, cell: Cell) -> None:
        with self.lock:
            self._tally.start(cell)
            self.waiting = 0

    def event(self, event: Event) -> None:
        with self.lock:
            now, _ = self._tally.see(event)
            if now is not None and event.warning:
                self.console.print(Text(f"{self._number(now)} {now.words}: warning: ").append(event.warning, "yellow"))
            if now is not None and event.note:
                self.console.print(Text(f"{self._number(now)} {now.words}: {event.note}"))

    def end(self, cell: Cell, result: CellResult, seconds: float) -> None:
        with self.lock:
            now = self._tally.end(cell, seconds, result.outcome == "finished")
            line = Text(f"{self._number(now)} {now.words}: ")
            self.console.print(line.append(verdict(result, seconds), COLOURS[result.outcome]))

    def postpone(self, cell: Cell, result: CellResult) -> None:
        with self.lock:
            now = self._tally.postpone(cell)
            self.console.print(Text(f"{self._number(now)} {now.words}: ").append(postponed(result), "yellow"))

    def skip(self, cell: Cell) -> None:
        with self.lock:
            self._tally.skip(cell)
            self.console.print(Text(f"{self._tally.plan.words[cell.id]}: done by another runner ({cell.id})"))

    def wait(self, cells: int) -> None:
        with self.lock:
            self.waiting = cells

    def close(self) -> None:
        if self.display:
            self.display.stop()
            self.display = None

    @property
    def _tally(self) -> Tally:
        assert self.tally is not None, "begin() comes first"
        return self.tally

    def _number(self, now: Running) -> str:
        total = str(len(self._tally.plan.cells))
        return f"[{now.number:>{len(total)}}/{total}]"

    def _draw(self) -> Group:
        with self.lock:
            left = self._tally.time_left()
            total = len(self._tally.plan.cells)
            head = Text(f"{self._tally.done} of {plural(total, 'cell')} done", "bold")
            head.append(f", {left}" if left else "", "not bold")
            if self.waiting:
                head.append(f"; waiting for {plural(self.waiting, 'cell')} that another runner has", "yellow")
            rows = [self._row(r) for r in sorted(self._tally.running.values(), key=lambda r: r.number)]
        return Group(head, *rows)

    def _row(self, now: Running) -> Table:
        row = Table.grid(padding=(0, 1))
        row.add_column(overflow="fold")
        row.add_column(width=20)
        row.add_column(overflow="fold")
        done, total = part(now)
        bar = ProgressBar(total=total, completed=done, width=20) if total else Text("")
        row.add_row(Text(f"{self._number(now)} {now.words}"), bar, Text(state(now), "cyan"))
        return row


def part(now: Running) -> tuple[int, int]:
    """How much of its phase a cell has behind it, of how much: steps, rows or modules; of 0 where that is not known."""
    last = now.last
    if last is None:
        return 0, now.steps
    return (last.step or 0, now.steps) if now.phase in ("start", "load", "train") else (last.done or 0, last.total or 0)
