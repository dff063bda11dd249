"""What was written is read again before success is told: by PEFT, and by this package's own reader.

PEFT's loader is given a model of empty layers under the adapted modules' names (their weights are views of one zero,
which takes no memory), so that its matching of modules, its ranks, its scalings and its check of keys are the real
ones. Importing it takes seconds: a price of writing alone.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lorabench.errors import ModelError
from lorabench.spectra.decompose import factor_singular_values
from lorabench.spectra.layouts import Entry

PREFIX = "base_model.model."


@dataclass(frozen=True, eq=False)
class ExpectedModule:
    """One module (or stack) as it was meant: the factors whose product is the change, an expert each."""

    entry: Entry
    factors: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """(A, B) of (rank, in) and (out, rank) in float64, with every scaling in them"""
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    """of A and B as they were written"""
    dtype: torch.dtype


def check(folder: Path, expected: Mapping[str, ExpectedModule], others: Mapping[str, torch.Tensor]) -> None:
    """`expected` by the name of its module in the file, `others` further tensors by theirs; ModelError where PEFT reads
    another change than was meant."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # PEFT draws factors before it reads them
        warnings.simplefilter("ignore")
        try:
            loaded = _load(folder, expected, others)
        except (
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            RuntimeError,
            AttributeError,
            ImportError,
            AssertionError,
            RecursionError,
        ) as e:
            raise ModelError(
                f"{folder}: PEFT cannot load what was written ({' '.join(str(e).split())[:240]})"
            ) from None
    for name, one in expected.items():
        for expert, (a, b) in enumerate(one.factors):
            found_a, found_b, scaling = _of_layer(loaded[name], one, expert)
            difference = factor_singular_values(
                torch.cat([found_a.double(), a]), torch.cat([scaling * found_b.double(), -b], dim=1), 1.0
            )
            missed, size = (
                float(torch.linalg.vector_norm(difference)),
                float(torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)),
            )
            eps = max(
                torch.finfo(one.dtype).eps, torch.finfo(torch.float32).eps
            )  # of the empty layers, which PEFT casts to
            if not missed <= 2 * eps * size:
                raise ModelError(
                    f"{folder}: {name} was written, but PEFT reads a different change: it is off by {missed:.3g}"
                    f" where its factors have the norm {size:.3g}"
                )


def _load(folder: Path, expected: Mapping[str, ExpectedModule], others: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """PEFT's own layers by the name of their module, with the adapter loaded into them."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # bitsandbytes, which PEFT imports, tells of kernels that nothing here uses
    try:
        import peft
        from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict
    finally:
        logging.disable(level)

    config: Any = peft.PeftConfig.from_pretrained(str(folder))
    if config.ensure_weight_tying and isinstance(
        config.target_modules, set
    ):  # it has PEFT adapt the tied layer, too, which these empty ones are not
        config.target_modules |= {n for n, w in expected.items() if w.entry.parameter is None}
    config.task_type, config.layer_replication, config.ensure_weight_tying, config.init_lora_weights = (
        None,
        None,
        False,
        True,
    )
    config.megatron_config = None
    if config.target_modules == "all-linear":  # PEFT asks a transformers model which these are
        config.target_modules = [n for n, w in expected.items() if w.entry.parameter is None]
    tokens = [n.partition(".token_adapter.")[0] for n in others if ".token_adapter." in n]
    if tokens and not isinstance(config.trainable_token_indices, dict):
        config.trainable_token_indices = {n: list(config.trainable_token_indices or []) for n in tokens}
    model = peft.PeftModel(_meta_model(expected, others, config), config)
    state = {
        k: v
        for k, v in load_peft_weights(str(folder), device="cpu").items()
        if ".base_layer." not in k or ".lora_" in k
    }
    result: Any = set_peft_model_state_dict(model, state)
    lacking = [
        k for k in result.missing_keys if ".lora_" in k or ".modules_to_save." in k or "trainable_tokens_delta" in k
    ]
    if lacking or result.unexpected_keys:
        raise ValueError(
            f"it lacks {', '.join(lacking[:3]) or 'nothing'}; it does not know"
            f" {', '.join(result.unexpected_keys[:3]) or 'none'}"
        )
    return {name: model.get_submodule(PREFIX + name) for name in expected}


def _of_layer(layer: Any, one: ExpectedModule, expert: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(A, B, scaling) as PEFT holds them, of one expert of a stack."""
    if one.entry.is_embedding:
        a, b = layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
    else:
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    a, b = a.detach().flatten(1), b.detach().flatten(1)
    if (n := len(one.factors)) > 1:
        a, b = a.reshape(n, -1, a.shape[1])[expert], b.reshape(b.shape[0], -1, n)[:, :, expert]
    return a, b, float(layer.scaling["default"])


def _meta_model(expected: Mapping[str, ExpectedModule], others: Mapping[str, torch.Tensor], config: Any) -> nn.Module:
    root = nn.Module()
    for name, one in expected.items():
        parent, last = _parent(root, name.replace(".base_layer", ""))
        if one.entry.parameter is not None:
            owner = getattr(parent, last) if hasattr(parent, last) else nn.Module()
            (a, b), n = one.factors[0], len(one.factors)
            shape = (n, b.shape[0], a.shape[1]) if n > 1 else (b.shape[0], a.shape[1])
            owner.register_parameter(one.entry.parameter, _nothing(shape))
            parent.add_module(last, owner)
        else:
            parent.add_module(last, _base_layer(one))
    for name, tensor in others.items():
        if ".base_layer." in name or ".lora_" in name:
            continue
        if ".token_adapter." in name:
            parent, last = _parent(root, name.partition(".token_adapter.")[0])
            rows = max(max(indices, default=0) for indices in config.trainable_token_indices.values()) + 1
            embedding = nn.Embedding(rows, tensor.shape[-1], device="meta")
            embedding.weight = _nothing((rows, tensor.shape[-1]), tensor.dtype)
            parent.add_module(last, embedding)
            continue
        parent, last = _parent(root, name)
        if not hasattr(parent, last):
            parent.register_parameter(last, nn.Parameter(torch.empty_like(tensor), requires_grad=False))
    return root


def _parent(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    *front, last = name.split(".")
    for part in front:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    return root, last


def _base_layer(one: ExpectedModule) -> nn.Module:
    (a, b), (shape, _) = one.factors[0], one.shapes
    layer: nn.Module
    sizes: tuple[int, ...]
    if one.entry.is_embedding:
        layer, sizes = nn.Embedding(a.shape[1], b.shape[0], device="meta"), (a.shape[1], b.shape[0])
    elif len(shape) > 2:
        kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(shape) - 3]
        layer, sizes = kind(shape[1], b.shape[0], tuple(shape[2:]), bias=False, device="meta"), (b.shape[0], *shape[1:])
    else:
        layer, sizes = nn.Linear(a.shape[1], b.shape[0], bias=False, device="meta"), (b.shape[0], a.shape[1])
    layer.weight = _nothing(sizes)
    return layer


def _nothing(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> nn.Parameter:
    """A parameter of zeros that takes the memory of one."""
    return nn.Parameter(
        torch.zeros((), dtype=dtype).expand(shape) if math.prod(shape) else torch.zeros(shape, dtype=dtype),
        requires_grad=False,
    )
