"""Whether the lm-eval tasks that a cell names are there and can be asked, before any cell runs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from lorabench.config.study import Cell
from lorabench.errors import DataError, LorabenchError, unknown

_SHOWN = 12  # of 14,000 names in a sentence


def near_names(name: str, installed: Sequence[str]) -> list[str]:
    """The names of installed tasks most like a misspelt one, the nearest first, then those that begin alike."""
    like = difflib.get_close_matches(name, installed, n=_SHOWN, cutoff=0.7)
    return list(dict.fromkeys((*like, *(t for t in installed if t.startswith(name[:3])))))[:_SHOWN]


def lm_eval_fault(cell: Cell) -> tuple[str, str] | None:
    """(dotted setting, sentence) where a task that a cell names is not installed, cannot be read or has no data; None
    where all can be asked.
    """
    from lorabench.engine.lm_eval_runner import brings, fetch_tasks, further_tasks, known_tasks, own_sets, unreadable

    further = further_tasks(cell)
    if not further:
        return None
    if harmed := unreadable(further, cell.evaluation.include_path):
        return "evaluation.lm_eval", harmed
    try:
        installed = (
            further if brings(further, cell.evaluation.include_path) else known_tasks(cell.evaluation.include_path)
        )
    except LorabenchError as e:
        return "evaluation.lm_eval", str(e)
    for name in further:
        if name not in installed:
            near = [*own_sets(cell), *near_names(name, installed)]
            return (
                "evaluation.lm_eval",
                unknown("lm-eval task", name, near or installed[:_SHOWN]) + ", and all that `lm-eval ls tasks` lists",
            )
    try:
        fetch_tasks(further, cell.evaluation)
    except DataError as e:
        return "evaluation.lm_eval", str(e)
    return None
