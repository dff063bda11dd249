"""A run's progress, told to an experiment tracker as well: cells appear there when they start and fill as they train.

The tracker is spoken to from a thread of its own, so that one that is slow, hangs or fails holds up no cell and loses
none: it is then told nothing more, which is said when the run is over.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from lorabench.record.tracked import OpenRun, TrackedEnd, Tracker, tracked_end, tracked_run

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event
    from lorabench.record.result import CellResult
    from lorabench.runner.plan import Plan
    from lorabench.runner.progress import Progress

LAST_SECONDS = 30.0  # that a tracker has at the end of a run to write what it was told
MOST_WAITING = 100_000  # steps that wait for a slow tracker (some 30 MB); later ones are left out

Action = Callable[[dict[str, OpenRun]], None]


class TrackedProgress:
    """The progress of a run for a display and a tracker."""

    def __init__(self, shown: Progress, tracker: Tracker, name: str, say: Callable[[str], None]) -> None:
        self._shown, self._tracker, self._name, self._say = shown, tracker, name, say
        self._waiting: queue.Queue[Action | None] = queue.Queue(MOST_WAITING)
        self._plan: Plan | None = None
        self._left_out, self._fault = 0, ""
        self._thread = threading.Thread(target=self._tell, daemon=True, name="tracker")

    def begin(self, plan: Plan, workers: int = 1) -> None:
        """Opens the thread."""
        self._plan = plan
        self._thread.start()
        self._shown.begin(plan, workers)

    def start(self, cell: Cell) -> None:
        """A run begins."""
        assert self._plan is not None, "begin() comes first"
        run = tracked_run(self._plan.study.name, cell, self._plan.words[cell.id])
        self._put(lambda runs: runs.__setitem__(cell.id, self._tracker.begin(run)))
        self._shown.start(cell)

    def event(self, event: Event) -> None:
        """A step has a loss."""
        if event.step and event.loss is not None:
            self._put(_step(event.cell, event.step, event.loss, event.tokens_per_second))
        self._shown.event(event)

    def end(self, cell: Cell, result: CellResult, seconds: float) -> None:
        """A run ends with its readings."""
        self._put(_end(cell.id, tracked_end(result)))
        self._shown.end(cell, result, seconds)

    def postpone(self, cell: Cell, result: CellResult) -> None:
        """A run ends, and another one begins later."""
        self._put(_end(cell.id, tracked_end(result)))
        self._shown.postpone(cell, result)

    def skip(self, cell: Cell) -> None:
        """Another runner's cell is none of this one's runs."""
        self._shown.skip(cell)

    def wait(self, cells: int) -> None:
        """As it is."""
        self._shown.wait(cells)

    def close(self) -> None:
        """Says where the runs are, or that the tracker has not got them all."""
        self._shown.close()
        if self._plan is None:
            return
        self._put(None)
        self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            self._fault = f"it has not answered within {LAST_SECONDS:.0f} s"
        if self._fault or self._left_out:
            why = self._fault or f"it was too slow for {self._left_out:,} steps"
            self._say(
                f"{self._name} has not all of this run ({why}); the results are whole in {self._plan.store.folder}"
            )
        else:
            self._say(f"logged: {self._tracker.place}")

    def _put(self, action: Action | None) -> None:
        try:
            self._waiting.put_nowait(action)
        except queue.Full:
            self._left_out += 1

    def _tell(self) -> None:
        runs: dict[str, OpenRun] = {}
        while (action := self._waiting.get()) is not None:
            if self._fault:
                continue
            try:
                action(runs)
            except Exception as e:  # whatever it is, no cell is to suffer from it
                self._fault = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"


def _step(cell: str, step: int, loss: float, pace: float | None) -> Action:
    values = {"train/loss": loss} | ({} if pace is None else {"train/tokens_per_second": pace})

    def tell(runs: dict[str, OpenRun]) -> None:
        if cell in runs:
            runs[cell].step(step, values)

    return tell


def _end(cell: str, end: TrackedEnd) -> Action:
    def tell(runs: dict[str, OpenRun]) -> None:
        if cell in runs:
            runs.pop(cell).end(end)

    return tell
