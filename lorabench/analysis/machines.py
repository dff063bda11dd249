"""On which machine each cell ran: times of different ones are not comparable, never averaged or ranked together.

Where a study's cells ran on several, its times are those of the machine that finished most of them, and absent of the
others. A machine is its GPU by name, or its processor; of results from before processors were recorded, the
instructions of its kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import pandas as pd

from lorabench.record.frames import SETTINGS
from lorabench.record.metrics import metric
from lorabench.record.result import CellResult, Environment

TIMES = ("seconds", "tokens/s")
"""units of what only holds on the machine where it was measured"""


def machines(results: Iterable[CellResult]) -> dict[str, str]:
    """Cell id to its machine; a result without an environment (an imported one) has none."""
    where = {r.cell.id: r.environment for r in results if r.environment is not None}
    processors = all(e.processor for e in where.values() if e.device == "cpu")
    return {cell: _name(e, processors) for cell, e in where.items()}


def timed_on(machine_of: Mapping[str, str], finished: Iterable[str]) -> str | None:
    """The machine that times are shown of; None where all cells ran on one."""
    counts = Counter(machine_of[cell] for cell in finished if cell in machine_of)
    return max(counts, key=lambda m: counts[m]) if len(counts) > 1 else None


def without_other_times(data: pd.DataFrame, machine_of: Mapping[str, str], machine: str | None) -> pd.DataFrame:
    """A row per cell, whose times are absent where it ran on another machine."""
    if machine is None:
        return data
    times = [c for c in data.columns if c not in (*SETTINGS, "error") and metric(str(c)).unit in TIMES]
    own = data["cell"].map(lambda cell: machine_of.get(cell, machine) == machine)
    return data.assign(**{c: data[c].where(own) for c in times})


def _name(e: Environment, processors: bool) -> str:
    if e.device != "cpu":
        return e.device
    more = e.processor if processors else e.instructions
    return f"cpu ({more})" if more else "cpu"
