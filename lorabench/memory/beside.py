"""What a cell takes beside its training: loading, sampling and evaluating, decomposing, and the memory probe of a CPU;
always as a range.

From the finished cells of stored results that ran on the card and measured their whole time (`cell_seconds`): the
median of those most like the condition, by model, quantization, method and evaluation, within SPREAD. Where there is
none, from the step: an evaluation position takes 1 / passes of a training position's time (engine.outlook), with as
many positions as the settings allow, and half of them at the least; a decomposition takes what the matrices need at
this machine's speed on a CPU, and at FLOAT64 operations a second on a GPU; lm-eval's tasks are left out, whose size
only a task tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from lorabench import plugins
from lorabench.config.gpus import Gpu
from lorabench.config.study import Condition
from lorabench.engine.outlook import ONE_BY_ONE
from lorabench.engine.outlook import speed as speed_here
from lorabench.memory.calibration import is_on
from lorabench.memory.roofline import Seconds
from lorabench.record.result import CellResult
from lorabench.spectra.alignment import INTRUDERS_UP_TO

SPREAD = 1.5  # of measured ones: the first cell of a process and of a base takes longer than the others
GUESS = 2.0
LOAD_BYTES = 2e8  # read, checked and placed a second
FLOAT64 = 4e11  # of a consumer's card; a matrix' eigenvectors take ten times as long as its product
SAMPLED = 64 * 64  # tokens of the base's text: engine.evaluate


@dataclass(frozen=True)
class Whole:
    """What stored cells took beside their training."""

    condition: Condition
    seconds: float


def measured_beside(results: Iterable[CellResult], card: Gpu) -> tuple[Whole, ...]:
    """Of the finished cells on a card that timed themselves as a whole."""
    wholes = []
    for r in results:
        whole = r.value("cell_seconds")
        if r.outcome == "finished" and whole is not None and is_on(card, r.environment):
            wholes.append(Whole(r.cell.condition, max(0.0, whole - (r.value("train_seconds") or 0.0))))
    return tuple(wholes)


def beside(condition: Condition, wholes: Sequence[Whole]) -> Seconds | None:
    """By the stored cells most like a condition; None where none is of its model."""
    alike = [
        (_likeness(condition, w.condition), w.seconds) for w in wholes if w.condition.model.name == condition.model.name
    ]
    if not alike:
        return None
    best = max(a for a, _ in alike)
    middle = median(s for a, s in alike if a == best)
    return Seconds(middle / SPREAD, middle * SPREAD)


def guessed(
    condition: Condition, step: Seconds, sides: Sequence[tuple[int, int]], weight_bytes: float, card: Gpu
) -> Seconds:
    """Where no cell ran: from the seconds of an optimizer step and the sides of the adapted matrices."""
    t, e = condition.training, condition.evaluation
    base = plugins.load("methods", condition.method.name).TRAINS_BASE
    position = (
        1
        / ((3 if base else 2) + t.gradient_checkpointing)
        / (t.batch_size * t.gradient_accumulation * t.sequence_length)
    )  # in steps
    domain = SAMPLED if e.forgetting != "none" else 0
    held_out = e.max_sequences * t.sequence_length
    cuts = len(condition.analysis.truncation) * (1 + condition.analysis.per_module)
    steps = position * (held_out * (1 + cuts) + domain * (2 + ONE_BY_ONE)) + (2 if card.kind == "cpu" else 0)
    fixed = weight_bytes / LOAD_BYTES + _decompositions(condition, sides, card)
    return Seconds(step.least * steps / GUESS + fixed / GUESS, step.most * steps + fixed * GUESS)


def _decompositions(condition: Condition, sides: Sequence[tuple[int, int]], card: Gpu) -> float:
    if condition.analysis.spectra == "none":
        return 0.0
    gram, eigen = speed_here() if card.kind == "cpu" else (2 / FLOAT64, 20 / FLOAT64)
    dense = condition.method.name in ("full", "dora")
    total = 0.0
    for n, m in (sorted(s) for s in sides):
        often = 2 * dense + (condition.analysis.spectra == "full") * (n <= INTRUDERS_UP_TO) * (
            2 + (condition.quantization.name != "none")
        )
        total += often * (gram * n * n * m + eigen * n**3)
    return total


def _likeness(one: Condition, other: Condition) -> tuple[bool, ...]:
    return (
        (one.training.steps > 0) == (other.training.steps > 0),
        one.quantization.name == other.quantization.name,
        one.evaluation == other.evaluation,
        one.method.name == other.method.name,
        one.analysis == other.analysis,
        one.method.rank == other.method.rank,
    )
