"""How the choice of a rank and the intervals did in the sources of a kind of task, each left out in turn: what
benchmarks/evidence.py found and wrote down (data/left_out.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from lorabench.evidence.library import DATA

LEFT_OUT = DATA / "left_out.json"


@dataclass(frozen=True)
class RankTrial:
    """Of ranks in one kind of task. A source counts once."""

    kind: str
    sources: int
    """that print several ranks of one setting"""
    columns: int
    """such settings"""
    regret: float
    """points that the chosen rank was behind the best one printed"""
    best_rule: str
    """the fixed rule that lost least: "always 16\""""
    best_regret: float
    more: float
    """that the choice lost more than the best fixed rule; below 0: less"""
    low: float | None
    """of Student's 95 % interval of it over sources; absent with one source, and where the two chose alike"""
    high: float | None
    differing: int
    """columns in which the two chose differently"""
    covered: float
    """share of gaps between ranks that 80 % intervals held"""

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@cache
def _all() -> dict[str, RankTrial]:
    stored = json.loads(LEFT_OUT.read_text(encoding="utf-8"))
    return {t["kind"]: RankTrial(**t) for t in stored["ranks"]}


def rank_trial(kind: str) -> RankTrial | None:
    """None where no source prints several ranks."""
    return _all().get(kind)
