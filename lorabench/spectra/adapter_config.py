"""adapter_config.json, read and checked: a switch that changes the formula and is not handled is refused by name."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from lorabench.errors import ModelError

CONFIG = "adapter_config.json"


_ALLOWED = "allowed: LORA (with rsLoRA, DoRA and converted PiSSA) and ADALORA"


# switches whose change is not to be had from the file
_REFUSED = {
    "use_qalora": "QA-LoRA pools the input in groups whose number is not in the file",
    "arrow_config": "Arrow routes every token to other adapters, so there is no single change",
}


class BlockDiagonal(TypedDict, total=False):
    """use_bdlora: in which modules A or B is block-diagonal, and in how many blocks."""

    target_modules_bd_a: list[str] | None
    target_modules_bd_b: list[str] | None
    nblocks: int


class PeftConfig(TypedDict, total=False):
    """The fields of peft.LoraConfig and peft.AdaLoraConfig that are read here; a file may hold more."""

    peft_type: str
    task_type: str | None
    base_model_name_or_path: str | None
    r: int
    init_r: int
    lora_alpha: float
    rank_pattern: dict[str, int] | None
    alpha_pattern: dict[str, float] | None
    target_modules: list[str] | str | None
    exclude_modules: list[str] | str | None
    layers_to_transform: list[int] | int | None
    layers_pattern: list[str] | str | None
    target_parameters: list[str] | None
    modules_to_save: list[str] | None
    layer_replication: list[list[int]] | None
    bias: str
    init_lora_weights: object
    use_bdlora: BlockDiagonal | None
    use_rslora: bool
    use_dora: bool
    fan_in_fan_out: bool
    ensure_weight_tying: bool
    enable_lora: object
    kasa_config: object
    monteclora_config: object
    alora_invocation_tokens: object


def read_adapter_config(path: Path) -> dict[str, object]:
    """The object in adapter_config.json, of PEFT or mlx; ModelError where it holds none."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{path} cannot be read ({' '.join(str(e).split())[:160]}); download it again") from None
    if not isinstance(config, dict) or not config:
        raise ModelError(f"{path} is not a PEFT configuration; an object with peft_type, r and lora_alpha is needed")
    return config


def check_adapter_config(config: Mapping[str, object], path: Path) -> PeftConfig:
    """The same as PEFT's configuration; ModelError where a field has another form than PEFT gives it, or stands for a
    change that cannot be computed from factors."""
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind not in ("LORA", "ADALORA"):
        raise ModelError(f"{path}: the adapter's type is {kind}, which has no factors B @ A to decompose; {_ALLOWED}")
    for name, why in _REFUSED.items():
        if config.get(name):
            raise ModelError(f"{path}: {name} is set, and {why}: it cannot be decomposed")
    numbers = {"lora_alpha": config.get("lora_alpha", 8)} | (
        {"r": config.get("r", 8)} if kind == "LORA" else {"init_r": config.get("init_r", 12)}
    )
    for name in ("alpha_pattern", "rank_pattern") if kind == "LORA" else ("alpha_pattern",):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict):
            raise ModelError(f"{path}: {name} is {patterns!r}; a mapping of module names to numbers is needed")
        for pattern in patterns:
            _expression(pattern, name, path)
        numbers |= {f"{name} of {k}": v for k, v in patterns.items()}
    for name, value in numbers.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ModelError(f"{path}: {name} is {value!r}; a positive number is needed")
        if name.partition(" ")[0] in ("r", "init_r", "rank_pattern") and value != int(value):
            raise ModelError(f"{path}: {name} is {value!r}; a whole number is needed")
    for name in ("target_modules", "exclude_modules"):
        if isinstance(config.get(name), str):
            _expression(config[name], name, path)
        elif not _names(config.get(name)):
            raise ModelError(f"{path}: {name} is {config[name]!r}; a list of names or one regular expression is needed")
    _check_shapes(config, path)
    return cast(PeftConfig, config)  # as checked above; further fields are kept


def _check_shapes(config: Mapping[str, object], path: Path) -> None:
    """The fields that are followed here have the shape that PEFT gives them."""
    blocks = config.get("use_bdlora")
    if blocks and not (
        isinstance(blocks, dict)
        and isinstance(n := blocks.get("nblocks", 1), int)
        and n > 0
        and all(_names(blocks.get(f"target_modules_bd_{s}")) for s in "ab")
    ):
        raise ModelError(
            f"{path}: use_bdlora is {blocks!r}; an object with target_modules_bd_a, target_modules_bd_b and nblocks is"
            " needed"
        )
    layers = config.get("layer_replication")
    if layers and not (
        isinstance(layers, list)
        and all(isinstance(p, list) and len(p) == 2 and all(isinstance(n, int) for n in p) for p in layers)
    ):
        raise ModelError(
            f"{path}: layer_replication is {layers!r}; pairs of layers are needed, such as [[0, 4], [2, 5]]"
        )
    layers, patterns = config.get("layers_to_transform"), config.get("layers_pattern")
    if not (
        layers is None
        or isinstance(layers, int)
        or (isinstance(layers, list) and all(isinstance(n, int) for n in layers))
    ):
        raise ModelError(
            f"{path}: layers_to_transform is {layers!r}; the number of a layer, or a list of them, is needed"
        )
    for pattern in [patterns] if isinstance(patterns, str) else patterns if isinstance(patterns, list) else []:
        _expression(pattern, "layers_pattern", path)
    for name in ("target_parameters", "modules_to_save"):
        if not _names(config.get(name)):
            raise ModelError(f"{path}: {name} is {config[name]!r}; a list of names is needed")


def _names(value: object) -> bool:
    """Whether a field is empty or a list of names."""
    return not value or (isinstance(value, list) and all(isinstance(n, str) for n in value))


def is_expression(pattern: str) -> bool:
    """Whether a text is a valid regular expression."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _expression(pattern: object, name: str, path: Path) -> None:
    if not is_expression(rf"(.*\.)?({pattern})$"):
        raise ModelError(
            f"{path}: {name} has {pattern!r}, which is not a valid regular expression; PEFT matches module names with"
            " it"
        )
