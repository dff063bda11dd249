"""What a gap depends on, as a row of numbers: the moderators of the four contrasts, and what is expected of them before
any table is read.

    full     m (1, untuned, log10 parameters, log10 tokens, height of the rank, log2 scaling; kind of task and its
             slopes; adapter)
    rank     m times the distance d = height(rank) - height(reference): 1, parameters, tokens, alpha follows, untuned,
             kind
    method   untuned, kind, method
    storage  kind, storage, log10 parameters

Sizes are centred at 7e9 parameters, 1e8 training tokens, rank 16, scaling 1; what a row does not carry stands at the
centre. m is 1 but for continued pretraining, where it is what there is to be missed by then:

    m = log2(1 + tokens / knee)

An adapter and full fine-tuning are one model before the first token, so that their gap begins at zero, and it grows
with what full fine-tuning learns: with the tokens at first, with their logarithm later (Kaplan et al. 2020,
arXiv:2001.08361). Tokens of fine-tuning data are mostly further passes over the same, which bring nothing that an
adapter could not hold; their slope stays a line. The knee is the most probable of `KNEES` by the sources at hand
(calibration.py), never by those that are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorabench.evidence.gaps import METHODS, STORAGES, Contrast, Gap
from lorabench.evidence.random_effects import Array, Prior
from lorabench.evidence.rank_height import CENTER, height

KINDS = (
    "classification", "instruction", "math", "code", "continued-pretraining", "commonsense", "generation", "other",
)  # fmt: skip
CONTRASTS: tuple[Contrast, ...] = ("full", "rank", "method", "storage")
UNTUNED = 10.0
"""points, standard deviation of the level of untuned tables: as far as the largest tuned gap of a source (code, -13)"""
CONTINUED = "continued-pretraining"
KNEES = (1e9, 3e8, 3e9, 1e8, 1e10)
"""training tokens, half a decade apart around the order of what is continued with; the first where nothing tells"""
_ADAPTER_EFFECTS = ("rslora", "dora", "pissa")


@dataclass(frozen=True)
class Form:
    """Of the curves: chosen by the sources at hand, the same for all rows of a contrast."""

    power: float
    """of the rank (rank_height.py)"""
    knee: float = KNEES[0]
    """training tokens"""


@dataclass(frozen=True)
class Setting:
    """What a gap is asked for, or was printed for; absent: not known."""

    kind: str
    method: str = "lora"
    rank: float | None = None
    against_rank: float | None = None
    storage: str = "none"
    parameters: float | None = None
    tokens: float | None = None
    scaling: float | None = None
    alpha_moves: bool | None = None
    tuned: bool = True
    flagged: bool = False
    noise: float = 0.0


def setting_of(gap: Gap) -> Setting:
    """A printed gap as a question."""
    return Setting(
        gap.kind, gap.method, gap.rank, gap.against_rank, gap.storage, gap.parameters, gap.tokens, gap.scaling,
        gap.alpha_moves, not gap.untuned, gap.flagged, gap.noise,
    )  # fmt: skip


def kind_index(kind: str) -> int:
    """A kind that is not known is another."""
    return KINDS.index(kind if kind in KINDS else "other")


def arrays(
    contrast: Contrast, form: Form, settings: Sequence[Setting]
) -> tuple[Array, np.ndarray, Array, Array, Array]:
    """Of many settings: moderators, kind, what the effects of a source are multiplied by, flag, noise."""
    x = np.array([design(contrast, form, s) for s in settings])
    kind = np.array([kind_index(s.kind) for s in settings])
    loading = np.array([_loading(contrast, form, s) for s in settings])
    flagged = np.array([float(s.flagged) for s in settings])
    return x, kind, loading, flagged, np.array([s.noise for s in settings])


def to_be_missed(kind: str, tokens: float | None, knee: float) -> float:
    """m: 1 at the knee, and where nothing is known of the tokens."""
    return math.log2(1 + tokens / knee) if kind == CONTINUED and tokens else 1.0


def design(contrast: Contrast, form: Form, s: Setting) -> Array:
    """The row of moderators of a setting."""
    missed = to_be_missed(s.kind, s.tokens, form.knee)
    size, tokens = _log(s.parameters, 7e9, 10), 0.0 if s.kind == CONTINUED else _log(s.tokens, 1e8, 10)
    kind = np.zeros(len(KINDS))
    kind[kind_index(s.kind)] = 1.0
    untuned = float(not s.tuned)
    if contrast == "full":
        rank = height(s.rank, form.power)
        adapter = [float(s.method == m) for m in _ADAPTER_EFFECTS]
        common = [1.0, untuned, size, tokens, rank, _log(s.scaling, 1.0, 2)]
        return missed * np.array([*common, *kind, *(kind * rank), *(kind * tokens), *(kind * untuned), *adapter])
    if contrast == "rank":
        d = missed * _distance(s, form.power)
        common = [d, d * size, d * tokens, d * float(bool(s.alpha_moves)), d * untuned]
        return np.array([*common, *(kind * d), *(kind * d * tokens)])
    if contrast == "method":
        return np.array([untuned, *(float(s.method == m) for m in METHODS), *kind])
    return np.array([*(float(s.storage == q) for q in STORAGES), size, *kind])


def prior_of(contrast: Contrast) -> Prior:
    """Means and standard deviations in points for a step of one moderator; the means are zero but for a doubling of the
    rank, whose two ends, nothing and a step of GLUE's own spread over seeds (0.6), it lies between."""
    k = len(KINDS)
    full = [3.0, 2.0, 1.0, 1.0, 0.3, 0.5] + k * [2.0] + k * [0.5] + k * [2.0] + k * [UNTUNED]
    sd = {
        "full": full + len(_ADAPTER_EFFECTS) * [1.0],
        "rank": [0.3, 0.2, 0.2, 0.2, 0.3] + k * [0.5] + k * [0.3],
        "method": [1.0] + len(METHODS) * [1.0] + k * [0.5],
        "storage": len(STORAGES) * [1.0] + [0.5] + k * [0.5],
    }[contrast]
    mean = np.zeros(len(sd))
    if contrast in ("full", "rank"):
        mean[{"full": 4, "rank": 0}[contrast]] = 0.3
    return Prior(mean, np.array(sd))


def _loading(contrast: Contrast, form: Form, s: Setting) -> float:
    missed = to_be_missed(s.kind, s.tokens, form.knee)
    if contrast == "rank":
        return missed * _distance(s, form.power)
    if contrast == "full":
        return missed * (height(s.rank, form.power) / height(CENTER, form.power) if form.power else 1.0)
    return 1.0


def _log(value: float | None, center: float, base: float) -> float:
    return math.log(value / center, base) if value else 0.0


def _distance(s: Setting, power: float) -> float:
    return height(s.rank, power) - height(s.against_rank, power) if s.rank and s.against_rank else 0.0
