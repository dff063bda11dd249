"""In which precision a model is evaluated: one for all conditions of a model, whatever trained it.

    declared dtype      that
    auto                that of the frozen base: float32 below 100M parameters and on CPUs without bfloat16, else that

Full fine-tuning trains float32 weights under auto, also of models whose adapters stand on a bfloat16 base. Its weights
are therefore
rounded for evaluation to what the base is loaded in, as they would be to be deployed, and put back. Autocast would not
do: it leaves
embeddings, norms and the residual stream in float32, which a bfloat16 base computes in bfloat16. A model that learned
nothing has so
the very loss of its base, whether all of it was trained or an adapter.

Limits: adapters stay in float32, as PEFT loads them. Quantized layers compute in their own precision
(Resolved.compute_dtype; LLM.int8()
in float16), which is part of the quantization. While the model is rounded, its float32 weights stay on the device: 6
bytes a parameter,
where AdamW's steps took 16.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from lorabench.config.settings import MethodSpec, ModelSpec
from lorabench.config.study import Cell, Condition
from lorabench.engine.library_messages import quiet
from lorabench.engine.model import load_config, resolve_dtype
from lorabench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lorabench.record.result import CellResult


_FROZEN = MethodSpec(name="base", rank=None, alpha=None, dropout=None, target_modules=None)


def resolve_eval_dtype(condition: Condition) -> torch.dtype:
    """The dtype of unquantized weights in evaluation: that which the model has where its weights are not trained."""
    return resolve_dtype(condition.model_copy(update={"method": _FROZEN}))


def refuse_other_dtype(cell: Cell, before: CellResult) -> None:
    """ModelError where model.dtype: auto means another dtype here than where a cell was measured: a CPU without
    bfloat16, a machine with it, an earlier version."""
    then = before.resolved
    now = [str(d).removeprefix("torch.") for d in (resolve_dtype(cell), resolve_eval_dtype(cell))]
    if then is not None and (other := {then.dtype, then.eval_dtype or then.dtype} - {*now}):
        raise ModelError(
            f"this cell was measured with weights in {' and '.join(sorted(other))}, which model.dtype: auto is not on "
            "this machine; repeat it on a machine like the first, or remove its folder and run the study again"
        )


@contextmanager
def evaluated(model: PreTrainedModel, condition: Condition) -> Iterator[tuple[torch.Tensor, ...]]:
    """A model in the precision of evaluation, then as it was; yields the wider tensors that are held meanwhile, mostly
    none.
    """
    dtype, widened = resolve_eval_dtype(condition), []
    if resolve_dtype(condition) != dtype:
        loaded = _dtypes(condition.model, dtype)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point() and loaded.get(name, tensor.dtype) != tensor.dtype:
                widened.append((tensor, tensor.data))
    try:
        for tensor, wide in widened:
            tensor.data = wide.to(dtype)
        yield tuple(wide for _, wide in widened)
    finally:
        for tensor, wide in widened:
            tensor.data = wide


@lru_cache(maxsize=8)
def _dtypes(model: ModelSpec, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype of every tensor of a model's state that is loaded in a dtype: transformers keeps some in float32
    whatever is asked for.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"), quiet():
        empty = AutoModelForCausalLM.from_config(
            load_config(model), dtype=dtype, trust_remote_code=model.trust_remote_code
        )
    strict = [
        re.escape(part).replace(r"\*", ".*") for part in getattr(empty, "_keep_in_fp32_modules_strict", None) or ()
    ]
    wide = re.compile("|".join(strict)) if strict else None
    return {name: torch.float32 if wide and wide.search(name) else t.dtype for name, t in empty.state_dict().items()}
