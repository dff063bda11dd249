"""What the phases of a cell that come after loading should take, told before the first step so that the time left
counts all of them.

Whatever runs the model is told in optimizer steps of the cell itself, whose pace the runner sees. With T positions in a
step, padding included, a forward pass over t positions is t / (c T) steps: the backward pass takes as long as the
forward one for the activations' gradients and once more for the weights', so c = 3 where the base is trained, 2 where
it is frozen, and 1 more where activations are recomputed. Decomposing is told in seconds, from the time of one Gram
matrix and one eigendecomposition that are made here to see how fast they are: a module of (out, in), n the smaller
side, takes n n m for the one and n^3 for the other, as often as matrices are decomposed. A guess within a factor of
two, replaced by what was measured as soon as a cell is through.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from lorabench.config.study import Cell
from lorabench.engine.adapt import linear_modules
from lorabench.engine.answers import passed
from lorabench.engine.batches import drawn_length, read_positions
from lorabench.engine.data import MultipleChoice, TaskData
from lorabench.engine.evaluate import SAMPLE_TOKENS, SAMPLES
from lorabench.engine.weight_deltas import adapted_layers, adapted_stacks
from lorabench.spectra.alignment import INTRUDERS_UP_TO
from lorabench.spectra.decompose import leading

if TYPE_CHECKING:
    from transformers import PreTrainedModel


Ahead = dict[str, tuple[float, float]]
IMPORT_SECONDS = 6.0  # of lm-eval, once a process
ONE_BY_ONE = 3.0  # how much longer a position takes that is sampled than one that is read with others
FEW = 16  # rows, below which a step of generation reads the weights and does little else
SIDE, TRIES = 512, 4  # of the matrix that is tried, and how often: the quickest counts, beside busy processes too
MODULE_SECONDS = 0.004  # reading, forming and writing, beside the decompositions
BYTES_PER_TOKEN = 4.0  # of text that is not tokenised yet


def outlook(
    cell: Cell, data: TaskData, model: PreTrainedModel, samples: bool, base_is_known: bool, measured: bool
) -> Ahead:
    """Phase to (seconds, optimizer steps) for each that comes; nothing where it cannot be told (an installed lm-eval
    task of unknown size).

    `samples`: whether the base's text is still to be sampled; `base_is_known`: whether the base's own decompositions
    are kept; `measured`: whether its memory is known. No cell is lost by it.
    """
    try:
        return _outlook(cell, data, model, samples, base_is_known, measured)
    except Exception:
        traceback.print_exc()
        return {}


def _outlook(
    cell: Cell, data: TaskData, model: PreTrainedModel, samples: bool, base_is_known: bool, measured: bool
) -> Ahead:
    spec, training = cell.evaluation, cell.training
    if not training.steps:
        return {}
    passes = (3 if not hasattr(model, "peft_config") else 2) + training.gradient_checkpointing
    step = passes * max(
        1.0, drawn_length(data.train, training.batch_size) * training.batch_size * training.gradient_accumulation
    )
    domain = SAMPLES * min(SAMPLE_TOKENS, training.sequence_length) if spec.forgetting != "none" else 0
    lm_eval = _lm_eval_positions(data, cell)
    ahead: Ahead = {"save": (0.3, 0.0)}
    if samples:
        ahead["sample"] = (0.0, (ONE_BY_ONE + 1) * domain / step)
    if lm_eval is None or lm_eval:
        ahead["prepare"] = (0.0 if "lm_eval.models.huggingface" in sys.modules else IMPORT_SECONDS, 0.0)
    if lm_eval is not None:
        read = read_positions(passed(data.test[: spec.max_sequences]), spec.batch_size)
        held_out = read + _generated(data, cell)
        validated = read_positions(data.validation[: spec.max_sequences], spec.batch_size) if cell.tuned_over else 0.0
        ahead["evaluate"] = (0.0, (held_out + lm_eval + validated + domain) / step)
        cuts = len(cell.analysis.truncation) * (1 + cell.analysis.per_module)
        if cuts:
            ahead["truncate"] = (0.0, cuts * (held_out + lm_eval) / step)
    if cell.analysis.spectra != "none":
        ahead["decompose"] = (decompose_seconds(cell, model, base_is_known), 0.0)
    if next(model.parameters()).device.type == "cpu" and not measured:
        longest = (
            max((len(e.ids) for e in data.train), default=1)
            * training.batch_size
            * training.gradient_accumulation
            * passes
        )
        ahead["measure"] = (0.0, (2 * longest + read_positions(data.test[: spec.batch_size], spec.batch_size)) / step)
    return ahead


def _generated(data: TaskData, cell: Cell) -> float:
    """Positions' worth of generating the test rows' answers, none of which ends early; a small batch takes as long as
    one of FEW rows.
    """
    if data.generation is None:
        return 0.0
    rows, size = len(data.test[: cell.evaluation.max_sequences]), cell.evaluation.batch_size
    return ONE_BY_ONE * math.ceil(rows / size) * max(size, FEW) * data.generation.max_new_tokens


def rows_evaluated(cell: Cell, data: TaskData, domain: int) -> int | None:
    """How many rows go through the model in an evaluation: held-out ones, the choices of the task's own sets,
    validation, the base's text; None where lm-eval alone knows, or answers are generated.
    """
    spec = cell.evaluation
    if data.generation is not None:
        return None
    own = (
        {
            s.name: s.items[: spec.max_sequences] if s.scored else s.items
            for s in data.choice_sets
            if not s.scored or s.name in (spec.lm_eval or ())
        }
        if spec.lm_eval != ()
        else {}
    )
    names = list(own) if spec.lm_eval is None else list(spec.lm_eval)
    if any(n not in own for n in names):
        return None
    rows = sum(len(i.choices) for n in names for i in own[n][: spec.limit])
    rows += len(passed(data.test[: spec.max_sequences]))
    return rows + (len(data.validation[: spec.max_sequences]) if cell.tuned_over else 0) + domain


def decompose_seconds(cell: Cell, model: PreTrainedModel, base_is_known: bool) -> float:
    """Of all modules of a model, at the speed of this machine."""
    gram, eigen = speed(next(model.parameters()).device)
    whole = not hasattr(model, "peft_config")
    dense = whole or cell.method.name == "dora"
    sides = (
        list(linear_modules(model).values())
        if whole
        else [(layer.in_features, layer.out_features) for _, layer in adapted_layers(model)]
    )
    total = MODULE_SECONDS * sum(stack.num_experts for _, stack in adapted_stacks(model))  # of experts values alone
    for side, longer in (sorted(s) for s in sides):
        beside = cell.analysis.spectra == "full"
        grams = 2 * dense + beside * (
            (side <= INTRUDERS_UP_TO) + (not base_is_known) * (1 + (cell.quantization.name != "none"))
        )
        total += MODULE_SECONDS + grams * (gram * side * side * longer + eigen * side**3)
    return total / (torch.get_num_threads() if next(model.parameters()).device.type == "cpu" else 1)  # side by side


@lru_cache(maxsize=2)
def speed(where: torch.device | str = "cpu") -> tuple[float, float]:
    """Seconds of a Gram matrix over n n m, and of its first eigenpairs over n^3, by one thread."""
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with threadpool_limits(1):
            return _timed(where)
    finally:
        torch.set_num_threads(threads)


def _timed(where: torch.device | str) -> tuple[float, float]:
    matrix = torch.randn(SIDE, SIDE, dtype=torch.float64, device=where, generator=torch.Generator(where).manual_seed(0))
    leading(matrix, 16, 16)  # imports and first calls
    took = []
    for product in (lambda: matrix @ matrix.T, lambda: leading(matrix, 64, 16)):
        seconds = []
        for _ in range(TRIES):
            began = time.perf_counter()
            float(product()[0].sum())
            seconds.append((time.perf_counter() - began) / SIDE**3)
        took.append(min(seconds))
    return took[0], max(took[1] - took[0], 0.0)


def _lm_eval_positions(data: TaskData, cell: Cell) -> float | None:
    """Of the task's own multiple-choice sets; None where an installed task is asked for, whose size only lm-eval
    knows."""
    spec = cell.evaluation
    if spec.lm_eval == ():
        return 0.0
    own = {s.name: s.items[: spec.max_sequences] if s.scored else s.items for s in data.choice_sets}
    names = list(own) if spec.lm_eval is None else list(spec.lm_eval)
    if any(n not in own for n in names):
        return None
    return float(sum(_choice_positions(own[n][: spec.limit]) for n in names))


def _choice_positions(items: Iterable[MultipleChoice]) -> float:
    return sum(math.ceil((len(i.context) + len(c)) / BYTES_PER_TOKEN) + 1 for i in items for c in i.choices)
