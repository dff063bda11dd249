"""Whether a model predicts a token from the tokens before it alone.

    changed(p) = max |logits(p) of a row - logits(p) of the row with its token t replaced|, for positions p
    causal     : max of changed(p) for p < t is nothing beside max of changed(p) for p >= t

A model that sees ahead (BERT as a causal model, prefix models, Gemma with bidirectional attention) is trained to copy:
its loss goes to zero on random letters. The rows stand in one batch, so that what a kernel rounds by the batch
(LLM.int8()'s columns of outliers) is the same for all. What is left is the order of sums, some 1e-6 of the change in
float32, 1e-2 in sixteen bits.

The weights may hide it (attention that is still zero), so it is asked twice: of a small random copy with the model's
own configuration and class, before any cell runs, and of the loaded model, since large models have no small copy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lorabench.engine.rehearsal import small_copy
from lorabench.engine.vocabulary import embedding_rows
from lorabench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_LENGTH, _AT = 12, (5, 11)  # tokens of a row, and the places where one is replaced


def refuse_lookahead(model: PreTrainedModel, name: str) -> None:
    """ModelError where a loaded model sees later tokens, or where its predictions are not finite."""
    before, after = _changes(model)
    if not math.isfinite(before + after):
        raise ModelError(
            f"the predictions of {name} are not finite before any training; its weights or its dtype are at "
            "fault, not the learning rate: use another checkpoint or model.dtype"
        )
    exact = all(p.dtype == torch.float32 for p in model.parameters())
    if before > (1e-4 if exact else 0.05) * after:
        raise ModelError(sentence(name))


@torch.no_grad()
def keeps_rows_apart(model: PreTrainedModel) -> bool:
    """Whether a loaded model predicts a row that lies behind another, its positions counted anew, as it predicts it
    alone, but for what it rounds by the length of its input, which the row in front shows; one that carries a state
    along (Mamba) does not.
    """
    first, second = _rows(model)[0, : _AT[0]].to(model.device), _rows(model)[1].to(model.device)
    positions = torch.cat([torch.arange(len(first)), torch.arange(len(second))])[None].to(model.device)
    was = model.training
    model.eval()
    try:
        both = torch.cat([first, second])[None]
        joined = model(input_ids=both, position_ids=positions, use_cache=False).logits.float()
        in_front, behind = joined.split([len(first), len(second)], dim=1)
        rounded = (in_front - model(input_ids=first[None]).logits.float()).abs().max()
        alone = model(input_ids=second[None]).logits.float()
        seen_through = model(input_ids=both, use_cache=False).logits[:, len(first) :].float()
    except (TypeError, ValueError, IndexError, RuntimeError):  # it takes no positions, or not such ones
        return False
    finally:
        model.train(was)
    exact = all(p.dtype == torch.float32 for p in model.parameters())
    seen = (seen_through - alone).abs().max()
    nothing, most = (1e-4, 1e-4) if exact else (0.05, 0.1)
    return bool((behind - alone).abs().max() <= max(nothing * seen, min(2 * rounded, most * seen)))


def sees_ahead(model: PreTrainedModel) -> bool:
    """Whether a small random copy of a model (its meta model) sees later tokens; False where there is no such copy, or
    it cannot be asked.
    """
    small = small_copy(model)
    if small is None:
        return False
    try:
        before, after = _changes(small)
    except Exception:  # what a forward pass lacks is told by the loading of the model itself
        return False
    return before > 1e-5 * after


def sentence(name: str) -> str:
    """What is wrong with such a model, and what to take."""
    return (
        f"{name} is not a causal language model: a later token changes what it predicts at earlier positions, "
        "so it would be trained to copy its input; use a decoder (GPT, Llama, Qwen, ...), or set "
        "is_decoder: true in the config.json of a BERT-like one"
    )


@torch.no_grad()
def _changes(model: PreTrainedModel) -> tuple[float, float]:
    """The largest change of a logit before the replaced tokens, and from them on."""
    ids = _rows(model)
    was = model.training
    model.eval()
    try:
        logits = model(input_ids=ids.to(model.device)).logits.float()
    finally:
        model.train(was)
    before = after = 0.0
    for row, at in enumerate(_AT, start=1):
        changed = (logits[row] - logits[0]).abs().amax(dim=-1)
        before, after = max(before, float(changed[:at].max())), max(after, float(changed[at:].max()))
    return (before, after) if bool(torch.isfinite(logits).all()) else (math.nan, math.nan)


def _rows(model: PreTrainedModel) -> torch.Tensor:
    """A row of tokens, and the same with one replaced, for each place; special tokens are left out, since some models
    tell positions by them.
    """
    config = model.config.get_text_config()
    declared_ids = [getattr(config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos", "sep", "cls", "mask")]
    special = {
        i for ids in declared_ids for i in (ids if isinstance(ids, list | tuple) else [ids])
    }  # Llama 3 has several ends
    words = [i for i in range(min(embedding_rows(model), 512)) if i not in special]
    chosen = torch.randperm(len(words), generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([words[int(chosen[i % len(words)])] for i in range(_LENGTH)]).repeat(1 + len(_AT), 1)
    for row, at in enumerate(_AT, start=1):
        rows[row, at] = words[int(chosen[(_LENGTH + row) % len(words)])]
    return rows
