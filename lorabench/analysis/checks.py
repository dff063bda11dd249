"""What a reader must know before believing a study: a closed set of findings, each found from the data.

A kind is a function of its name in one of the doubts_ files: there its title, its sentence and what it rests on stand
together. A new one is a function there, a word in evidence.Kind and a place below.
"""

from __future__ import annotations

from collections.abc import Callable

from lorabench.analysis import doubts_cells, doubts_data, doubts_design, doubts_values
from lorabench.analysis.evidence import Evidence, Finding

__all__ = ["CHECKS", "Evidence", "Finding", "check"]

CHECKS: tuple[Callable[[Evidence], Finding | None], ...] = (
    # grave: numbers are absent or mislead
    doubts_design.metric_absent,
    doubts_cells.failed,
    doubts_cells.diverged,
    doubts_cells.out_of_memory,
    doubts_cells.missing,
    doubts_design.one_seed,
    doubts_values.base_better,
    doubts_data.rows_lost,
    doubts_data.test_leaked,
    doubts_data.few_test_rows,
    # caution: numbers hold, with less behind them
    doubts_cells.skipped,
    doubts_cells.analysis_failed,
    doubts_values.at_chance,
    doubts_design.few_seeds,
    doubts_design.shared_rate,
    doubts_design.untuned_rates,
    doubts_design.edge_rate,
    doubts_design.few_validation_rows,
    doubts_design.scaling_moves,
    doubts_values.few_items,
    doubts_cells.mixed_environments,
    doubts_cells.mixed_precision,
    doubts_values.still_falling,
    doubts_data.rows_dropped,
    doubts_data.responses_cut,
    doubts_data.prompts_leaked,
    doubts_data.unseen_labels,
    doubts_data.one_sided_labels,
    doubts_data.test_rows_differ,
    # note: to know when using them
    doubts_design.no_reference,
    doubts_cells.rates_broke,
    doubts_values.prediction_off,
    doubts_cells.stored_quantised,
    doubts_cells.unreached,
    doubts_data.rows_changed,
    doubts_data.rows_unmeasured,
)


def check(evidence: Evidence) -> tuple[Finding, ...]:
    """All findings, the gravest first."""
    return tuple(found for one in CHECKS if (found := one(evidence)) is not None)
