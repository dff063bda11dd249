"""Loads a pretrained model as a cell asks: where it is, in which precision, quantized how; and sees to it that it is
the one.

Weights go from their files to their final storage one tensor at a time (transformers' own loader), so that two full
copies
are never held. A checkpoint that is stored quantized keeps its own quantization, which the condition names
(spec.checkpoint). What is
loaded has every tensor of its configuration and no other (engine.stored), is finite, and predicts from the past alone
(engine.causal).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lorabench import plugins
from lorabench.config import hub
from lorabench.config.checkpoint import CheckpointQuantization, declared_quantization, matched, stored_quantization
from lorabench.config.checkpoint_files import described_shards, weight_files
from lorabench.config.gguf_file import gguf_of
from lorabench.config.gpus import cpu_has_bfloat16
from lorabench.config.paths import model_directory, model_label, model_source
from lorabench.config.precision import (
    DeviceKind,
    DtypeName,
    autocast_dtype,
    compute_dtype,
    is_large,
    product_dtype,
    weights_dtype,
)
from lorabench.config.settings import ModelSpec, TrainingSpec
from lorabench.config.study import Condition
from lorabench.config.validity import optimizer_fault
from lorabench.engine.bitsandbytes_cpu import keep_4bit_right, keep_int8_constants
from lorabench.engine.causal import refuse_lookahead
from lorabench.engine.library_messages import TOKENIZER, explained, loadable, one_line, quiet, silence_int8_cast
from lorabench.engine.quantized_weights import quantization_state
from lorabench.engine.stored import fitting_names, loading_faults, renamed, sentence
from lorabench.engine.stored_codes import quantization_of
from lorabench.engine.tensors import infinite, is_finite, refuse_infinite
from lorabench.engine.vocabulary import refuse_missing
from lorabench.errors import DeviceError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@lru_cache(maxsize=8)
def meta_model(model: ModelSpec) -> PreTrainedModel:
    """The model on the meta device: its modules and shapes, no weights; ModelError where its configuration cannot be
    had.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(model)
    with torch.device("meta"), quiet():
        try:
            return AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=model.trust_remote_code
            )
        except ValueError as e:
            reason = (
                f"it has none for type {config.model_type}"
                if "Unrecognized configuration class" in str(e)
                else one_line(e)
            )
            raise ModelError(f"{model.name} is not a causal language model that transformers knows: {reason}") from None
        except (AttributeError, TypeError, KeyError, IndexError, AssertionError, RuntimeError, ImportError) as e:
            raise ModelError(
                f"{model.name}: transformers cannot build a {config.model_type} model from its config.json "
                f"({one_line(e)})"
            ) from None


def load_config(model: ModelSpec) -> Any:
    """transformers' configuration of a model."""
    from transformers import AutoConfig

    stored_quantization(model.name, model.revision)  # what it says must be readable: transformers has no word for it
    hub.require(model.name, model.revision)
    with explained(model), hub.hub_access(model.name):
        return AutoConfig.from_pretrained(
            model_source(model.name), revision=model.revision, trust_remote_code=model.trust_remote_code
        )


def load_tokenizer(model: ModelSpec) -> PreTrainedTokenizerBase:
    """The model's tokenizer; where it has no padding token its end-of-text token pads, else its first one: padding is
    never predicted or seen.
    """
    from transformers import AutoTokenizer

    directory = model_directory(model.name)
    if directory is not None:
        refuse_missing(directory)
    hub.require(model.name, model.revision)
    with explained(model, TOKENIZER, (Exception,)), hub.hub_access(model.name):  # tokenizers raises no kind of its own
        tokenizer = AutoTokenizer.from_pretrained(
            model_source(model.name), revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = (
            tokenizer.eos_token if tokenizer.eos_token_id is not None else tokenizer.convert_ids_to_tokens(0)
        )
    return tokenizer


def load_base(condition: Condition, where: torch.device) -> PreTrainedModel:
    """The frozen base in evaluation mode, quantized as the condition asks, or as its checkpoint is; ModelError where it
    is not what its files say.
    """
    from transformers import AutoModelForCausalLM

    spec, name = condition.model, condition.quantization.name
    dtype = resolve_dtype(condition)
    config, stored = load_config(spec), check_stored(condition)
    kwargs: dict[str, Any] = {
        "dtype": dtype,
        "device_map": {"": where},
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    if stored is None:  # transformers takes None for "undo the checkpoint's own", which reads its codes as weights
        kwargs["quantization_config"] = plugins.load("quantizations", name).config(
            condition.quantization.double_quant, resolve_compute_dtype(condition)
        )
    elif name != "int8":
        quantization_of(config)["bnb_4bit_compute_dtype"] = str(resolve_compute_dtype(condition)).removeprefix("torch.")
    if name == "int8":
        silence_int8_cast()
    folder = _fetched(spec)
    built: Any = meta_model(spec)  # the hints of from_pretrained forget output_loading_info
    names = fitting_names(built, folder, stored)
    with explained(spec), quiet(), loadable(folder), hub.hub_access(spec.name):
        if gguf_of(folder) is None and all(old == new for old, new in names.items()) and described_shards(folder):
            safe = weight_files(folder)[0].suffix == ".safetensors"
            kwargs |= {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code, "use_safetensors": safe}
            model, info = AutoModelForCausalLM.from_pretrained(model_source(spec.name), config=config, **kwargs)  # type: ignore[misc]  # its hints forget output_loading_info
        else:
            model, info = type(built).from_pretrained(None, config=config, state_dict=renamed(folder, names), **kwargs)
            model.name_or_path = model.config._name_or_path = (
                spec.name if gguf_of(folder) else model_source(spec.name)
            )  # which PEFT writes into adapters
    if faults := loading_faults(info):
        raise ModelError(sentence(folder, faults))
    if name == "int8" and where.type == "cpu":
        keep_int8_constants(model)
    if getattr(model, "is_loaded_in_4bit", False):
        keep_4bit_right(model)
    model.config.use_cache = False  # keys and values of past tokens are of no use in training
    model.config.return_dict = True  # which some old configurations switch off
    model.requires_grad_(False).eval()
    if name != "none" and stored is None and where.type == "cuda" and gguf_of(folder) is None:
        refuse_infinite(folder)
    _check_finite(model, spec, dtype)
    refuse_lookahead(model, model_label(spec.name))
    return model


def stored_form(model: ModelSpec) -> CheckpointQuantization | None:
    """How a model's configuration says that its weights are quantized; None where it says nothing of it."""
    return declared_quantization(load_config(model).to_dict())


def check_stored(condition: Condition) -> CheckpointQuantization | None:
    """How the checkpoint stores its quantized weights, None where it does not; ModelError where that is not what the
    condition says.
    """
    name, requested = condition.model.name, condition.quantization
    stored = stored_form(condition.model)
    if stored is None:
        return None
    own_form = matched(name, stored, requested)
    if (
        own_form.name != requested.name or own_form.double_quant != requested.double_quant
    ):  # a hub model's configuration was not at hand when the study was read
        double = ", double_quant: true" if own_form.double_quant else ""
        raise ModelError(
            f"{model_label(name)} is stored in {stored.words}; write quantization: {{name: "
            f"{own_form.name}{double}}}, which keeps it so, or take the unquantized checkpoint"
        )
    return stored


def _fetched(model: ModelSpec) -> Path:
    """The folder of a model's files; those of a hub model are downloaded where they are not in the local cache."""
    directory = model_directory(model.name)
    if directory is not None:
        return directory
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    with explained(model), hub.hub_access(model.name):
        for patterns in (["*.json", "*.py", "model.safetensors", "model-*-of-*.safetensors"], ["pytorch_model*"]):
            try:
                folder = Path(snapshot_download(model.name, revision=model.revision, allow_patterns=patterns))
            except HfHubHTTPError as e:
                raise OSError(str(e)) from None
            if any(folder.glob("*.safetensors")):
                break
    return folder


def _check_finite(model: PreTrainedModel, spec: ModelSpec, dtype: torch.dtype) -> None:
    stored_tensors = {
        name: quantization_state(p) or [p] for name, p in model.named_parameters()
    }  # codes may be packed into a float dtype
    bad = [name for name, tensors in stored_tensors.items() if not all(is_finite(t) for t in tensors)]
    if bad:
        raise ModelError(infinite(model_label(spec.name), bad, str(dtype).removeprefix("torch.")))


def resolve_dtype(condition: Condition) -> torch.dtype:
    """The dtype of unquantized weights on this machine, by config.precision."""
    return torch_dtype(_weights(condition))


def torch_dtype(name: DtypeName) -> torch.dtype:
    """torch's dtype of a name."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _weights(condition: Condition) -> DtypeName:
    model, where = condition.model, device()
    bf16 = computes_in_bfloat16(where)
    return weights_dtype(model.dtype, condition.method.name, _kind(where), bf16, lambda: _is_large(model))


def _is_large(model: ModelSpec) -> bool:
    return is_large(sum(p.numel() for p in meta_model(model).parameters()))


def resolve_compute_dtype(condition: Condition) -> torch.dtype:
    """The dtype that 4-bit layers are told to compute in on this machine, by config.precision."""
    return torch_dtype(compute_dtype(condition.quantization, _autocast(condition, device()), _weights(condition)))


def resolve_product_dtype(condition: Condition) -> torch.dtype:
    """The dtype of the base's products in training on this machine, by config.precision."""
    return torch_dtype(product_dtype(condition.quantization, _autocast(condition, device()), _weights(condition)))


def resolve_autocast(condition: Condition, where: torch.device) -> torch.dtype | None:
    """The dtype of mixed precision on a device of this machine."""
    name = _autocast(condition, where)
    return torch_dtype(name) if name else None


def autocast_of(spec: TrainingSpec, where: torch.device, large: Callable[[], bool]) -> torch.dtype | None:
    """The same for a model that is at hand, of which `large` tells whether it has FLOAT32_BELOW parameters or more."""
    name = autocast_dtype(spec.autocast, _kind(where), computes_in_bfloat16(where), large)
    return torch_dtype(name) if name else None


def _autocast(condition: Condition, where: torch.device) -> DtypeName | None:
    bf16 = computes_in_bfloat16(where)
    return autocast_dtype(condition.training.autocast, _kind(where), bf16, lambda: _is_large(condition.model))


def _kind(where: torch.device) -> DeviceKind:
    return "cuda" if where.type == "cuda" else "cpu"


def computes_in_bfloat16(where: torch.device) -> bool:
    """Whether a device has products in bfloat16; older GPUs (T4, V100) and most CPUs emulate them through float32."""
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_has_bfloat16(lambda: torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def check_device(condition: Condition, where: torch.device) -> None:
    """DeviceError where this machine lacks what the condition needs."""
    if fault := optimizer_fault(condition.training.optimizer, where.type):
        raise DeviceError(fault)
    if condition.quantization.name != "none":
        try:
            import bitsandbytes  # noqa: F401  (only whether it is there)
        except (ImportError, OSError) as e:
            raise DeviceError(
                f"quantization {condition.quantization.name} needs bitsandbytes, which does not load here: "
                f"{one_line(e)}"
            ) from None


def offline() -> bool:
    """Whether hub downloads are switched off by Hugging Face's own variables."""
    return os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0", "false", "False")
