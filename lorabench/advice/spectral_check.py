"""The second witness beside a choice by loss: how many directions were used of the rank that was trained, and what is
left after a cut.

    k(0.99)        of a change's energy (record.spectrum), mean over modules and seeds; its width is the most
                   that it can be
    unused         k(0.99) <= width / 2: a reason for a lower rank
    full           k(0.99) >= 0.9 width: a reason for a higher rank
    cut            the least rank to which a trained change can be cut without further training and lose no more than is
                   tolerated
    needed         a cut below the trained rank was tried and each loses more

A cut is the stronger of the two: a direction with little energy may matter and one with much may not, and what a short
training leaves in directions that it does not need is energy, too. Neither knows what training at the lower rank would
find, so they never move the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lorabench.advice.selection import Option
from lorabench.analysis.spectra import measured, spectra, truncations
from lorabench.record.metrics import metric as described
from lorabench.record.result import CellResult

SHARE = 0.99  # of the energy: the q of k(q)
UNUSED, FULL = 0.5, 0.9  # of the width
Lean = Literal["agrees", "less", "more", "open"]
ResultsOf = Callable[[str], Sequence[CellResult]]
"""condition to the results of its cells"""
FileOf = Callable[[str, str], Path]
"""cell id and name to a file beside the result"""


@dataclass(frozen=True)
class LearnedRank:
    """What one condition learned."""

    label: str
    rank: int | None
    """of its adapters"""
    width: float
    """the most that a change can use: of the adapter (twice the rank for pissa), else the smaller side of the matrix"""
    energy_rank: float
    """k(0.99), mean over modules and seeds"""
    least: float
    """of the modules, each a mean over seeds"""
    most: float
    seeds: int
    cut: int | None = None
    """least rank to which it can be cut within the tolerated loss, and so to every rank above; absent where none was
    tried or none is within"""
    short: int | None = None
    """highest rank tried at which it loses more; absent where there is none"""

    @property
    def needed(self) -> bool:
        """Whether cuts below its own rank were tried and none is within the tolerated loss."""
        return self.short is not None and (self.cut is None or (self.rank is not None and self.cut >= self.rank))

    @property
    def unused(self) -> bool:
        """Whether half of the width or more is left."""
        return self.energy_rank <= UNUSED * self.width

    @property
    def full(self) -> bool:
        """Whether the width is used up."""
        return self.energy_rank >= FULL * self.width

    @property
    def sentence(self) -> str:
        """ "What LoRA r=16 learned has 99 % of its energy in 4.1 of 16 directions on average (2 to 6 over modules): a
        reason for a lower rank.\""""
        over = f" ({self.least:.3g} to {self.most:.3g} over modules)" if self.most > self.least else ""
        lean = (
            ": a reason for a lower rank"
            if self.unused and not self.needed
            else ": all but used up, a reason for a higher rank"
            if self.full
            else ""
        )
        sentence = (
            f"What {self.label} learned has {100 * SHARE:g} % of its energy in {self.energy_rank:.3g} of"
            f" {self.width:.4g} directions on average{over}{lean}."
        )
        if self.needed:
            return f"{sentence} Cut to rank {self.short} without further training it loses more than is tolerated."
        if self.cut is None or self.cut == self.rank:
            return sentence
        beyond = f"; cut to {self.short} it loses more" if self.short else ""
        return (
            f"{sentence} Cut to rank {self.cut} without further training it stays within the tolerated loss on"
            f" average{beyond}."
        )


@dataclass(frozen=True)
class SpectralCheck:
    """What the spectra say of a choice."""

    chosen: LearnedRank
    highest: LearnedRank | None
    """the highest rank beside it: of its family, of all where it has no rank; absent where it is that itself"""
    lower: bool
    """whether its family was tried at a lower rank"""

    @property
    def lean(self) -> Lean:
        """Whether they speak for the choice, for less, for more, or for none of these."""
        own, top = self.chosen, self.highest
        if own.rank is None:
            return "open" if top is None else "agrees" if top.full else "less" if top.unused else "open"
        if (own.unused and not own.needed) or (own.cut is not None and own.cut < own.rank):
            return "open" if own.full else "less"
        if top is None:
            return "more" if own.full else "agrees"
        if round(top.energy_rank) <= own.width or (top.cut is not None and top.cut <= own.rank):
            return "agrees"
        if (
            own.full
        ):  # a low rank is filled by almost anything: it takes a high one that is full as well to ask for more
            return "more" if top.full else "open"
        return "agrees" if top.unused else "open"

    @property
    def sentence(self) -> str:
        """What each learned, and where that agrees with the choice."""
        own, top = self.chosen, self.highest
        lower = "." if self.lower else ", and a lower one was not tried."
        less = (
            f"{top.label} left half of its rank unused, so rank is not what it lacks."
            if own.rank is None and top
            else f"they speak for a lower rank{lower}"
        )
        verdict = {
            "agrees": f"The spectra agree with the choice of {own.label}.",
            "more": f"The spectra disagree with the choice of {own.label}: they speak for a higher rank.",
            "less": f"The spectra disagree with the choice of {own.label}: {less}",
            "open": f"The spectra speak neither for nor against the choice of {own.label}.",
        }[self.lean]
        return " ".join((*((top.sentence,) if top else ()), own.sentence, verdict))


def spectral_check(
    chosen: Option, options: Sequence[Option], results: ResultsOf, file: FileOf, metric: str, tolerated: float | None
) -> SpectralCheck | None:
    """Of a choice among options; None where its cells kept no spectra."""
    own = used(chosen, results, file, metric, tolerated)
    if own is None:
        return None
    ranked = [
        o
        for o in options
        if o.rank is not None and (chosen.rank is None or (o.family == chosen.family and o.family >= 0))
    ]
    top = max(ranked, key=lambda o: o.rank or 0, default=None)
    highest = None if top is None or top.condition == chosen.condition else used(top, results, file, metric, tolerated)
    return SpectralCheck(own, highest, any((o.rank or 0) < (chosen.rank or 0) for o in ranked))


def used(option: Option, results: ResultsOf, file: FileOf, metric: str, tolerated: float | None) -> LearnedRank | None:
    """What one option learned; None where its cells kept no spectra."""
    finished = [r for r in results(option.condition) if r.outcome == "finished"]
    cells = [values for r in finished if (values := spectra(file(r.cell.id, "spectra.safetensors")))]
    energy, width = measured(cells, lambda x: float(x.energy_rank(SHARE))), measured(cells, lambda x: x.rank)
    if energy is None or width is None:
        return None
    modules: dict[str, list[int]] = {}
    for s in (s for cell in cells for s in cell):
        modules.setdefault(s.module, []).append(s.energy_rank(SHARE))
    each = [float(np.mean(values)) for values in modules.values()]
    cut, short = (None, None) if tolerated is None else least_cut(finished, file, metric, tolerated)
    return LearnedRank(option.label, option.rank, width.mean, energy.mean, min(each), max(each), energy.n, cut, short)


def least_cut(
    finished: Sequence[CellResult], file: FileOf, metric: str, tolerated: float
) -> tuple[int | None, int | None]:
    """The least rank, the same for all modules, that loses no more than is tolerated in the mean over seeds, as do all
    cuts above it; the next below it."""
    sign = -1.0 if described(metric).better == "higher" else 1.0
    losses: dict[int, list[float]] = {}
    for r in finished:
        whole = r.value(metric)
        for t in truncations(file(r.cell.id, "truncation.csv")):
            if t.allocation == "uniform" and whole is not None and (value := t.value(metric)) is not None:
                losses.setdefault(t.rank, []).append(sign * (value - whole))
    least = None
    for rank in sorted(losses, reverse=True):
        if float(np.mean(losses[rank])) > tolerated:
            return least, rank
        least = rank
    return least, None
