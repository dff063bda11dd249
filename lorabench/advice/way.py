"""A way to train as a study measured it, and which of several studies lies nearest. Without pandas and scipy, which take a second to import.

    distance = |log10(parameters there / here)| + 0.5 [another architecture] + 0.5 |log10(training tokens there / here)|

A study speaks for a model within REACH of it, and for any where the user named it; the distance is then told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorabench.advice.recommendation import Quality, Witness

if TYPE_CHECKING:
    from lorabench.advice.choose import Option
    from lorabench.analysis.conditions import Replicates

REACH = 1.0  # a factor of ten in size: published scaling of LoRA moves little within it
FULL = "full fine-tuning"


@dataclass(frozen=True)
class Here:
    """What is to be trained, as far as it is known."""

    model: str
    parameters: int
    architecture: str | None = None
    tokens: int | None = None
    tolerated: float | None = None
    """in the metric's unit; absent: each study's own margin"""


@dataclass(frozen=True)
class Way:
    """One method and quantisation in one contest of a study, at the least that is enough."""

    group: Replicates
    option: Option
    quality: Quality
    witness: Witness
    decided: bool
    """whether the rank is shown to be enough; else it is the one of best mean"""
    distance: float
    study: str
    model: str
    tokens: int | None

    @property
    def key(self) -> tuple[str, str]:
        """What it is a way of."""
        return self.group.setting.method.name, self.group.setting.quantization.name


def nearest(found: Sequence[Way], key: tuple[str, str], reach: float) -> Way | None:
    """The way of a key whose study lies nearest, within reach; of equally near ones one whose rank is shown, then the one of most seeds."""
    able = [w for w in found if w.key == key and w.distance <= reach]
    return min(able, key=lambda w: (round(w.distance, 2), not w.decided, -w.option.seeds, w.study, w.option.condition), default=None)
