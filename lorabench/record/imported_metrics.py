"""Metrics that other programs measure in their own way: rows of the table of metrics (record.metrics) with names of
their own, so that none stands in one column with what lorabench measures.
"""

from __future__ import annotations

from lorabench.record.metric import Metric

IMPORTED_METRICS = (
    Metric(
        "run_reserved_bytes",
        "reserved, whole run",
        "bytes",
        "lower",
        "the most that the allocator kept (max_memory_reserved) from loading to the last generated answer, never reset:"
        " no peak of training",
    ),
    Metric(
        "step_reserved_99th_bytes",
        "reserved, 99th percentile",
        "bytes",
        "lower",
        "99th percentile of what the allocator kept after each training step: no peak",
    ),
    Metric(
        "step_reserved_mean_bytes",
        "reserved, mean",
        "bytes",
        "lower",
        "mean of what the allocator kept after each training step: no peak",
    ),
    Metric(
        "run_seconds",
        "time with the test",
        "seconds",
        "lower",
        "steps, loading of batches, forgetting and the test set's evaluation; without the validations between (PEFT's"
        " train_time)",
    ),
    Metric(
        "last_interval_loss",
        "last training loss",
        "nats",
        "lower",
        "mean training loss over the steps since the validation before the last",
    ),
    Metric(
        "validation_accuracy",
        "validation accuracy",
        "share",
        "none",
        "accuracy on a few validation rows at the end of training",
    ),
    Metric(
        "wikipedia_forgetting",
        "forgetting (Wikipedia)",
        "nats",
        "lower",
        "rise of the loss per predicted token of Wikipedia text over the untouched base's (PEFT's forgetting of runs"
        " since 2026-07-14)",
    ),
    Metric(
        "wikipedia_forgetting_before_2026_07",
        "forgetting until 2026-07",
        "nats",
        "none",
        "PEFT's forgetting of runs until 2026-07: logits were held against the tokens that they had read, not the next"
        " ones, and the loss before was the adapted model's: comparable among such runs alone",
    ),
)
