"""What a task hands to the engine: examples of token ids, and sets of multiple-choice items. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from lorabench import plugins
from lorabench.config.study import Cell, Condition
from lorabench.errors import LorabenchError
from lorabench.record.data import DataFacts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_LAST: dict[tuple[object, ...], TaskData] = {}


@dataclass(frozen=True)
class Example:
    """One sequence: ids (n,) int32; predicted (n,) bool, true where the token counts in the loss.

    The first token is never predicted. `n_bytes` is the UTF-8 length of the predicted text. A test row may bring what
    its answer is judged by,
    so that every metric of the task is over the same rows.
    """

    ids: np.ndarray
    predicted: np.ndarray
    n_bytes: int
    choices: tuple[Example, ...] = ()
    """the same prompt with each of the task's answers after it, the right one among them"""
    answer: int = 0
    """which of the choices is right"""
    prompt_length: int = 0
    """ids that stand before the answer, where it is to be generated"""
    reference: str = ""
    """what the generated answer is held against"""


@dataclass(frozen=True)
class MultipleChoice:
    """A context, its possible continuations (each with its leading space), and the index of the right one."""

    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class ChoiceSet:
    """A multiple-choice set that lm-eval scores by likelihood, under its name as an lm-eval task."""

    name: str
    items: tuple[MultipleChoice, ...]
    scored: bool = False
    """whether the engine itself scores these items (engine.answers), so that lm-eval does only where it is named"""


@dataclass(frozen=True)
class Generation:
    """How the answers of a test are generated and judged."""

    max_new_tokens: int
    pattern: str | None = None
    """regular expression whose first group is the answer in a text; None: all of it"""
    numeric: bool = False
    """whether commas, currency signs and a last full stop do not count"""


@dataclass(frozen=True)
class Planted:
    """By what a teacher differs from the base, for students that learn from it (engine.distill)."""

    ranks: tuple[tuple[str, int | None], ...]
    """target modules and the rank of the change in each of them; None is full rank"""
    scale: float
    """Frobenius norm of a change over that of its weight"""
    seed: int


@dataclass(frozen=True)
class TaskData:
    """The splits of a task. Packed: every position of a training sequence is text; padded: one example a row."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    packing: Literal["packed", "padded"]
    make_choice_sets: Callable[[], tuple[ChoiceSet, ...]] = tuple
    """called when the first evaluation asks for them: no training step waits for its test"""
    planted: Planted | None = None
    """where it is given, examples are places for text of the base, and what is learned is its teacher's distribution"""
    information_bits: float | None = None
    """what the predicted tokens of the test split hold, each sequence as much, where that is known because they are
    made up
    """
    generation: Generation | None = None
    """where it is given, the test's answers are generated and held against their references"""
    facts: DataFacts | None = None
    """what became of the rows; absent where a task makes its own"""

    @cached_property
    def choice_sets(self) -> tuple[ChoiceSet, ...]:
        """The task's multiple-choice sets."""
        return self.make_choice_sets()


def steps_of(condition: Condition) -> int | None:
    """Optimizer steps of a condition, whose rows are read where it gives epochs; None where they cannot be."""
    training = condition.training
    if training.epochs is None:
        return training.steps
    from lorabench.engine.model import load_tokenizer  # torch

    try:
        loaded = plugins.load("tasks", condition.task.name).load(
            condition.task, load_tokenizer(condition.model), training.sequence_length
        )
    except LorabenchError:
        return None
    return training.over(len(loaded.train)).steps


def task_data(cell: Cell, tokenizer: PreTrainedTokenizerBase) -> TaskData:
    """The task's examples; the last ones are kept, since cells in a row mostly ask for the same."""
    key = (
        cell.fingerprints,
        cell.task.model_dump_json(),
        cell.training.sequence_length,
    )  # options may hold dicts, which have no hash
    if key not in _LAST:
        loaded = plugins.load("tasks", cell.task.name).load(cell.task, tokenizer, cell.training.sequence_length)
        _LAST.clear()
        _LAST[key] = loaded
    return _LAST[key]
