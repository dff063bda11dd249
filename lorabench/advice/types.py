"""What a recommendation is: a setting, what it takes on the card, what speaks for it, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lorabench.config.precision import DeviceKind
from lorabench.config.settings import Dtype, MethodSpec, ModelSpec, QuantizationSpec
from lorabench.config.trainer import OWN, Trainer, find_trainer

if TYPE_CHECKING:
    import pandas as pd

Basis = Literal["measured", "published", "rule", "none"]
Priority = Literal["accuracy", "memory", "speed"]


@dataclass(frozen=True)
class Workload:
    """What the user wants to train, apart from how."""

    model: ModelSpec
    sequence_length: int
    batch_size: int
    """sequences of one optimizer step, over all micro-batches"""
    examples: int | None = None
    """training examples"""
    tokens: int | None = None
    """training tokens in one epoch"""
    device: DeviceKind = "cuda"
    bf16: bool = True
    """whether the card computes in bfloat16: other trainers are told to mix in float16 where it does not"""
    trainer: Trainer | None = None
    """the program that trains, with the loss, attention and preparation that are asked for; None: as it comes"""


@dataclass(frozen=True)
class Candidate:
    """One setting to train it with."""

    method: MethodSpec
    quantization: QuantizationSpec
    micro_batch_size: int
    gradient_accumulation: int
    gradient_checkpointing: bool
    optimizer: str
    learning_rate: float
    schedule: str
    warmup: float
    """share of the steps"""
    weight_decay: float
    max_grad_norm: float
    dtype: Dtype = "auto"
    """of unquantized weights: told where a trainer leaves the choice between float32 and bfloat16; auto: the model's"""


@dataclass(frozen=True)
class Needs:
    """What a candidate takes on the card."""

    trainable_parameters: int
    peak_bytes: int
    low_bytes: int
    high_bytes: int
    seconds: tuple[float, float] | None = None
    """of one optimizer step, least and most; absent where the card's rates are not known"""


@dataclass(frozen=True)
class Shown:
    """What a study's own comparison shows (analysis.verdict); of what was published the interval is all there is."""

    within: bool | None
    """within the margin, beyond it (False), or neither"""
    repeated: bool
    """false with one seed, which shows nothing"""
    family: int
    """comparisons that it is corrected for"""


@dataclass(frozen=True)
class Quality:
    """What is expected of it beside full fine-tuning, or beside the study's best where there is none; the end points
    are absent where nothing is known."""

    basis: Basis
    against: str = ""
    """what it is held against"""
    metric: str = ""
    worse: float | None = None
    """how much worse in the metric's unit; negative is better"""
    low: float | None = None
    """of the 95 % interval"""
    high: float | None = None
    bound: float | None = None
    """one-sided 95 % upper bound: what a claim to be within the margin rests on, as in advice.selection"""
    margin: float | None = None
    """tolerated loss"""
    shown: Shown | None = None
    """absent for what was published, and for what is held against itself"""
    behind: bool = False
    """not measured itself, but a quantization of something that is shown to be beyond the margin"""

    @property
    def enough(self) -> bool | None:
        """Whether it is shown to be within the margin (True), shown to be beyond it, interval and all (False), or
        neither (None)."""
        if self.shown is not None:
            return self.shown.within
        if self.bound is None or self.low is None or self.margin is None:
            return None
        return True if self.bound <= self.margin else False if self.low > self.margin else None


@dataclass(frozen=True)
class EvidenceItem:
    """One piece of evidence: a sentence built from values, and where they come from."""

    kind: Literal["cells", "published", "rule"]
    text: str
    source: str
    """results directory, paper with its table, or the rule's origin"""
    cells: tuple[str, ...] = ()


@dataclass(frozen=True)
class RankedCandidate:
    """A candidate that fits, with all that is said of it."""

    candidate: Candidate
    needs: Needs
    headroom_bytes: int
    """the card's usable memory less high_bytes"""
    quality: Quality
    evidence: tuple[EvidenceItem, ...] = ()
    caveats: tuple[str, ...] = field(default=())
    rate_range: tuple[float, float] | None = None
    """80 % prediction interval of the best learning rate; absent where a study measured it"""
    rate_grid: tuple[float, ...] = ()
    """learning rates to try"""


@dataclass(frozen=True)
class Excluded:
    """What does not fit, by how much, and the cheapest change that would make it."""

    candidate: Candidate
    needs: Needs
    over_bytes: int
    cheapest_change: str


@dataclass(frozen=True)
class Recommendation:
    """What was asked, the candidates that fit the card in their order, and those that do not."""

    workload: Workload
    gpu: str
    memory_bytes: int
    """the card's usable memory"""
    priority: Priority
    ranked: tuple[RankedCandidate, ...]
    """best first; empty where nothing fits"""
    excluded: tuple[Excluded, ...]
    notes: tuple[str, ...] = ()
    """what limits all of it"""
    trainer: Trainer = field(default_factory=lambda: find_trainer(OWN))
    """the program whose memory and time these are"""

    def frame(self) -> pd.DataFrame:
        """A row per ranked candidate, by its place: setting, bytes, seconds of a step, how much worse it is expected to
        be."""
        import pandas as pd

        from lorabench.advice.text import as_rows  # which is made of these types

        rows = as_rows(self)
        return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="place"))

    def to_dict(self) -> dict[str, object]:
        """What `lorabench recommend --json` prints."""
        from lorabench.advice.text import as_plain  # which is made of these types

        return as_plain(self)

    def __repr__(self) -> str:
        from lorabench.advice.text import title

        titles = [f"  {n}. {title(r.candidate)}" for n, r in enumerate(self.ranked, 1)]
        head = f"Recommendation for {self.workload.model.name} on {self.gpu}"
        return "\n".join([head, *(titles or ["  nothing that was tried fits"])])
