"""The codes and constants of a checkpoint that bitsandbytes stores quantized, held against what its config.json says.

    int8       weight (codes), SCB (a constant a row), weight_format
    nf4, fp4   weight (packed bytes), weight.absmax, weight.quant_map, weight.quant_state.bitsandbytes__nf4 (JSON:
               shape, dtype, type),
               with double quantization also weight.nested_absmax and weight.nested_quant_map

transformers takes the form from config.json and puts random numbers where a constant is missing; bitsandbytes takes the
type from the file. So the two must agree, weight by weight.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

import torch
from safetensors import safe_open

from lorabench.config.checkpoint import CheckpointQuantization
from lorabench.config.checkpoint_files import Stored
from lorabench.engine.tensors import Described, some
from lorabench.errors import ModelError
from lorabench.formatting import error_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


CONSTANTS = re.compile(
    r"\.(SCB|weight_format|weight\.(nested_)?(absmax|quant_map)|weight\.quant_state\.bitsandbytes__\w+)$"
)
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def as_weights(described: Described, folder: Path, stored: CheckpointQuantization | None) -> dict[str, torch.Tensor]:
    """The tensors on the meta device, quantized ones as the weights that they stand for; ModelError where the files
    store otherwise than config.json says.
    """
    constants = [n for n in described if CONSTANTS.search(n)]
    if stored is None and constants:
        raise ModelError(undeclared(folder, constants))
    if stored is not None and not constants:
        raise ModelError(
            f"config.json in {folder} says that the weights are stored in {stored.words}, but they are not; "
            "remove quantization_config from it, or use the files that belong to it"
        )
    if stored is not None:
        _refuse_other_constants(constants, folder, stored)
    shapes = _packed_shapes(described, folder, stored) if stored is not None and stored.form != "int8" else {}
    quantized = {owner_of(n) for n in constants}
    weights = {}
    for name, tensor in described.items():
        if name in quantized or not CONSTANTS.search(name):
            dtype = _dtype(tensor)
            if name not in quantized and dtype is None and name.endswith("weight"):
                description = f"{name} as {_dtype_name(tensor)}"
                raise ModelError(
                    undeclared(folder, [description])
                    if stored is None
                    else f"the weights in {folder} lack the constants that {description} is scaled by; use the "
                    "complete checkpoint"
                )
            weights[name] = torch.empty(
                shapes.get(name, tuple(tensor.shape)), dtype=dtype or torch.float32, device="meta"
            )
    return weights


def _refuse_other_constants(constants: list[str], folder: Path, stored: CheckpointQuantization) -> None:
    """ModelError where a quantized weight has other constants beside it than its form has."""
    nested = {"weight.nested_absmax", "weight.nested_quant_map"} if stored.double_quant else set()
    four = {"weight.absmax", "weight.quant_map", f"weight.quant_state.bitsandbytes__{stored.form}"} | nested
    needed = {"SCB"} if stored.form == "int8" else four
    kinds_of: dict[str, set[str]] = {}
    for name in constants:
        owner = owner_of(name)
        kinds_of.setdefault(owner, set()).add(name.removeprefix(owner.removesuffix("weight")))
    for owner, kinds in sorted(kinds_of.items()):
        if kinds - {"weight_format"} != needed:
            odd = (
                f"has {some(kinds - needed - {'weight_format'})}"
                if needed <= kinds
                else f"lacks {some(needed - kinds)}"
            )
            raise ModelError(
                f"config.json in {folder} says that the weights are stored in {stored.words}, but {owner} {odd}; "
                "use weights and config.json of the same, complete checkpoint"
            )


def quantization_of(config: PreTrainedConfig) -> dict[str, object]:
    """The quantization_config of transformers' configuration, or of its text model's."""
    own = getattr(config, "quantization_config", None)
    return own if own is not None else config.get_text_config().quantization_config


def unquantized(config: PreTrainedConfig) -> PreTrainedConfig:
    """A configuration without what it says of quantized weights, for models that are made of numbers."""
    config = copy.deepcopy(config)
    for part in (config, config.get_text_config()):
        if getattr(part, "quantization_config", None) is not None:
            del part.quantization_config
    return config


def refuse_other_modules(
    model: PreTrainedModel, quantized: set[str], folder: Path, stored: CheckpointQuantization
) -> None:
    """ModelError where other modules are stored quantized than transformers would make by config.json
    (llm_int8_skip_modules).
    """
    try:
        import bitsandbytes
    except (ImportError, OSError):  # which the check of the device tells
        return
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, apply_renamings
    from transformers.quantizers.auto import AutoHfQuantizer

    from lorabench.engine.library_messages import quiet

    converted = copy.deepcopy(model)
    try:
        quantizer = AutoHfQuantizer.from_config(dict(quantization_of(model.config)), pre_quantized=True)
        with torch.device("meta"), quiet():
            quantizer.preprocess_model(model=converted, device_map={"": "cpu"}, dtype=torch.float32)
    except (TypeError, ValueError, AttributeError) as e:
        raise ModelError(
            f"quantization_config in {folder / 'config.json'} is not valid for transformers"
            f" ({error_line(e, 200)}); download it again"
        ) from None
    expected = {
        f"{n}.weight"
        for n, m in converted.named_modules()
        if isinstance(m, bitsandbytes.nn.Linear4bit | bitsandbytes.nn.Linear8bitLt)
    }
    renamings = [
        r for r in get_model_conversion_mapping(converted) if isinstance(r, WeightRenaming)
    ]  # checkpoints keep names that transformers gave up
    quantized = {n if n in expected else apply_renamings(n, renamings) for n in quantized}
    prefix = f"{model.base_model_prefix}."  # which checkpoints of the bare model leave out
    alike = {
        n if n in expected else prefix + n if prefix + n in expected else n.removeprefix(prefix) for n in quantized
    }
    if odd := sorted(expected ^ alike):
        how = "stored unquantized" if odd[0] in expected else "stored quantized"
        raise ModelError(
            f"{odd[0]} in {folder} is {how}, but according to its config.json ({stored.words}, "
            "llm_int8_skip_modules) it is not; use the config.json that belongs to the weights"
        )


def undeclared(folder: Path | str, names: list[str]) -> str:
    """The sentence for quantized weights that config.json does not declare, which these tensors show."""
    return (
        f"the weights in {folder} are stored quantized ({some(names)}), but its config.json does not say "
        "how (quantization_config); "
        "use the config.json that belongs to them, or the unquantized checkpoint"
    )


def _dtype(tensor: Stored | torch.Tensor) -> torch.dtype | None:
    if isinstance(tensor, Stored):
        return _DTYPES.get(tensor.dtype)
    return tensor.dtype if tensor.dtype in _DTYPES.values() else None


def _dtype_name(tensor: Stored | torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def owner_of(constant: str) -> str:
    """The weight that a constant of bitsandbytes belongs to."""
    stem = CONSTANTS.sub("", constant)
    return f"{stem}.weight"


def _packed_shapes(described: Described, folder: Path, stored: CheckpointQuantization) -> dict[str, tuple[int, ...]]:
    """The shapes of 4-bit weights, which the file keeps as JSON beside the packed bytes; ModelError where it names
    another form than config.json.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in described.items():
        if ".quant_state.bitsandbytes__" not in name:
            continue
        state = _packed_weight(name, tensor)
        if state.get("quant_type") != stored.form or ("nested_blocksize" in state) != stored.double_quant:
            form = str(state.get("quant_type")) + (" with double quantization" if "nested_blocksize" in state else "")
            raise ModelError(
                f"config.json in {folder} says that the weights are stored in {stored.words}, but "
                f"{owner_of(name)} is in {form}; use the config.json that belongs to them"
            )
        shapes[owner_of(name)] = tuple(state["shape"])
    return shapes


class _PackedWeight(TypedDict):
    """What is used of the JSON beside a 4-bit weight."""

    quant_type: NotRequired[str]
    shape: list[int]
    nested_blocksize: NotRequired[int]
    """with double quantization alone"""


def _packed_weight(name: str, tensor: Stored | torch.Tensor) -> _PackedWeight:
    if not isinstance(tensor, Stored):
        raise ModelError(
            f"{name} is in a pickled file (.bin), from which 4-bit weights are not read; save the checkpoint "
            "as safetensors"
        )
    try:
        with safe_open(tensor.file, framework="pt", device="cpu") as file:
            packed: _PackedWeight = json.loads(bytes(file.get_tensor(name).tolist()).decode())
        if not isinstance(packed, dict) or not isinstance(packed.get("shape"), list):
            raise ValueError("it has no shape")
        return packed
    except (ValueError, TypeError, RuntimeError) as e:
        raise ModelError(
            f"{name} does not describe a 4-bit weight ({error_line(e, 200)}); save the checkpoint again as safetensors"
        ) from None
