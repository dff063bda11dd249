"""A small random copy of a model, on which a dry run tries for real what the meta device cannot: values, kernels,
derivatives.

The copy has the model's class and configuration, with few layers and tokens where it would be large. What only works on
some devices or lengths (a kernel without a derivative, axial positions of one length) so ends before the first cell.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from lorabench import plugins
from lorabench.config.study import Cell
from lorabench.engine.adapt import peft_targets
from lorabench.engine.batches import IGNORED, Batch
from lorabench.engine.bitsandbytes_cpu import keep_4bit_right
from lorabench.engine.loss import token_loss
from lorabench.engine.stored_codes import unquantized
from lorabench.engine.vocabulary import embedding_rows
from lorabench.errors import LorabenchError
from lorabench.formatting import error_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


_WHOLE_BELOW = 5_000_000  # parameters: such a model is copied as it is
COPY_BELOW = 150_000_000  # parameters of a copy: more would take seconds to draw
STEP_BELOW = 30_000_000  # a step of more, too
_LAYERS, _VOCABULARY, _ROWS, _LENGTH = 2, 128, 2, 128


def small_copy(model: PreTrainedModel, below: int = COPY_BELOW) -> PreTrainedModel | None:
    """A model (its meta model) with random weights on the CPU, large enough that attention tells; None where even few
    layers have more parameters, or it cannot be built.
    """
    config = copy.deepcopy(model.config)
    try:
        if sum(p.numel() for p in model.parameters()) > _WHOLE_BELOW:
            _shorten(config)
        with torch.device("meta"):
            if sum(p.numel() for p in type(model)(config).parameters()) > below:
                return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            small = type(model)(config).float().eval()
            for parameter in small.parameters():
                if parameter.dim() > 1:
                    parameter.data.normal_(0, parameter.shape[-1] ** -0.5)
    except Exception:  # a configuration that does not let itself be shortened
        return None
    small.config.use_cache, small.config.return_dict = False, True
    return small


def quantized_fault(cell: Cell, small: PreTrainedModel) -> str | None:
    """Why a small copy cannot be run quantized as a cell asks; None where it can, or where it cannot be run at all.

    Layers whose weights are read past their modules (Mamba's kernels) get codes in place of numbers.
    """
    ids = torch.zeros((_ROWS, 8), dtype=torch.long)
    name = cell.quantization.name
    try:
        with torch.no_grad():
            small(input_ids=ids)
        config = plugins.load("quantizations", name).config(cell.quantization.double_quant, torch.float32)
        quantized = type(small).from_pretrained(
            None,
            config=unquantized(small.config),
            state_dict=small.state_dict(),
            quantization_config=config,
            dtype=torch.float32,
            device_map={"": "cpu"},
        )
    except Exception:  # of what the copy lacks, it cannot be told from a fault of the model
        return None
    if name != "int8":
        keep_4bit_right(quantized)
    try:
        with torch.no_grad():
            quantized(input_ids=ids)
    except Exception as e:
        reason = error_line(e, 200)
        return (
            f"a {small.config.model_type} model does not run in {name} ({reason}); use unquantized weights, "
            "or another model"
        )
    return None


def step_fault(cell: Cell, small: PreTrainedModel, targets: tuple[str, ...]) -> str | None:
    """Why a training step of a cell's method fails on a small copy, which is used up; None where it works, or where not
    even its forward pass does.
    """
    count = embedding_rows(small)
    ids = torch.randint(
        min(8, count - 1),
        count,
        (_ROWS, min(cell.training.sequence_length, _LENGTH)),
        generator=torch.Generator().manual_seed(0),
    )
    try:
        with torch.no_grad():
            small(input_ids=ids)
    except Exception:  # of what the copy lacks, it cannot be told from a fault of the model
        return None
    present = tuple(t for t in targets if _has(small, t))
    try:
        with torch.random.fork_rng(devices=[]):
            adapted = plugins.load("methods", cell.method.name).attach(
                small.requires_grad_(False), cell.method, peft_targets(small, present) if present else []
            )
            adapted.train()
            if cell.training.gradient_checkpointing:
                adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            labels = ids.clone()
            labels[:, 0] = IGNORED
            token_loss(adapted, Batch(ids, labels, ids.numel())).backward()
    except LorabenchError as e:
        return str(e)
    except Exception as e:
        return (
            f"a training step of {cell.method.name} on this model fails: "
            f"{error_line(e, 300)}; use other target_modules, another method "
            "or another model"
        )
    return None


def _shorten(config: PreTrainedConfig) -> None:
    if config.get_text_config() is not config:
        raise ValueError("of several parts")
    config.vocab_size = min(config.vocab_size, _VOCABULARY)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        token = getattr(config, name, None)
        if token is not None:
            setattr(config, name, min(token if isinstance(token, int) else token[0], config.vocab_size - 1))
    layers = min(config.num_hidden_layers, _LAYERS)
    kinds = getattr(config, "layer_types", None)
    config.num_hidden_layers = layers
    if kinds and not isinstance(
        getattr(type(config), "layer_types", None), property
    ):  # a derived one follows by itself
        config.layer_types = list(kinds)[:layers]


def _has(model: PreTrainedModel, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True
