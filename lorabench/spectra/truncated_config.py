"""adapter_config.json of an adapter that is cut to a lower rank."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lorabench.spectra.adapter import Adapter
from lorabench.spectra.names import unwrapped, unwrapped_pattern

_OF_ADALORA = ("target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step")


_VARIANTS: Mapping[str, object] = {
    "use_bdlora": None,
    "velora_config": None,
    "monteclora_config": None,
    "kasa_config": None,
    "eva_config": None,
    "corda_config": None,
    "lora_ga_config": None,
    "loftq_config": {},
}


def truncated_config(adapter: Adapter, ranks: Mapping[str, int], rest: list[str]) -> dict[str, object]:
    """The adapter's own configuration where it has one, with ranks and alphas such that every scaling is 1."""
    own = adapter.config
    remaining = {m: r for m, r in ranks.items() if r}
    common = max(set(remaining.values()), key=lambda r: (list(remaining.values()).count(r), -r))
    strip = next(iter(remaining)).split(".")[0] + "." if adapter.is_pipeline else ""
    # the longest first: PEFT takes the first name that a module's ends with
    odd = {
        re.escape(m.removeprefix(strip)).replace(r"\.", ".").replace(r"\-", "-"): r
        for m, r in sorted(remaining.items(), key=lambda k: -len(k[0]))
        if r != common
    }
    config: dict[str, object] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": adapter.base,
        "bias": "none",
        "inference_mode": True,
    } | dict(own)
    config = {k: v for k, v in config.items() if not adapter.declared.is_adalora or k not in _OF_ADALORA} | {
        k: v for k, v in _VARIANTS.items() if k in config
    }
    if not own and rest:
        config |= {"modules_to_save": rest, "task_type": "SEQ_CLS"}
    if whole_modules := own.get("modules_to_save"):
        config["modules_to_save"] = [unwrapped(n) for n in whole_modules]
    stacks = {e.key for e in adapter.entries if e.parameter}
    targets = own.get("target_modules")
    plain = [unwrapped_pattern(str(t)) == t for t in ([targets] if isinstance(targets, str) else targets or [])]
    everywhere = len(remaining) == len(ranks) and (all(plain) if plain else bool(stacks))
    chosen: dict[str, object] = {}
    if not everywhere:
        chosen = {
            "target_modules": sorted(m.removeprefix(strip) for m in remaining if m not in stacks),
            "layers_to_transform": None,
            "layers_pattern": None,
            "exclude_modules": None,
        }
        chosen |= {"target_parameters": sorted(m for m in remaining if m in stacks)} if stacks else {}
    cut = {"peft_type": "LORA", "r": common, "lora_alpha": common, "rank_pattern": odd, "alpha_pattern": dict(odd)}
    return config | chosen | cut | {"use_rslora": False, "use_dora": adapter.is_dora, "init_lora_weights": True}
