"""What an adapter's files say of its scaling and its kind: adapter_config.json of PEFT or mlx, and the header of a
safetensors file.

    PEFT        adapter_config.json: r, lora_alpha, rank_pattern, alpha_pattern, use_rslora, and the switches of its
                variants
    mlx         adapter_config.json: lora_parameters.rank and .scale, which is the scaling itself
    kohya       header: ss_network_dim, ss_network_alpha (and conv_dim, conv_alpha in ss_network_args)
    diffusers   header: lora_adapter_metadata, PEFT's fields behind the name of the part of the pipeline

A switch that changes the formula and is not handled is refused by its name; a field that PEFT does not know and that is
set is told.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open

from lorabench.errors import ModelError
from lorabench.spectra.adapter_config import (
    CONFIG,
    PeftConfig,
    check_adapter_config,
    is_expression,
    read_adapter_config,
)
from lorabench.spectra.adapter_files import AdapterFiles
from lorabench.spectra.names import plain, unwrapped_pattern

_MOVES_BASE = re.compile(
    r"pissa|olora|corda|loftq|lora_ga", re.IGNORECASE
)  # starts that are taken off the base weights
# fields of peft.LoraConfig and peft.AdaLoraConfig that are read here, or change nothing about the change
_LORA_FIELDS = frozenset((
    "peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version",
    "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora",
    "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
    "megatron_config", "megatron_core", "trainable_token_indices", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "use_dora", "velora_config", "alora_invocation_tokens", "use_qalora", "qalora_group_size",
    "monteclora_config", "layer_replication", "runtime_config", "lora_bias", "target_parameters", "use_bdlora",
    "arrow_config", "kasa_config", "ensure_weight_tying", "modules_to_tie", "target_modules_to_tie", "target_r",
    "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step", "enable_lora",
    "merge_weights", "lora_weights",
))  # fmt: skip


Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class PipelinePart:
    """One model of a pipeline, as diffusers describes its adapter in the header."""

    front: str
    alpha: float
    alpha_pattern: Mapping[str, float]
    rslora: bool


@dataclass(frozen=True)
class Declared:
    """What stands beside the factors; empty where nothing does."""

    config: PeftConfig = field(default_factory=PeftConfig)
    """PEFT's own configuration, {} where there is none"""
    scale: float | None = None
    """mlx: the scaling itself"""
    base: str | None = None
    """the model that it was trained on, as the configuration names it"""
    header: Mapping[str, str] = field(default_factory=dict)
    """a safetensors file's own words"""
    header_alpha: float | None = None
    conv_alpha: float | None = None
    """of convolutions, where the header tells it apart"""
    parts: tuple[PipelinePart, ...] = ()

    @property
    def is_adalora(self) -> bool:
        """Whether peft_type is ADALORA."""
        return str(self.config.get("peft_type", "LORA")).upper() == "ADALORA"

    @property
    def moves_base(self) -> str | None:
        """The start (PiSSA and the like) that changed the base this adapter was trained on; None for what fits onto the
        base as it is."""
        start = self.config.get("init_lora_weights")
        return start if isinstance(start, str) and _MOVES_BASE.match(start) else None

    def alpha(self, module: str, is_convolution: bool = False) -> float | None:
        """lora_alpha of a module: by PEFT's own pattern where there is one; None where nothing says it."""
        if self.config:
            return float(
                by_pattern(self.config.get("alpha_pattern") or {}, module, self.config.get("lora_alpha", 8))
            )  # 8: PEFT's default
        if (part := self._part(module)) is not None:
            return float(by_pattern(part.alpha_pattern, module, part.alpha))
        return self.conv_alpha if is_convolution and self.conv_alpha is not None else self.header_alpha

    def is_rslora(self, module: str) -> bool:
        """Whether the scaling is alpha / sqrt(rank)."""
        part = self._part(module)
        return bool(self.config.get("use_rslora")) or (part is not None and part.rslora)

    def _part(self, module: str) -> PipelinePart | None:
        return next((p for p in self.parts if not p.front or module.startswith(f"{p.front}.")), None)

    def rank(self, module: str) -> int | None:
        """The rank that is declared of a module, None where none is (AdaLoRA's are the factors' own)."""
        if not self.config or self.is_adalora:
            return None
        return int(by_pattern(self.config.get("rank_pattern") or {}, module, self.config.get("r", 8)))

    def passed_over(self, modules: Sequence[str]) -> tuple[str, ...]:
        """The modules that PEFT does not adapt by its configuration
        (peft.tuners.tuners_utils.check_target_module_exists), whatever the file holds for them."""
        config, targets = self.config, self.config.get("target_modules")
        if not targets or targets == "all-linear" or config.get("ensure_weight_tying"):
            return ()
        untargeted = tuple(
            m for m in modules if not (_targeted(config, m) or _targeted(config, m.rpartition(".")[0]))
        )  # nn.MultiheadAttention is adapted with the layer in it
        # a pattern is held against whole names, which files may have shortened: only where it fits some does it tell of
        # the rest
        return () if isinstance(targets, str) and len(untargeted) == len(modules) else untargeted

    def notes(self) -> tuple[str, ...]:
        """What to know of the configuration before believing the numbers."""
        notes, config = [], self.config
        if self.moves_base:
            notes.append(
                f"the adapter starts from {self.moves_base}, which changed the base: the values are of scaling * B @ A"
                " against that changed base; PEFT's path_initial_model_for_weight_conversion saves the whole change"
            )
        if config.get("alora_invocation_tokens"):
            notes.append(
                "aLoRA: the change holds only from its invocation tokens on; before them the model is the base"
            )
        if config.get("monteclora_config"):
            notes.append(
                "MonteCLoRA: the values are of scaling * B @ A, as PEFT evaluates and merges it; training added random"
                " changes of A"
            )
        if isinstance(start := config.get("init_lora_weights"), str) and start.lower() == "mica":
            notes.append("MiCA: B is a frozen part of the base's singular vectors; A alone was trained")
        if config.get("ensure_weight_tying"):
            notes.append(
                "ensure_weight_tying: layers that share a weight with an adapted one are changed in the same way"
            )
        if unknown := sorted(
            k
            for k, v in config.items()
            if k not in _LORA_FIELDS and v not in (None, False, "", 0) and v != {} and v != []
        ):
            notes.append(
                f"{CONFIG} sets {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}, which lorabench does"
                " not know: if it changes the formula scaling * B @ A, the values are different"
            )
        return tuple(notes)


def declared(files: AdapterFiles) -> Declared:
    """What an adapter's configuration and the header of its factors say; ModelError where that cannot be meant."""
    header = _header(files.factor_file)
    if files.config is None:
        return _of_header(header)
    config = read_adapter_config(files.config)
    if "lora_parameters" in config or ("fine_tune_type" in config and "peft_type" not in config):
        return _mlx(config, files.config, header)
    peft = check_adapter_config(config, files.config)
    return Declared(peft, base=str(peft.get("base_model_name_or_path") or "") or None, header=header)


def by_pattern(patterns: Mapping[str, Number], module: str, otherwise: Number) -> Number:
    """The value of the first pattern that a module's name ends with, as peft.utils.other.get_pattern_key matches it."""
    return next((v for p, v in patterns.items() if re.match(rf"(.*\.)?({unwrapped_pattern(p)})$", module)), otherwise)


def _targeted(config: PeftConfig, module: str) -> bool:
    """Whether target_modules, layers_to_transform and exclude_modules mean a module."""
    if not _named(config["target_modules"] or (), module) or _named(config.get("exclude_modules") or (), module):
        return False
    layers = config.get("layers_to_transform")
    if isinstance(config["target_modules"], str) or layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    places = (
        re.match(rf"(?:^|.*?\.){p}\.(\d+)\.", f"{module}.")
        for p in ([patterns] if isinstance(patterns, str) else patterns)
    )
    place = next((p for p in places if p is not None), None)
    return place is not None and int(place[1]) in ([layers] if isinstance(layers, int) else layers)


def _named(names: str | Iterable[str], module: str) -> bool:
    if isinstance(names, str):
        return bool(re.fullmatch(unwrapped_pattern(names), module))
    return any(module == n or module.endswith(f".{n}") for n in map(plain, names))


def _header(file: Path) -> dict[str, str]:
    if file.suffix != ".safetensors":
        return {}
    try:
        with safe_open(file, framework="numpy") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError):
        return {}  # told where the tensors are read


def _of_header(header: Mapping[str, str]) -> Declared:
    for text in (header.get("lora_adapter_metadata"), *header.values()):
        fields = _json(text or "")
        if isinstance(fields, dict) and any(k.split(".")[-1] == "lora_alpha" for k in fields):
            return _of_parts(fields, header)
    alpha, conv = _number(header.get("ss_network_alpha")), None
    if (
        alpha is None
        and str(header.get("use_rslora", "")).lower() in ("true", "1")
        and (rslora_alpha := _number(header.get("lora_alpha"))) is not None
    ):
        return Declared(header=header, parts=(PipelinePart("", rslora_alpha, {}, True),))
    if isinstance(extra := _json(header.get("ss_network_args", "")), dict):
        conv = _number(extra.get("conv_alpha"))
    if alpha is None:
        alpha = _number(header.get("lora_alpha") or header.get("network_alpha") or header.get("alpha"))
    return Declared(header=header, header_alpha=alpha, conv_alpha=conv)


def _of_parts(metadata: Mapping[str, object], header: Mapping[str, str]) -> Declared:
    """lora_adapter_metadata: {"transformer.r": 4, "transformer.lora_alpha": 8, "transformer.alpha_pattern": {...}}; of
    one model alone without its name."""
    fronts = sorted(
        (k.removesuffix("lora_alpha").rstrip(".") for k in metadata if k.split(".")[-1] == "lora_alpha"),
        key=len,
        reverse=True,
    )
    parts = []
    for front in fronts:
        of = {k.removeprefix(f"{front}.") if front else k: v for k, v in metadata.items()}
        alpha, declared_patterns = _number(of["lora_alpha"]), of.get("alpha_pattern")
        patterns = (
            {k: a for k, v in declared_patterns.items() if (a := _number(v)) is not None and is_expression(k)}
            if isinstance(declared_patterns, dict)
            else {}
        )
        if alpha is not None:
            parts.append(PipelinePart(front, alpha, patterns, bool(of.get("use_rslora"))))
    return Declared(header=header, parts=tuple(parts))


def _mlx(config: Mapping[str, object], path: Path, header: Mapping[str, str]) -> Declared:
    if (kind := config.get("fine_tune_type", "lora")) not in ("lora", "dora"):
        raise ModelError(
            f"{path}: mlx's fine_tune_type is {kind!r}, whose file holds full weights, not factors; allowed: lora, dora"
        )
    inner = config.get("lora_parameters")
    scale = inner.get("scale", 20.0) if isinstance(inner, dict) else None
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < math.inf:
        raise ModelError(
            f"{path}: lora_parameters.scale is {scale!r}; it must be a positive number, by which mlx multiplies the"
            " change"
        )
    model = config.get("model")
    return Declared(scale=float(scale), base=model if isinstance(model, str) else None, header=header)


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if 0 < number < math.inf else None


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
