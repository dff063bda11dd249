"""What a reader must know before believing a study: a closed set of findings, each found from the data.

A kind is a function of its name in one of the modules beside this one, which computes the values and gives the title
and what it rests on; its sentence is built of the values by a function of the *_text module. A new one is a function in
each, a word in base.Kind and a place below.
"""

from __future__ import annotations

from collections.abc import Callable

from lorabench.analysis.findings import cells, data, design, hyperparameters, labels, training, values
from lorabench.analysis.findings.base import Finding
from lorabench.analysis.study import StudyAnalysis

__all__ = ["CHECKS", "Finding", "check"]

CHECKS: tuple[Callable[[StudyAnalysis], Finding | None], ...] = (
    # grave: numbers are absent or mislead
    design.metric_absent,
    cells.failed,
    cells.diverged,
    cells.out_of_memory,
    cells.missing,
    design.one_seed,
    values.base_better,
    data.rows_lost,
    data.test_leaked,
    data.few_test_rows,
    # caution: numbers hold, with less behind them
    cells.skipped,
    cells.analysis_failed,
    values.at_chance,
    design.few_seeds,
    hyperparameters.shared_rate,
    hyperparameters.untuned_rates,
    hyperparameters.edge_rate,
    hyperparameters.few_validation_rows,
    hyperparameters.scaling_moves,
    values.few_items,
    cells.mixed_environments,
    cells.merged_differ,
    cells.mixed_precision,
    training.still_falling,
    data.rows_dropped,
    data.responses_cut,
    data.prompts_leaked,
    labels.unseen_labels,
    labels.one_sided_labels,
    data.test_rows_differ,
    # note: to know when using them
    design.no_reference,
    cells.rates_broke,
    training.prediction_off,
    cells.stored_quantised,
    cells.unreached,
    data.rows_changed,
    data.rows_unmeasured,
    cells.gguf,
)


def check(study: StudyAnalysis) -> tuple[Finding, ...]:
    """All findings, the gravest first."""
    return tuple(finding for rule in CHECKS if (finding := rule(study)) is not None)
