"""What one comparison group of a stored study says of each method and quantization, and which group lies nearest.
Without pandas and scipy, which take a second to import.

    distance = |log10(parameters there / here)| + 0.5 [another architecture] + 0.5 [another task than was named] + 0.5
    |log10(training tokens there / here)|

One comparison group speaks for all methods that it has: gaps of different studies are not held against each other. It
speaks for a model within REACH of it, and for any where the user named its study; how far it is is then told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorabench.advice.types import EvidenceItem, Quality
from lorabench.record.metrics import metric as described

if TYPE_CHECKING:
    from lorabench.advice.selection import Option
    from lorabench.analysis.conditions import Replicates

REACH = 1.0  # a factor of ten in size: published scaling of LoRA moves little within it
ALIKE = 0.3  # a factor of two in size or four in data: what is tried there tells more than which lies a little nearer
FULL = "full fine-tuning"
Key = tuple[str, str]
"""method and quantization"""
WHOLE: Key = ("full", "none")


@dataclass(frozen=True)
class Here:
    """What is to be trained, as far as it is known."""

    model: str
    parameters: int
    architecture: str | None = None
    tokens: int | None = None
    task: str | None = None
    tolerated: float | None = None
    """as the metric is shown: points of a share, nats of a loss; absent: each study's own margin"""
    kind: str | None = None
    """of the task, as tables of the literature have it: what an imported study may call its task"""


@dataclass(frozen=True)
class MethodResult:
    """One method and quantization of a comparison group, at the least that is enough."""

    group: Replicates
    option: Option
    quality: Quality
    evidence: tuple[EvidenceItem, ...]
    decided: bool
    """whether something larger is shown to bring no more; else it is the best of what was tried"""
    at_the_edge: bool
    """whether it is the highest rank that was tried, of several"""
    alone: bool
    """whether nothing else of its kind was tried"""
    tuned: bool
    """whether its learning rate was chosen among several"""

    @property
    def key(self) -> Key:
        """Its method and quantization."""
        return key_of(self.group)

    @property
    def decides(self) -> bool:
        """Whether anything may rest on it: one seed is shown and decides nothing."""
        return self.option.repeated


@dataclass(frozen=True)
class ComparisonGroup:
    """One model and task of a study, with what it says of each method and quantization."""

    study: str
    model: str
    task: str
    made_up: bool
    """whether the task's answer is known because it was made: it says nothing of other tasks"""
    results: tuple[MethodResult, ...]
    distance: float
    far: str
    """in what it lies farthest: "13 times fewer parameters"; empty at no distance"""
    ranks: int
    """that were tried"""
    best: Option
    """what the study's report calls best: of all results the best mean"""
    best_key: Key
    """method and quantization of that"""
    left_out: int = 0
    """imported conditions that advice cannot give: methods that lorabench has not, settings that are not told"""

    @property
    def decides(self) -> bool:
        """Whether any of its results does."""
        return any(r.decides for r in self.results)

    @property
    def in_nats(self) -> bool:
        """Whether it is judged by a loss, which has no points."""
        return any(r.quality.metric and described(r.quality.metric).unit == "nats" for r in self.results)

    def result(self, key: Key) -> MethodResult | None:
        """The result of a method and quantization; None where the group has none."""
        return next((r for r in self.results if r.key == key), None)


def key_of(group: Replicates) -> Key:
    """Method and quantization of a condition."""
    return group.setting.method.name, group.setting.quantization.name


def nearest(groups: Sequence[ComparisonGroup], named: bool = False) -> ComparisonGroup | None:
    """The comparison group that speaks: within reach and not made up unless its study was named, and of more than one
    seed where there is such a one; of about equally near ones one with full fine-tuning, more ranks, more methods, more
    seeds."""
    able = [c for c in groups if c.results and (named or (c.distance <= REACH and not c.made_up))]
    able = [c for c in able if c.decides] or able
    close = min((c.distance for c in able), default=0.0) + ALIKE
    near = [c for c in able if c.distance <= close]
    return min(
        near,
        key=lambda c: (
            c.result(WHOLE) is None,
            -c.ranks,
            -len(c.results),
            -c.results[0].option.seeds,
            c.distance,
            c.study,
            c.task,
        ),
        default=None,
    )
