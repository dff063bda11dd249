"""What probe prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lorabench.formatting import aligned, duration

if TYPE_CHECKING:
    from lorabench.workflows.probe import ProbedSetting, Probes


def text(probes: Probes, mean_rank: int) -> str:
    """A table a setting: probes by rank, then those that spread a budget, by kind of module."""
    blocks = ["\n".join([setting.label, "", *_rows(setting, mean_rank)]) for setting in probes.settings]
    return "\n\n".join(blocks)


def as_json(probes: Probes) -> str:
    """All values."""
    return json.dumps(probes.to_dict(), indent=2)


def _rows(setting: ProbedSetting, mean_rank: int) -> list[str]:
    kinds = list(setting.results[0].by_kind) if setting.results else []
    rows = [("probe", "rank", *kinds, "time", "cost in steps")]
    for r in sorted(setting.results, key=lambda r: r.spreads):
        rank = "-" if r.rank is None else str(r.rank)
        medians = [f"{r.by_kind[k]:g}" for k in kinds]
        rows.append((r.probe, rank, *medians, duration(r.seconds), f"{r.training_steps:g}"))
    spread = any(r.spreads for r in setting.results)
    notes = ["rank: what a uniform adapter needs; under each kind of module the median over its layers"]
    if spread:
        notes.append(f"-: this rule spreads a budget of {mean_rank} a module and does not say how large it should be")
    return [*aligned(rows), "", *notes]
