"""How long each phase of a cell takes, told from the measured cells that are most like it: the rules stand in
runner.timing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorabench import plugins

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.record.result import CellResult

PHASES = ("start", "load", "sample", "prepare", "train", "evaluate", "save", "decompose", "truncate", "measure", "rest")
STORED = {"load": "load_seconds", "train": "train_seconds", "evaluate": "eval_seconds"} | {
    p: f"{p}_seconds" for p in ("sample", "prepare", "save", "decompose", "truncate", "measure")
}
LESS = 0.6
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
    seconds = {p: v for p, m in STORED.items() if (v := result.value(m)) is not None}
    if result.outcome != "finished" or "evaluate" not in seconds:
        return None
    if (whole := result.value("cell_seconds")) is not None:
        seconds["rest"] = max(0.0, whole - sum(seconds.values()))
    else:
        seconds |= {
            "save": 0.0,
            "decompose": seconds.get("decompose", 0.0),
            "measure": seconds.get("measure", 0.0),
        }  # of a version that did not time them
    return Measured(result.cell, seconds, now=False)


def needed_phases(cell: Cell) -> set[str]:
    """The phases without which the time of a cell is not known."""
    trains = cell.training.steps > 0
    return (
        {"evaluate"}
        | ({"train"} if trains else set())
        | ({"decompose"} if trains and cell.analysis.spectra != "none" else set())
    )


def is_complete(cell: Cell, phases: Collection[str]) -> bool:
    """Whether these phases are all of a cell: those that are wanted, or the rest of a whole cell that told no
    phases."""
    return "rest" in phases or needed_phases(cell) <= set(phases)


def expected(
    cell: Cell, measured: Sequence[Measured], base_is_new: bool, text_is_new: bool, memory_is_new: bool
) -> dict[str, float]:
    """Seconds by phase of a cell to come; phases that nobody has measured are absent. Whether its base is still to be
    decomposed, its text to be sampled, and its memory to be measured."""
    seconds = {}
    alike = [(m, likeness(cell, m.cell)) for m in measured]
    for phase in PHASES:
        work = _work(cell, phase)
        if not work:
            continue
        if (
            phase == "prepare"
            or (phase == "sample" and not text_is_new)
            or (phase == "measure" and not memory_is_new)
            or (phase == "start" and any(m.cell.condition_id == cell.condition_id for m in measured))
        ):
            continue
        some = [(m, like) for m, like in alike if phase in m.seconds and _work(m.cell, phase)]
        if not some:
            continue
        best = max(like for _, like in some)
        each = [
            m.seconds[phase] / _work(m.cell, phase) * _base_factor(phase, m.new_base, base_is_new)
            for m, like in some
            if like == best
        ]
        # next to nothing in a cell whose condition had been measured
        each = [max(each)] if phase == "measure" else each[-LATEST:]
        seconds[phase] = work * sum(each) / len(each)
    return seconds


def _base_factor(phase: str, was_new: bool, is_new: bool) -> float:
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


def likeness(one: Cell, other: Cell) -> tuple[bool, ...]:
    """Which traits two cells share, the most telling first; the larger tuple is the closer likeness."""
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


def base_of(cell: Cell) -> tuple[object, ...]:
    """What a base's decompositions are kept by; a base that nothing is trained on is not decomposed."""
    return (cell.fingerprints.model, cell.quantization, cell.training.steps > 0)


def sampled_by(cell: Cell) -> tuple[object, ...]:
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
