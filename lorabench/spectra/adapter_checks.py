"""Whether an adapter's file and its configuration belong together; ModelError where they cannot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lorabench.errors import ModelError
from lorabench.spectra.adapter_config import CONFIG
from lorabench.spectra.factor_tensors import by, factor_shape, own_alpha

if TYPE_CHECKING:
    from lorabench.spectra.adapter import Adapter


def check_adapter(adapter: Adapter) -> None:
    """ModelError at the first thing that does not fit."""
    _check_shapes(adapter)
    _check_alphas(adapter)
    _check_variants(adapter)


def _check_alphas(adapter: Adapter) -> None:
    for entry in adapter.entries:
        if entry.alpha is not None and adapter.config and adapter.alpha is None:
            own_value, declared_alpha = own_alpha(adapter.file, entry.alpha), adapter.declared.alpha(entry.key)
            if declared_alpha is not None and abs(own_value - declared_alpha) > 1e-2 * declared_alpha:
                raise ModelError(
                    f"{adapter.file.path}: {entry.alpha} is {own_value:g}, {CONFIG} says {declared_alpha:g}; choose one"
                    " with --alpha"
                )


def _check_shapes(adapter: Adapter) -> None:
    for entry in adapter.entries:
        out = [factor_shape(adapter.file, entry, of_b) for of_b in (False, True)][1][-1 if entry.layout == "mlx" else 0]
        if entry.layout == "mlx" and entry.is_embedding and entry.magnitude is not None:
            raise ModelError(
                f"{adapter.file.path}: {entry.magnitude} holds one magnitude per row, as mlx writes them for DoRA on"
                " an embedding, which lorabench does not read"
            )
        a, b = adapter.file.shape(entry.a), adapter.file.shape(entry.b)
        if 0 in (*a, *b) and not (
            entry.e is not None and (a[0], b[1]) == (0, 0)
        ):  # AdaLoRA takes all ranks off some modules
            raise ModelError(
                f"{adapter.file.path}: {entry.module}: lora_A is {by(a)} and lora_B is {by(b)}: empty, as DeepSpeed"
                " ZeRO-3 leaves shards that were not gathered; gather them and save the adapter again"
            )
        if adapter.config and len(a) == 2 and not adapter.config.get("enable_lora") and adapter.is_merged(entry):
            raise ModelError(
                f"{adapter.file.path}: {entry.module}: lora_A is {by(a)} and lora_B is {by(b)}; the rows of A must"
                f" be the columns of B, since {CONFIG} says nothing of merged projections (enable_lora)"
            )
        if entry.magnitude is not None and math.prod(shape := adapter.file.shape(entry.magnitude)) != out:
            raise ModelError(
                f"{adapter.file.path}: {entry.magnitude} is {by(shape)}; {out} finite magnitudes are needed"
            )


def _check_variants(adapter: Adapter) -> None:
    """The file has the tensors of the variants that its configuration switches on, and of no others, which PEFT
    would pass over."""
    if not adapter.config:
        return
    stacked = {e.key for e in adapter.entries if e.parameter}
    for switch, part, is_on in (
        ("use_dora", "magnitude", bool(adapter.config.get("use_dora"))),
        ("kasa_config", "diag", bool(adapter.config.get("kasa_config"))),
        ("peft_type ADALORA", "e", adapter.declared.is_adalora),
    ):
        odd = next(
            (e for e in adapter.entries if (getattr(e, part) is not None) != is_on and e.key not in stacked), None
        )
        if odd is not None and is_on:
            raise ModelError(
                f"{adapter.file.path}: {CONFIG} sets {switch}, but {odd.module} has no tensor for it; the file is"
                " incomplete, download it again"
            )
        if odd is not None:
            raise ModelError(
                f"{adapter.file.path}: {getattr(odd, part)} is in the file, but {CONFIG} does not set {switch}, so"
                " PEFT would ignore it; the two belong to different adapters"
            )
