"""How long cells are going to take, phase by phase: from what was measured, and before that from what a running cell tells of itself.

A phase of a cell to come takes as long as it took in the measured cells that are most like it (model, quantization, method, rank, the whole
condition, in this order), in proportion to its work:

    train        steps, positions of a step, and passes (3 where the base is trained, 2 where it is frozen, 1 more with checkpointing)
    evaluate     held-out sequences at most
    decompose    twice as much for dense changes; once a base is decomposed, LESS of what its first cell took
    truncate     cuts
    start        nothing for a condition that ran already: its memory is predicted; others are traced anew
    sample       once a base; prepare: once a process

A running cell counts as measured, too, with the phases that it has behind it, its own pace of training, and `ahead` (engine.outlook) for what
nobody has measured. Where the training of a cell cannot be told, nothing is; where another phase cannot, the sum is a lower bound.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lorabench import plugins

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event
    from lorabench.record.result import CellResult

PHASES = ("start", "load", "sample", "prepare", "train", "evaluate", "save", "decompose", "truncate", "measure", "rest")
OVER = {  # what a cell has behind it once it is in a phase, whether it told of it or not
    "train": {"start", "load"}, "evaluate": {"start", "load", "sample", "prepare", "train", "save"},
    "decompose": set(PHASES[:7]), "truncate": set(PHASES[:8]), "measure": set(PHASES[:9]),
}  # fmt: skip
STORED = {"load": "load_seconds", "train": "train_seconds", "evaluate": "eval_seconds"} | {
    p: f"{p}_seconds" for p in ("sample", "prepare", "save", "decompose", "truncate", "measure")
}
LESS = 0.6
LONG = 1.0  # seconds of a phase that are worth a line
MOST = 60  # measured cells that are looked at, the latest
ROWS = 10_000  # of an epoch, whose rows a runner does not know: cells with epochs are held against each other
LATEST = 5  # measured cells that a mean is over


@dataclass(frozen=True)
class Measured:
    """The seconds of a cell by phase."""

    cell: Cell
    seconds: Mapping[str, float]
    new_base: bool = False
    """whether its base was decomposed in it"""
    now: bool = True
    """whether this run measured it, whose processes keep what they made"""


def stored(result: CellResult) -> Measured | None:
    """Of a result of an earlier run; None where it did not finish, or tells too little."""
    found = {p: v for p, m in STORED.items() if (v := result.value(m)) is not None}
    if result.outcome != "finished" or "evaluate" not in found:
        return None
    if (whole := result.value("cell_seconds")) is not None:
        found["rest"] = max(0.0, whole - sum(found.values()))
    else:
        found |= {
            "save": 0.0,
            "decompose": found.get("decompose", 0.0),
            "measure": found.get("measure", 0.0),
        }  # of a version that did not time them
    return Measured(result.cell, found, now=False)


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


class Clockwork:
    """What a run has measured, and what it expects of the cells to come."""

    def __init__(self, known: Iterable[Measured] = ()) -> None:
        self.known = list(known)

    def finished(self, now: Running, seconds: float, when: float) -> None:
        """Takes a cell that has ended."""
        now.close(when)
        rest = seconds - sum(now.took.values())
        self.known.append(Measured(now.cell, {**now.took, "rest": max(rest, 0.0)}, now.new_base))

    def begin(self, cell: Cell) -> bool:
        """Whether a cell that starts is the first on its base."""
        return not any(_base(m.cell) == _base(cell) for m in self.known)

    def left(
        self, running: Sequence[Running], left: Sequence[Cell], workers: int, now: float
    ) -> tuple[float, bool] | None:
        """Seconds until the last cell ends, cells taken in their order by so many workers, and whether all of their phases can be told; None where training cannot."""
        known, made = self.known[-MOST:], {}
        for r in sorted(running, key=lambda r: not r.ahead):  # those that tell of themselves first, for the others
            others = [m for m in known if m.cell.id != r.cell.id]
            made[r.cell.id] = self.profile(r, others, now)
            known = [*others, Measured(r.cell, made[r.cell.id], r.new_base)]
        profiles, seen = [made[r.cell.id] for r in running], known
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
        to_come = self._to_come(seen, left)
        if to_come is None:
            return None
        for seconds, complete in to_come:
            whole &= complete
            heapq.heappush(free, heapq.heappop(free) + seconds)
        return max(free, default=0.0), whole

    def _to_come(self, seen: Sequence[Measured], left: Sequence[Cell]) -> list[tuple[float, bool]] | None:
        """Seconds of each cell that has not begun, and whether that is all of it; None where the training of one cannot be told."""
        found = []
        bases, grounds = {_base(m.cell) for m in seen}, {_ground(m.cell) for m in seen if m.now}
        asked: dict[tuple[object, ...], tuple[float, bool] | None] = {}
        for cell in left:
            key = (cell.condition_id, cell.training.learning_rate, _base(cell) in bases, _ground(cell) in grounds)
            if key not in asked:
                profile = expected(
                    cell, seen, base_is_new=_base(cell) not in bases, text_is_new=_ground(cell) not in grounds
                )
                known = "train" not in wanted(cell) or "train" in profile
                asked[key] = (sum(profile.values()), told(cell, profile)) if known else None
            if (one := asked[key]) is None:
                return None
            found.append(one)
            bases.add(_base(cell))
            grounds.add(_ground(cell))
        return found

    def profile(self, r: Running, others: Sequence[Measured], now: float) -> dict[str, float]:
        """Every phase of a running cell: measured where it is over, else expected."""
        pace = r.pace(now)
        found = expected(
            r.cell,
            others,
            base_is_new=r.new_base,
            text_is_new=not any(m.now and _ground(m.cell) == _ground(r.cell) for m in others),
        )
        alike = any(_likeness(r.cell, m.cell)[:3] == (True, True, True) for m in others)
        if pace is not None:
            found["train"] = pace * r.steps
            for phase, (seconds, steps) in r.ahead.items():
                if not alike or phase not in found:
                    found[phase] = seconds + steps * pace
        elif r.ahead and not alike:
            found |= {phase: seconds for phase, (seconds, steps) in r.ahead.items() if not steps}
        for phase in ("sample", "prepare"):
            if phase not in r.ahead:
                found.pop(phase, None)
        return found | r.took

    def remaining(self, r: Running, profile: Mapping[str, float], now: float) -> tuple[float | None, bool]:
        """What is left of a running cell, and whether all of its phases can be told."""
        if r.phase == "start" and r.last is None:  # nothing is known of where it is
            if "train" in wanted(r.cell) and "train" not in profile:
                return None, False
            return max(sum(profile.values()) - (now - r.began), 0.0), told(r.cell, profile)
        over = OVER.get(r.phase, set()) | r.took.keys()
        to_come = [p for p in profile if p not in over and p != r.phase]
        if "train" in wanted(r.cell) and "train" not in over and "train" not in profile:
            return None, False
        return self._of_phase(r, profile.get(r.phase), now) + sum(profile[p] for p in to_come), told(
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


def wanted(cell: Cell) -> set[str]:
    """The phases without which the time of a cell is not known."""
    trains = cell.training.steps > 0
    return (
        {"evaluate"}
        | ({"train"} if trains else set())
        | ({"decompose"} if trains and cell.analysis.spectra != "none" else set())
    )


def told(cell: Cell, phases: Collection[str]) -> bool:
    """Whether these phases are all of a cell: those that are wanted, or the rest of a whole cell that told no phases."""
    return "rest" in phases or wanted(cell) <= set(phases)


def expected(cell: Cell, seen: Sequence[Measured], base_is_new: bool, text_is_new: bool) -> dict[str, float]:
    """Seconds by phase of a cell to come; phases that nobody has measured are absent. Whether its base is still to be decomposed, and its text to be sampled."""
    found = {}
    for phase in PHASES:
        work = _work(cell, phase)
        if not work:
            continue
        if (
            phase == "prepare"
            or (phase == "sample" and not text_is_new)
            or (phase == "start" and any(m.cell.condition_id == cell.condition_id for m in seen))
        ):
            continue
        some = [m for m in seen if phase in m.seconds and _work(m.cell, phase)]
        if not some:
            continue
        best = max(_likeness(cell, m.cell) for m in some)
        each = [
            m.seconds[phase] / _work(m.cell, phase) * _again(phase, m.new_base, base_is_new)
            for m in some
            if _likeness(cell, m.cell) == best
        ][-LATEST:]
        found[phase] = work * sum(each) / len(each)
    return found


def _again(phase: str, was_new: bool, is_new: bool) -> float:
    if phase != "decompose" or was_new == is_new:
        return 1.0
    return LESS if was_new else 1 / LESS


def _work(cell: Cell, phase: str) -> float:
    t, trains = cell.training, cell.training.steps > 0
    if phase == "train":
        passes = (3 if plugins.load("methods", cell.method.name).TRAINS_BASE else 2) + t.gradient_checkpointing
        rows = t.epochs * ROWS if t.epochs is not None else t.steps * t.batch_size * t.gradient_accumulation
        return float(rows * t.sequence_length * passes)
    if phase == "sample":
        return float(trains and cell.evaluation.forgetting != "none")
    if phase == "evaluate":
        return float(cell.evaluation.max_sequences)
    if phase == "decompose":
        return (
            trains
            * {"none": 0.0, "values": 0.2, "full": 1.0}[cell.analysis.spectra]
            * (2.0 if cell.method.name in ("full", "dora") else 1.0)
        )
    if phase == "truncate":
        return float(len(cell.analysis.truncation) * (1 + cell.analysis.per_module))
    if phase == "measure":
        return float(t.batch_size * t.gradient_accumulation * t.sequence_length) if trains else 1.0
    return 1.0


def _likeness(one: Cell, other: Cell) -> tuple[bool, ...]:
    return tuple(a == b for a, b in zip(_traits(one.id, one), _traits(other.id, other), strict=True))


_TRAITS: dict[str, tuple[object, ...]] = {}


def _traits(cell_id: str, cell: Cell) -> tuple[object, ...]:
    """What cells are alike in, the most telling first; kept, since a display asks twice a second."""
    if cell_id not in _TRAITS:
        _TRAITS[cell_id] = (
            cell.model.name,
            cell.quantization.name,
            cell.method.name,
            cell.training.steps > 0,
            cell.method.rank,
            cell.condition_id,
        )
    return _TRAITS[cell_id]


def _base(cell: Cell) -> tuple[object, ...]:
    """What a base's decompositions are kept by; a base that nothing is trained on is not decomposed."""
    return (cell.fingerprints.model, cell.quantization, cell.training.steps > 0)


def _ground(cell: Cell) -> tuple[object, ...]:
    """By what a base's text is kept; see engine.domain."""
    trains = cell.training.steps > 0  # the base itself forgets nothing
    return (
        cell.fingerprints.model,
        cell.quantization,
        cell.evaluation,
        cell.training.sequence_length,
        plugins.load("methods", cell.method.name).TRAINS_BASE,
        trains,
    )
