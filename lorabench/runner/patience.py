"""How long a runner waits for a worker that does not answer.

    time limit    seconds of a whole cell, by its study (training.time_limit); none unless the study gives one
    heartbeat     a thread of the worker sends a sign of life every BEAT_SECONDS; after SILENT_SECONDS without one the
                  process is stopped, swapped out or stuck in a library that never lets Python run

Only seconds in which the runner itself was awake count: a machine that was suspended, or a terminal that was stopped
with Ctrl-Z, costs no cell. Both are of the monotonic clock, so that no jump of the time of day matters.
"""

from __future__ import annotations

import time

from lorabench.formatting import duration

BEAT_SECONDS = 5.0
SILENT_SECONDS = 600.0
"""the longest that a sound library holds Python back is reading a shared library or a large JSON from a slow disk:
minutes at worst"""
LOOK_SECONDS = 0.5  # between two looks at a worker; a longer pause is the runner's own sleep


class Patience:
    """With one cell of one worker; `starting` until the worker's process has imported its engine, which counts for no
    cell."""

    def __init__(self, limit: float | None = None, silent: float = SILENT_SECONDS, *, starting: bool = False) -> None:
        self.limit, self.silent, self._starting = limit, silent, starting
        self._taken = self._silence = 0.0
        self._looked = time.monotonic()

    def look(self, *, heard: bool) -> None:
        """Counts the time since the last look."""
        now = time.monotonic()
        since = min(now - self._looked, 2 * LOOK_SECONDS)
        self._looked = now
        self._taken += since
        self._silence = 0.0 if heard else self._silence + since

    def begin(self) -> None:
        """The process has started: the cell's own time begins."""
        self._starting, self._taken = False, 0.0

    @property
    def ended(self) -> tuple[str, str] | None:
        """The kind of fault and what the worker did, in words without their subject; None while there is patience."""
        if self.limit is not None and self._taken > self.limit + (SILENT_SECONDS if self._starting else 0):
            return "TimeLimit", f"took longer than the cell's time limit of {duration(self.limit)}"
        if self._silence > self.silent:
            return "NoHeartbeat", f"gave no sign of life for {duration(self.silent)}"
        return None


ADVICE = {
    "TimeLimit": "; raise training.time_limit if it was only slow: the next run goes on from its checkpoint",
    "NoHeartbeat": "; its log.txt may tell where it stood still",
}
"""what to do about each kind"""
