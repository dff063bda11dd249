"""How long cells are going to take, phase by phase: from what was measured, and before that from what a running cell
tells of itself.

A phase of a cell to come takes as long as it took in the measured cells that are most like it (model, quantization,
method, rank, the whole condition, in this order), in proportion to its work:

    train        steps, positions of a step, and passes (3 where the base is trained, 2 where it is frozen, 1 more with
                 checkpointing)
    evaluate     held-out sequences at most
    decompose    twice as much for dense changes; once a base is decomposed, LESS of what its first cell took
    truncate     cuts
    start        nothing for a condition that ran already: its memory is predicted; others are traced anew
    sample       once a base; prepare: once a process
    measure      once a condition (Cell.measured_as)

A running cell counts as measured, too, with the phases that it has behind it, its own pace of training, and `ahead`
(engine.outlook) for what nobody has measured. Where the training of a cell cannot be told, nothing is; where another
phase cannot, the sum is a lower bound.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lorabench.runner.phase_seconds import (
    PHASES,
    Measured,
    base_of,
    expected,
    is_complete,
    likeness,
    needed_phases,
    sampled_by,
)

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event

OVER = {  # what a cell has behind it once it is in a phase, whether it told of it or not
    "train": {"start", "load"}, "evaluate": {"start", "load", "sample", "prepare", "train", "save"},
    "decompose": set(PHASES[:7]), "truncate": set(PHASES[:8]), "measure": set(PHASES[:9]),
}  # fmt: skip
LONG = 1.0  # seconds of a phase that are worth a line
ALONE = 6  # steps that a cell of a pack takes by itself, engine.pack.PROBE_STEPS
MOST = 60  # measured cells that are looked at, the latest


@dataclass
class Running:
    """A cell that runs now."""

    number: int
    words: str
    cell: Cell
    began: float
    last: Event | None = None
    loss: float | None = None
    trained_from: float | None = None
    """when its first optimizer step of this run was reported"""
    first_step: int = 1
    """which that was: a cell that goes on from a checkpoint has others behind it"""
    phase: str = "start"
    phase_from: float = 0.0
    took: dict[str, float] = field(default_factory=dict)
    """seconds of the phases that it has behind it"""
    former: str | None = None
    """the last phase that took long, as long as that is news"""
    ahead: Mapping[str, Sequence[float]] = field(default_factory=dict)
    new_base: bool = False
    steps: int = 0
    """optimizer steps in all, which epochs do not tell before the data are read"""
    pack: tuple[str, ...] = ()
    """cells whose steps are taken with its own"""

    def __post_init__(self) -> None:
        self.steps = self.steps or self.cell.training.steps

    def see(self, event: Event, now: float) -> bool:
        """Takes what it tells; true where a phase began."""
        self.last = event
        self.loss = event.loss if event.loss is not None else self.loss
        self.ahead = event.ahead or self.ahead
        if event.step and self.trained_from is None:
            self.trained_from, self.first_step = now, event.step
        self.steps = event.steps or self.steps
        self.pack = event.pack or self.pack
        if event.phase in (self.phase, "foresee"):
            return False
        self.close(now)
        if now - self.phase_from >= LONG:
            self.former = self.phase
        self.phase, self.phase_from = event.phase, now
        return True

    def close(self, now: float) -> None:
        """Counts the phase that it is in as behind it."""
        self.took[self.phase] = self.took.get(self.phase, 0.0) + now - self.phase_from

    def pace(self, now: float) -> float | None:
        """Seconds of an optimizer step; None before its second one."""
        if self.trained_from is None or (steps := self.steps_taken - self.first_step) < 1:
            return None
        if self.phase == "train":
            return (now - self.trained_from) / steps
        return self.took["train"] / (steps + 1) if "train" in self.took else None

    @property
    def steps_taken(self) -> int:
        """Optimizer steps that are behind it."""
        return (
            (self.last.step or 0)
            if self.last is not None and self.phase == "train"
            else self.steps
            if "train" in self.took
            else 0
        )


class TimeEstimator:
    """What a run has measured, and what it expects of the cells to come."""

    def __init__(self, measured: Iterable[Measured] = ()) -> None:
        self.measured = list(measured)
        self._bases = {base_of(m.cell) for m in self.measured}
        self.packs: dict[str, int] = {}
        """cells whose steps another one took with its own, and how many it was that trained at once"""

    def finished(self, now: Running, seconds: float, when: float) -> None:
        """Takes a cell that has ended."""
        now.close(when)
        rest = seconds - sum(now.took.values())
        self.measured.append(Measured(now.cell, {**now.took, "rest": max(rest, 0.0)}, now.new_base))
        self._bases.add(base_of(now.cell))

    def begin(self, cell: Cell) -> bool:
        """Whether a cell that starts is the first on its base."""
        return base_of(cell) not in self._bases

    def left(
        self, running: Sequence[Running], left: Sequence[Cell], workers: int, now: float
    ) -> tuple[float, bool] | None:
        """Seconds until the last cell ends, cells taken in their order by so many workers, and whether all of their
        phases can be told; None where training cannot."""
        measured, profile_of = self.measured[-MOST:], {}
        for r in sorted(running, key=lambda r: not r.ahead):  # those that tell of themselves first, for the others
            others = [m for m in measured if m.cell.id != r.cell.id]
            profile_of[r.cell.id] = self.profile(r, others, now)
            measured = [*others, Measured(r.cell, profile_of[r.cell.id], r.new_base)]
        profiles, all_measured = [profile_of[r.cell.id] for r in running], measured
        whole = True
        free = []
        for r, profile in zip(running, profiles, strict=True):
            remaining, complete = self.remaining(r, profile, now)
            if remaining is None:
                return None
            whole &= complete
            free.append(remaining)
        free += [0.0] * max(0, workers - len(running))
        heapq.heapify(free)
        for r in running:
            self.packs |= dict.fromkeys(r.pack[1:], len(r.pack))
        to_come = self._to_come(all_measured, left)
        if to_come is None:
            return None
        for seconds, complete in to_come:
            whole &= complete
            heapq.heappush(free, heapq.heappop(free) + seconds)
        return max(free, default=0.0), whole

    def _to_come(self, measured: Sequence[Measured], left: Sequence[Cell]) -> list[tuple[float, bool]] | None:
        """Seconds of each cell that has not begun, and whether that is all of it; None where the training of one cannot
        be told."""
        times = []
        bases, now = {base_of(m.cell) for m in measured}, [m.cell for m in measured if m.now]
        grounds, conditions = {sampled_by(c) for c in now}, {c.measured_as for c in now}
        time_of: dict[tuple[object, ...], tuple[float, bool] | None] = {}
        for cell in left:
            pack = self.packs.get(cell.id)
            key = (
                cell.condition_id,
                cell.training.learning_rate,
                base_of(cell) in bases,
                sampled_by(cell) in grounds,
                cell.measured_as in conditions,
                pack,
            )
            if key not in time_of:
                profile = expected(
                    cell,
                    measured,
                    base_is_new=base_of(cell) not in bases,
                    text_is_new=sampled_by(cell) not in grounds,
                    memory_is_new=cell.measured_as not in conditions,
                )
                if (
                    pack and "train" in profile
                ):  # what is left of it are a few steps alone, of some that took as many cells
                    profile["train"] *= min(1.0, ALONE / max(cell.training.steps, 1)) / pack
                is_known = "train" not in needed_phases(cell) or "train" in profile
                time_of[key] = (sum(profile.values()), is_complete(cell, profile)) if is_known else None
            if (time := time_of[key]) is None:
                return None
            times.append(time)
            bases.add(base_of(cell))
            grounds.add(sampled_by(cell))
            conditions.add(cell.measured_as)
        return times

    def profile(self, r: Running, others: Sequence[Measured], now: float) -> dict[str, float]:
        """Every phase of a running cell: measured where it is over, else expected."""
        pace = r.pace(now)
        phase_seconds = expected(
            r.cell,
            others,
            base_is_new=r.new_base,
            text_is_new=not any(m.now and sampled_by(m.cell) == sampled_by(r.cell) for m in others),
            memory_is_new=not any(m.now and m.cell.measured_as == r.cell.measured_as for m in others),
        )
        alike = any(likeness(r.cell, m.cell)[:3] == (True, True, True) for m in others)
        if pace is not None:
            phase_seconds["train"] = pace * r.steps
            for phase, (seconds, steps) in r.ahead.items():
                if not alike or phase not in phase_seconds:
                    phase_seconds[phase] = seconds + steps * pace
        elif r.ahead and not alike:
            phase_seconds |= {phase: seconds for phase, (seconds, steps) in r.ahead.items() if not steps}
        for phase in ("sample", "prepare"):
            if phase not in r.ahead:
                phase_seconds.pop(phase, None)
        return phase_seconds | r.took

    def remaining(self, r: Running, profile: Mapping[str, float], now: float) -> tuple[float | None, bool]:
        """What is left of a running cell, and whether all of its phases can be told."""
        if r.phase == "start" and r.last is None:  # nothing is known of where it is
            if "train" in needed_phases(r.cell) and "train" not in profile:
                return None, False
            return max(sum(profile.values()) - (now - r.began), 0.0), is_complete(r.cell, profile)
        over = OVER.get(r.phase, set()) | r.took.keys()
        to_come = [p for p in profile if p not in over and p != r.phase]
        if "train" in needed_phases(r.cell) and "train" not in over and "train" not in profile:
            return None, False
        return self._of_phase(r, profile.get(r.phase), now) + sum(profile[p] for p in to_come), is_complete(
            r.cell, profile.keys() | over | {r.phase}
        )

    def _of_phase(self, r: Running, expected: float | None, now: float) -> float:
        pace, spent, event = r.pace(now), now - r.phase_from, r.last
        if r.phase == "train" and pace is not None:
            return pace * (r.steps - r.steps_taken)
        by_plan = max((expected or 0.0) - spent, 0.0)
        if event is None or not event.done or not event.total or event.done >= event.total:
            return by_plan
        share = event.done / event.total
        return share * spent * (1 - share) / share + (1 - share) * by_plan
