"""a teacher that differs from the base by a change of known rank, which students are distilled from: the right answer \
is known

    W_teacher = W + delta,   ||delta||_F = scale * ||W||_F,   rank(delta) = rank, its singular values all equal
    loss = KL(teacher || student) over the vocabulary at each token of text sampled from the base     [nats per token]

The change is drawn once for a task (`seed`), so that all cells of a study learn from the same teacher. It is planted
into the unquantized base; a student may be quantized. The engine samples the text and makes the teacher
(engine.distill): a task has no model.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from lorabench.config.frozen import Number, Seed, Whole
from lorabench.config.settings import TaskSpec
from lorabench.engine.data import Example, Planted, TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


PATH_FIELDS = ()
MODULES = ("q_proj", "v_proj")
MADE_UP = True  # says nothing of other tasks

Rank = Annotated[Whole, Field(ge=1)] | Literal["full"]


class Options(TaskSpec):
    """What is planted, and how much text it is learned from."""

    name: Literal["planted"] = "planted"
    """planted"""
    rank: Rank | dict[str, Rank] = 4
    """of the planted change; full for one of full rank; {q_proj: 2, v_proj: 8} for one of its own in each kind of
    module"""
    targets: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """modules that are changed, as method.target_modules names them; absent: q_proj and v_proj, or those that rank
    names"""
    scale: Number = Field(0.5, gt=0)
    """Frobenius norm of a change over that of its weight"""
    seed: Seed = 0
    """of the change and of the text"""
    sequences: Annotated[Whole, Field(ge=8)] = 512
    """texts sampled for training; a quarter as many for validation and as many for the test"""

    @model_validator(mode="after")
    def _once(self) -> Options:
        if isinstance(self.rank, dict) and self.targets is not None:
            raise ValueError("rank names the modules already; remove targets, or give one rank for all of them")
        if isinstance(self.rank, dict) and not self.rank:
            raise ValueError(
                "rank names no module; give a number, full, or a rank for each module such as {q_proj: 2, v_proj: 8}"
            )
        return self


def fingerprint(options: Options) -> str:
    """Of the way in which it is made: the options are part of a cell's id as they stand."""
    return hashlib.sha256(b"planted 1").hexdigest()


def planted(options: Options) -> Planted:
    """What the engine plants."""
    ranks = options.rank if isinstance(options.rank, dict) else dict.fromkeys(_names(options.targets), options.rank)
    return Planted(
        tuple((name, None if rank == "full" else rank) for name, rank in sorted(ranks.items())),
        options.scale,
        options.seed,
    )


def load(options: Options, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> TaskData:
    """Places of equal length, which the engine fills with text of the base."""
    predicted = np.ones(sequence_length, dtype=bool)
    predicted[0] = False
    place = Example(np.zeros(sequence_length, dtype=np.int32), predicted, 0)
    held_out = options.sequences // 4
    return TaskData(
        (place,) * options.sequences, (place,) * held_out, (place,) * held_out, "packed", planted=planted(options)
    )


def _names(targets: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return MODULES if targets is None else (targets,) if isinstance(targets, str) else targets
