"""What a checkpoint's config.json says of its own weights: whether they are stored quantized, by which method, in which
form.

    bitsandbytes    load_in_8bit: int8; load_in_4bit: bnb_4bit_quant_type, which is fp4 where it is not said
    others          quant_method: fp8, gptq, awq, compressed-tensors, mxfp4, ...; MLX writes `quantization` instead

Those of bitsandbytes can be read and trained on; the others are known by name, so that they are refused by it and never
read as plain numbers. Nothing but config.json is read, without torch or transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from lorabench.config.architectures import find_architecture
from lorabench.config.checkpoint_files import refuse_pointer
from lorabench.config.paths import model_directory, model_label
from lorabench.config.settings import Dtype, ModelSpec, QuantizationSpec
from lorabench.errors import ModelError

READABLE = ("int8", "fp4", "nf4")
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class CheckpointQuantization:
    """How a checkpoint stores its quantized weights."""

    method: str
    """quant_method as written: bitsandbytes, fp8, gptq, awq, ..."""
    form: str | None
    """int8, fp4 or nf4, lorabench's names; None where it is another form, which cannot be read"""
    double_quant: bool = False
    compute_dtype: Dtype = "auto"
    """bnb_4bit_compute_dtype; auto for int8 and for what is none of ours"""
    skipped: tuple[str, ...] = ()
    """llm_int8_skip_modules: parts of modules' names that are stored unquantized"""
    fields: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)
    """quantization_config as it is written"""

    @property
    def readable(self) -> bool:
        """Whether lorabench reads weights of this form."""
        return self.form is not None

    @property
    def words(self) -> str:
        """int8, "nf4 with double quantization", fp8, ..."""
        return (self.form or self.method) + (" with double quantization" if self.double_quant else "")

    @property
    def setting(self) -> QuantizationSpec:
        """The setting of a study that means this form; only of a readable one."""
        assert self.form is not None
        return QuantizationSpec(name=self.form, double_quant=self.double_quant, compute_dtype=self.compute_dtype)


def declared_quantization(config: Mapping[str, object]) -> CheckpointQuantization | None:
    """How a config.json says that the weights are quantized; None where it says nothing of it, ModelError where what it
    says is no object."""
    nested = [
        part for key in ("text_config", "llm_config", "language_config") if isinstance(part := config.get(key), Mapping)
    ]
    for place in (config, *nested):
        for key in ("quantization_config", "compression_config"):
            section = place.get(key)
            if isinstance(section, Mapping) and section:
                return replace(_read(section), fields=section)
            if section:
                raise ModelError(
                    f"{key} in config.json is {section!r}, not a JSON object; take the config.json that the checkpoint"
                    " was saved with"
                )
        mlx = place.get("quantization")
        if isinstance(mlx, Mapping) and "bits" in mlx:
            return CheckpointQuantization(f"MLX ({mlx['bits']} bits)", None)
    return None


def _read(section: Mapping[str, object]) -> CheckpointQuantization:
    eight, four = (bool(section.get(f"load_in_{n}bit", section.get(f"_load_in_{n}bit"))) for n in (8, 4))
    method = str(section.get("quant_method") or ("bitsandbytes" if eight or four else "an unnamed method"))
    if method != "bitsandbytes":
        return CheckpointQuantization(method, None)
    names = section.get("llm_int8_skip_modules")
    skipped = tuple(str(name) for name in names) if isinstance(names, list | tuple) else ()
    if eight and not four and not section.get("llm_int8_has_fp16_weight"):
        return CheckpointQuantization(method, "int8", skipped=skipped)
    form = str(section.get("bnb_4bit_quant_type", "fp4"))
    if eight or not four or form not in READABLE:
        return CheckpointQuantization(method, None, skipped=skipped)
    compute = str(section.get("bnb_4bit_compute_dtype") or "float32").removeprefix("torch.")
    compute_dtype = cast(Dtype, compute if compute in _DTYPES else "auto")
    return CheckpointQuantization(
        method, form, bool(section.get("bnb_4bit_use_double_quant", False)), compute_dtype, skipped
    )


def refusal(model: str, stored: CheckpointQuantization) -> str:
    """The sentence for a form that cannot be read."""
    return (
        f"{model_label(model)} is stored quantized by {stored.method} (its config.json says so), which lorabench cannot"
        " read; allowed: float32, bfloat16 or float16 weights, and bitsandbytes int8, fp4 or nf4 as saved by"
        " transformers; take the unquantized checkpoint, or dequantize this one with its own library"
    )


def read_config(folder: str | Path) -> dict[str, object]:
    """config.json of a checkpoint's folder; ModelError where it is missing or not a JSON object."""
    path = Path(folder) / "config.json"
    try:
        refuse_pointer(path)
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder} holds no config.json; a model is a transformers folder with config.json, tokenizer and weights"
        ) from None
    except (OSError, ValueError) as e:
        raise ModelError(f"{path} is not readable JSON ({' '.join(str(e).split())[:120]}); download it again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} does not hold a JSON object; download it again")
    return config


def local_folder(model: str, revision: str | None = None) -> Path | None:
    """Where a model's config.json lies: its directory, or its snapshot in the hub's local cache; None where it is in
    neither. No network."""
    directory = model_directory(model)
    if directory is not None:
        return directory if directory.is_dir() else None
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    ref = cached / "refs" / (revision or "main")
    try:
        folder = cached / "snapshots" / (ref.read_text(encoding="utf-8").strip() if ref.is_file() else str(revision))
    except OSError:
        return None
    return folder if (folder / "config.json").is_file() else None


def stored_quantization(model: str, revision: str | None = None) -> CheckpointQuantization | None:
    """How a model's weights are stored quantized; None where they are not, or where neither its config.json on this
    machine nor a preset tells."""
    folder = local_folder(model, revision)
    if folder is None:
        preset = find_architecture(model)
        return declared_quantization(preset.config) if preset else None
    return declared_quantization(read_config(folder)) if (folder / "config.json").is_file() else None


def as_stored(model: ModelSpec, requested: QuantizationSpec) -> QuantizationSpec:
    """The quantization by which a model's weights are held: the checkpoint's own where it has one, else the one that is
    asked for.

    `none` means as stored, so it becomes the checkpoint's own; an explicit compute dtype is kept, since it concerns
    products, not storage. ModelError where another form is asked for than the checkpoint has, or where its form cannot
    be read.
    """
    stored = stored_quantization(model.name, model.revision)
    return requested if stored is None else matched(model.name, stored, requested)


def matched(model: str, stored: CheckpointQuantization, requested: QuantizationSpec) -> QuantizationSpec:
    """The same for a quantization that is known."""
    if not stored.readable:
        raise ModelError(refusal(model, stored))
    own = stored.setting
    if requested.name == "none":
        return own
    if requested.name != own.name or (requested.double_quant and not own.double_quant):
        wish = requested.name + (
            " with double quantization" if requested.double_quant and requested.name != "int8" else ""
        )
        raise ModelError(
            f"{model_label(model)} is stored in {stored.words}, which cannot be turned into {wish}: the precision"
            f" that its codes dropped is lost; allowed: quantization {own.name}, or none, which means as"
            " stored; or take the unquantized checkpoint"
        )
    return (
        own
        if requested.compute_dtype == "auto" or own.name == "int8"
        else own.model_copy(update={"compute_dtype": requested.compute_dtype})
    )
