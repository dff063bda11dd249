"""How many cells run at the same time on a CPU, where the user names no number.

    rounds  = cells / workers, rounded up
    threads = cores / workers, rounded down
    seconds = rounds * (1 - SHARED + SHARED / threads)      in those of a cell on one thread (Amdahl 1967)

The number with the fewest seconds, the least of them, at most one for each core that is free and no more than the
memory holds. Cells are independent, so that a core of its own serves a cell better than being the second of another.
"""

from __future__ import annotations

SHARED = 0.5
"""of a step's time, what a second thread halves: 0.4 of GSM8K and 0.6 of SST-2 on SmolLM2-135M, 0.4 to 0.7 of the
quickstart (two cores)"""


def workers_for(cells: int, cores: int, at_once: int) -> int:
    """The number, 1 at least.

    cells: that are to run. cores: that are free. at_once: cells that the memory holds at the same time.
    """

    def seconds(workers: int) -> float:
        return -(-cells // workers) * (1 - SHARED + SHARED / (cores // workers))

    return min(range(1, max(1, min(cells, cores, at_once)) + 1), key=seconds)
