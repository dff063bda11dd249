"""The base's domain: text that the base wrote, or that a file holds, and the base's own loss on it, from which
forgetting is counted.

Cells mostly share their bases, so the last domains are kept; one is shared exactly where everything that decides its
numbers is equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lorabench.config.settings import EvaluationSpec, ModelSpec, QuantizationSpec
from lorabench.config.study import Cell, Fingerprints
from lorabench.engine.data import Example
from lorabench.engine.evaluate import SAMPLE_TOKENS, Losses, base_text, file_text, losses
from lorabench.engine.model import resolve_compute_dtype
from lorabench.engine.precision import evaluated, resolve_eval_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


MOST_DOMAINS = 8  # of some 20 kB each; sampling one takes as long as many steps
Domain = tuple[tuple[Example, ...], Losses]


@dataclass(frozen=True)
class Ground:
    """Everything that the text of a base's domain and the base's own loss on it hang on; what was trained on the base
    is not among it.
    """

    model: ModelSpec
    fingerprints: Fingerprints
    dtype: torch.dtype
    """of unquantized weights, as they are evaluated"""
    quantization: QuantizationSpec
    compute_dtype: torch.dtype | None
    """of the products of 4-bit weights: it follows training's autocast where it is auto; int8 has its own"""
    attention: str | None
    """transformers' implementation"""
    device: str
    evaluation: EvaluationSpec
    sequence_length: int


_DOMAINS: dict[Ground, Domain] = {}


def ground(cell: Cell, base: PreTrainedModel, where: torch.device) -> Ground:
    """Of a cell and its loaded base."""
    attention = getattr(base.config, "_attn_implementation", None)
    computed = resolve_compute_dtype(cell) if cell.quantization.name != "none" else None
    return Ground(
        cell.model,
        cell.fingerprints,
        resolve_eval_dtype(cell),
        cell.quantization,
        computed,
        attention,
        str(where),
        cell.evaluation,
        cell.training.sequence_length,
    )


def is_kept(cell: Cell, base: PreTrainedModel, where: torch.device) -> bool:
    """Whether nothing is left to be sampled for a cell: its base's text is kept, or it asks for none."""
    return cell.evaluation.forgetting == "none" or not cell.training.steps or ground(cell, base, where) in _DOMAINS


def base_domain(
    cell: Cell, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: torch.device
) -> Domain | None:
    """Text of the base's domain and the base's loss on it, in the precision of evaluation; None where no forgetting is
    asked for or nothing is trained.
    """
    chosen, length = cell.evaluation.forgetting, cell.training.sequence_length
    if chosen == "none" or not cell.training.steps:
        return None
    key = ground(cell, base, where)
    if key not in _DOMAINS:
        with evaluated(base, cell):
            text = (
                base_text(base, tokenizer, min(SAMPLE_TOKENS, length), where)
                if chosen == "self"
                else file_text(chosen, tokenizer, length)
            )
            base_losses = losses(base, text, cell.evaluation.batch_size, tokenizer.pad_token_id, where)
        if len(_DOMAINS) >= MOST_DOMAINS:
            _DOMAINS.pop(next(iter(_DOMAINS)))
        _DOMAINS[key] = text, base_losses
    return _DOMAINS[key]
