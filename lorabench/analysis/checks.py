"""What a reader must know before believing a study: a closed set of findings, each found from the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lorabench.analysis.aggregate import Outcomes, Summary
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.labels import method_label

Kind = Literal["one_seed", "few_seeds", "untuned_rates", "diverged", "out_of_memory", "failed", "skipped", "missing"]
ENOUGH_SEEDS = 5  # t(0.975) is 12.7 with 2 seeds, 4.3 with 3, 2.8 with 5


@dataclass(frozen=True)
class Finding:
    """One thing that weakens the study's numbers."""

    kind: Kind
    title: str
    sentence: str
    conditions: tuple[str, ...] = ()
    """labels of the conditions it is about; empty: all"""


def check(groups: Sequence[Replicates], summaries: Sequence[Summary]) -> tuple[Finding, ...]:
    """All findings, the gravest first."""
    return (*_broken(summaries), *_seeds(summaries), *_rates(groups))


def _broken(summaries: Sequence[Summary]) -> list[Finding]:
    words: tuple[tuple[Kind, str, str], ...] = (
        ("failed", "Cells failed", "failed; run the study again to retry them, or see their log.txt"),
        ("diverged", "Cells diverged", "lost a finite loss; their learning rate is too high for the setting, and they have no results"),
        ("out_of_memory", "Cells ran out of memory", "did not fit into memory; a smaller batch or gradient checkpointing may let them run"),
        ("skipped", "Cells were skipped", "were not run, since they were predicted not to fit into memory; run the study without --skip-infeasible to try them"),
        ("missing", "Cells are missing", "have not been run yet; run the study again to complete it"),
    )
    found = []
    for kind, title, words_after in words:
        hit = [s for s in summaries if _count(s.outcomes, kind)]
        if hit:
            number, total = sum(_count(s.outcomes, kind) for s in hit), sum(s.outcomes.total for s in summaries)
            found.append(Finding(kind, title, f"{number} of {total} cells {words_after}.", tuple(s.label.text for s in hit)))
    return found


def _count(outcomes: Outcomes, kind: Kind) -> int:
    return int(getattr(outcomes, kind))


def _seeds(summaries: Sequence[Summary]) -> list[Finding]:
    trained = [s for s in summaries if s.seeds]
    most = max((len(s.seeds) for s in trained), default=0)
    if most == 1:
        sentence = (
            "Every condition was trained with one seed, so how far a repetition would land is unknown: "
            "no difference can be called decisive."
        )
        return [Finding("one_seed", "Seed noise is unknown", sentence)]
    if 1 < most < ENOUGH_SEEDS:
        sentence = (
            f"{most} seeds give wide intervals (a t factor of {_factor(most)} against 2.0 with many); "
            f"{ENOUGH_SEEDS} or more seeds tell small differences apart."
        )
        return [Finding("few_seeds", "Few seeds", sentence)]
    return []


def _factor(seeds: int) -> str:
    from scipy import stats

    return f"{stats.t.ppf(0.975, seeds - 1):.1f}"


def _rates(groups: Sequence[Replicates]) -> list[Finding]:
    rates: dict[str, set[float]] = {}
    for group in groups:
        if group.trains:
            rates.setdefault(group.setting.method.name, set()).add(group.setting.training.rate)
    adapters = {r for method, values in rates.items() if method != "full" for r in values}
    if "full" not in rates or not adapters or (len(rates["full"]) > 1 and len(adapters) > 1):
        return []
    if rates["full"] == adapters:
        rate = next(iter(adapters))
        sentence = (
            f"Adapters and full fine-tuning share one learning rate ({rate:g}). LoRA's best rate is about ten times full "
            "fine-tuning's, so at least one of them is likely ill served."
        )
    else:
        each = "; ".join(f"{method_label(method)} {', '.join(f'{r:g}' for r in sorted(values))}" for method, values in rates.items())
        sentence = f"Learning rates were chosen beforehand, not tuned for each condition ({each}): a better rate may change the order."
    return [Finding("untuned_rates", "Learning rates are untuned", sentence)]
