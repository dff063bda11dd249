"""Whether cells gain by sharing their passes over one base, by the work that they do alone and as a pack.

    a pass over t tokens takes the time of the products of (shared + t) tokens

    shared      what a pass pays once for all of its tokens, in tokens: the operators that each adapted layer starts,
                over the products of one token in it (4 operations a weight: forward, and for the gradients of the
                inputs), and the dequantization of its weights
    alone       cells * passes * (shared + t)
    packed      passes * (shared + tokens of all) + cells * probes * (shared + t)

Only what is paid once is saved: where a product's time grows with its rows, as it does beyond some hundred tokens on
any processor, nothing is. By settings and data alone, so that a study runs the same way each time.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial

import torch

from lorabench.config.study import Cell
from lorabench.engine.adapt import linear_modules
from lorabench.engine.batches import drawn_length, read_positions
from lorabench.engine.data import Example, task_data
from lorabench.engine.model import device, load_tokenizer, meta_model, resolve_product_dtype
from lorabench.engine.rehearsal import small_copy
from lorabench.engine.row_attention import attends_by_rows

PROBE_STEPS = 6
"""that each cell of a pack takes alone: one to warm up and five to be timed"""
LEAST = 1.1  # of alone over packed: below, what varies from run to run is more than what is gained
LAYER_SECONDS = 3e-4
"""of the operators that an adapted layer starts in a step and its part of the optimizer's, on one core: what packs of 8
gain at 128 tokens, 1.74 over tiny-1m (30,427 weights a layer) and 1.23 over tiny-4m (121,709), gives 2.9e-4 and
3.3e-4"""
DEQUANTIZATION_SECONDS = {"none": 0.0, "int8": 4e-9, "fp4": 4e-9, "nf4": 4e-9}
"""of a weight, forward and backward, on one core: of 8 adapters over nf4 with bfloat16 products, 2.2 at 128 tokens"""
OPERATIONS_PER_SECOND = {
    "cpu": {torch.float32: 5e10, torch.bfloat16: 2e11, torch.float16: 5e10},
    "cuda": {torch.float32: 5e13, torch.bfloat16: 1e14, torch.float16: 1e14},
}
"""of products: a core with AVX2, one with AVX-512 BF16; a tenth of an H100, as in packed_adapters"""
WHOLE = {"none": 1024, "int8": 4096, "fp4": 4096, "nf4": 4096}
"""tokens of a pack's pass on a CPU at most, by storage: beyond, what layers hand on leaves the caches (8 adapters of
512 tokens each over tiny-4m took longer than one after the other, 0.93; over nf4 0.86 with 2,048)"""
GENERATED = 2
"""tokens of a pass that a generated one takes as long as, since keys and values are copied for each: 8 adapters over
tiny-4m with 4, 8 and 16 rows each gain 1.4, 1.6 and 1.8 over batches of 16"""


def useful_cells(cell: Cell) -> int:
    """How many cells like this one gain by training at once on this machine; 1 where none do."""
    training = cell.training
    if device().type == "cuda":
        enough = training.epochs is not None or training.steps * (1 - 1 / 1.3) >= PROBE_STEPS
        return sys.maxsize if enough else 1
    examples = task_data(cell, load_tokenizer(cell.model)).train
    positions = partial(_positions, cell, examples, _end_to_end(cell, examples))
    whole, tokens = WHOLE[cell.quantization.name], positions(1)
    cells = int(whole / tokens)
    if cells < 2 or (cells := int(whole * cells / positions(cells))) < 2:
        return 1
    shared = shared_tokens(cell, device())
    steps = training.over(len(examples)).steps * training.gradient_accumulation
    probes = PROBE_STEPS * training.gradient_accumulation
    alone = cells * steps * (shared + tokens)
    packed = steps * (shared + positions(cells)) + cells * probes * (shared + tokens)
    return cells if alone > LEAST * packed else 1


def _positions(cell: Cell, examples: Sequence[Example], end_to_end: bool, cells: int) -> float:
    """Of a pass of so many cells on a CPU, with padding to the longest row of all where rows lie so."""
    rows = cell.training.batch_size * cells
    return rows * (sum(len(e.ids) for e in examples) / len(examples) if end_to_end else drawn_length(examples, rows))


def _end_to_end(cell: Cell, examples: Sequence[Example]) -> bool:
    """Whether the rows of a pack lie end to end, as far as a small copy of the model can tell: a larger one is taken
    to attend row by row."""
    if cell.training.padding_free != "auto" or cell.method.dropout:
        return False
    small = small_copy(meta_model(cell.model))
    return small is None or attends_by_rows(small, max(len(e.ids) for e in examples))


def rows_together(cell: Cell, where: torch.device, examples: Sequence[Example], most: int, cells: int) -> int:
    """How many rows of each adapter a pass over held-out rows takes, of as many as there is memory for; 0 where each
    cell is as quick alone."""
    if cell.quantization.name == "int8":
        return 0  # LLM.int8() takes its outlier columns from all rows of a product: another batch, another loss
    longest, size = max(len(e.ids) for e in examples), min(cell.evaluation.batch_size, len(examples))
    whole = WHOLE[cell.quantization.name] if where.type == "cpu" else sys.maxsize
    rows, shared = min(most, whole // (cells * longest)), shared_tokens(cell, where)
    if rows < 1:
        return 0
    alone = cells * (math.ceil(len(examples) / size) * shared + read_positions(examples, size))
    probe = shared + size * longest  # of a batch alone
    packed = math.ceil(len(examples) / rows) * shared + cells * (read_positions(examples, rows) + probe)
    return rows if alone > LEAST * packed else 0


def answers_together(cell: Cell, where: torch.device, examples: Sequence[Example], most: int, cells: int) -> int:
    """The same of rows whose answers are generated, a token of each row in a pass."""
    if cell.quantization.name == "int8":
        return 0
    size, own = min(cell.evaluation.batch_size, len(examples)), GENERATED * len(examples)
    whole = WHOLE[cell.quantization.name] if where.type == "cpu" else sys.maxsize
    rows, shared = min(most, whole // cells), shared_tokens(cell, where)
    if rows < 1:
        return 0
    alone = cells * (math.ceil(len(examples) / size) * shared + own)
    probe = shared + GENERATED * size  # of a batch alone
    packed = math.ceil(len(examples) / rows) * shared + cells * (own + probe)
    return rows if alone > LEAST * packed else 0


def shared_tokens(cell: Cell, where: torch.device) -> float:
    """What a pass of a cell pays once on a device, in tokens."""
    layers = linear_modules(meta_model(cell.model)).values()
    weights = sum(inner * outer for inner, outer in layers) / len(layers)
    seconds = LAYER_SECONDS / weights + (DEQUANTIZATION_SECONDS[cell.quantization.name] if where.type == "cpu" else 0.0)
    return seconds * OPERATIONS_PER_SECOND[where.type][resolve_product_dtype(cell)] / 4
