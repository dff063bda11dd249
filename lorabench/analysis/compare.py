"""A study's own comparisons: each condition against its reference, one family for each metric (analysis.verdict says
what may be said of a pair)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorabench.analysis.conditions import Replicates
from lorabench.analysis.pairing import Pairing
from lorabench.analysis.verdict import Comparison, adjusted, compared
from lorabench.config.fingerprint import References, canonical_json
from lorabench.config.plain_settings import agrees
from lorabench.config.settings import ComparisonSpec
from lorabench.config.study import Study
from lorabench.errors import LorabenchError

_FULL = {"method": {"name": "full"}}


def references(study: Study, groups: Sequence[Replicates]) -> dict[str, str]:
    """Condition id to the id of the condition it is compared with; the references themselves are left out."""
    rule = study.reference if study.reference is not None else _FULL
    plain = {g.condition: g.declared for g in groups}
    chosen: list[dict[str, object]] = [dict(p) for p in plain.values() if agrees(p, rule)]
    by_setting = {canonical_json(p): c for c, p in plain.items() if agrees(p, rule)}
    candidates = References(chosen)
    reference_of: dict[str, str] = {}
    for condition, setting in plain.items():
        if not chosen or condition in by_setting.values():
            continue
        try:
            reference_of[condition] = by_setting[canonical_json(candidates.of(setting))]
        except LorabenchError:  # several conditions fit the default equally well: then there is none
            continue
    return reference_of


def compare(
    pairing: Pairing, reference_of: Mapping[str, str], metrics: Sequence[str], rules: ComparisonSpec
) -> tuple[Comparison, ...]:
    """A Comparison for each condition and metric that has a pair."""
    comparisons: list[Comparison] = []
    for metric in metrics:
        comparisons += adjusted(
            [
                comparison
                for c, r in reference_of.items()
                if (comparison := compared(pairing, metric, c, r, rules)) is not None
            ]
        )
    return tuple(comparisons)
