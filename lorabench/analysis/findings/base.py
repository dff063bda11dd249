"""A finding, and what sentences of findings share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "metric_absent", "failed", "diverged", "out_of_memory", "missing", "one_seed", "base_better", "rows_lost",
    "test_leaked", "few_test_rows",
    "skipped", "analysis_failed", "at_chance", "few_seeds", "shared_rate", "untuned_rates", "edge_rate",
    "few_validation_rows", "scaling_moves", "few_items", "mixed_environments", "merged_differ", "mixed_precision",
    "still_falling",
    "rows_dropped", "responses_cut", "prompts_leaked", "unseen_labels", "one_sided_labels", "test_rows_differ",
    "no_reference", "rates_broke", "prediction_off", "stored_quantised", "unreached", "rows_changed", "rows_unmeasured",
    "gguf",
]  # fmt: skip
Severity = Literal["grave", "caution", "note"]
"""grave: numbers are absent or mislead; caution: they hold, with less behind them; note: to know when using them"""
_NAMED = 3  # of a list in a sentence; the finding's conditions and cells name all


@dataclass(frozen=True)
class Finding:
    """One thing to know before believing the study's numbers."""

    kind: Kind
    severity: Severity
    title: str
    sentence: str
    """what was seen, with its values, and what to do about it"""
    conditions: tuple[str, ...] = ()
    """labels of the conditions it is about; empty: the study as a whole"""
    cells: tuple[str, ...] = ()
    """ids of the cells it rests on"""


def listed(parts: Sequence[str], separator: str = ", ") -> str:
    """ "a, b, c and 4 more" """
    more = len(parts) - _NAMED
    return (
        separator.join(parts) if more <= 0 else f"{separator.join(parts[:_NAMED])}{separator.rstrip()} and {more} more"
    )


def cells_of(number: int, total: int) -> str:
    """ "3 of 8 cells" """
    return f"{number} of {total} cell{'' if total == 1 else 's'}"
