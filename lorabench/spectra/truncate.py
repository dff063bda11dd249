"""The nearest adapter of a lower rank, module by module, written as PEFT reads it.

scaling * B @ A = U S V^T is cut to its first k terms (Eckart and Young 1936) and stored as B = U sqrt(S), A = sqrt(S) V^T with
alpha = rank, so that every scaling is 1. Of DoRA the factors are cut and the magnitudes kept: its energy is that of scaling * B @ A, and
every module keeps a rank. Of others, modules that get rank 0 are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from lorabench.errors import LorabenchError, ModelError
from lorabench.record.store import write_atomically
from lorabench.spectra.adapter import FILES, Adapter
from lorabench.spectra.declared import CONFIG
from lorabench.spectra.layouts import Entry, bias_module
from lorabench.spectra.allocate import Allotment, Candidate, by_energy, least_by_energy, least_uniform, uniform

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Cut:
    """What was written."""

    allotment: Allotment
    modules: int
    """of the adapter as it was"""
    left_out: tuple[str, ...]
    """other tensors of the file that a PEFT adapter has no place for"""
    before: int
    """parameters of its factors"""
    folder: Path


def truncate(adapter: Adapter, folder: str | Path, rank: int | None = None, energy: float | None = None, per_module: bool = False) -> Cut:
    """Writes the cut adapter to a folder. Either `rank` (per_module: as many parameters as that rank everywhere, spread by energy)
    or `energy`, a share of all sigma^2 to keep with the fewest ranks (per_module: the fewest parameters).

    LorabenchError where both or none are given, where one is out of range, or the folder holds something.
    """
    if (rank is None) == (energy is None):
        raise LorabenchError("say either --rank K or --energy SHARE")
    if rank is not None and rank < 1:
        raise LorabenchError(f"rank {rank} leaves nothing; at least 1 is needed")
    if energy is not None and not 0 < energy <= 1:
        raise LorabenchError(f"energy {energy:g} is no share; more than 0 and at most 1 is needed, such as 0.95")
    if adapter.moves_base:
        raise LorabenchError(f"{adapter.place} starts from {adapter.moves_base}, which changed its base: a cut of it fits onto neither; convert it first (PEFT's save_pretrained with path_initial_model_for_weight_conversion)")
    target, least = Path(folder), int(adapter.is_dora)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LorabenchError(f"{target} is there already and not empty; choose another folder with -o DIR")
    found = candidates(adapter)
    if not any(c.energy for c in found.values()):
        raise LorabenchError(f"{adapter.place} is a change of zero (it was never trained): nothing is left of it at any rank")
    if rank is not None:
        level = uniform(found, rank)
        cut = by_energy(found, level.parameters, least) if per_module else level
    else:
        assert energy is not None
        cut = least_by_energy(found, energy, least) if per_module else least_uniform(found, energy)
    before = sum(math.prod(adapter.file.shape(name)) for e in adapter.entries for name in (e.a, e.b))
    left_out = _write(adapter, cut.ranks, target)
    return Cut(cut, len(found), left_out, before, target)


def candidates(adapter: Adapter) -> dict[str, Candidate]:
    """What every module's ranks bring and cost."""
    products = (adapter.product(entry) for entry in adapter.entries)
    return {d.module: Candidate(d.singular_values().numpy(), d.in_features + d.out_features) for d in products}


def _write(adapter: Adapter, ranks: Mapping[str, int], folder: Path) -> tuple[str, ...]:
    own = {name for e in adapter.entries for name in (e.a, e.b, e.magnitude) if name}
    others = [n for n in adapter.file.names() if n not in own]
    # without a configuration only whole parts beside the adapted ones (a classifier) are known to be trained along
    trunk = {e.module.split(".")[0] for e in adapter.entries}
    left_out = tuple(n for n in others if not adapter.config and _named(n).removeprefix(_PREFIX).split(".")[0] in trunk)
    tensors = {}
    for name in others:
        module = bias_module(name)
        if name not in left_out and (module is None or ranks.get(module)):
            scale = 1.0 if module is None else adapter.factors(next(e for e in adapter.entries if e.module == module))[2]
            tensors[_named(name)] = (scale * adapter.file.tensor(name)).contiguous() if module else adapter.file.tensor(name).clone()
    for entry in adapter.entries:
        if rank := ranks[entry.module]:
            tensors |= _cut(adapter, entry, rank)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / FILES[0], metadata={"format": "pt"})
    except (OSError, SafetensorError) as e:
        raise ModelError(f"{folder} cannot be written ({' '.join(str(e).split())[:160]}); choose another folder with -o DIR") from None
    rest = sorted({n.removeprefix(_PREFIX).split(".")[0] for n in tensors if ".lora_" not in n})
    write_atomically(folder / CONFIG, json.dumps(_config(adapter, ranks, rest), indent=2) + "\n")
    return left_out


def _cut(adapter: Adapter, entry: Entry, rank: int) -> dict[str, torch.Tensor]:
    a, b = adapter.product(entry).decompose(rank).factors()
    shapes, dtype = (adapter.file.shape(entry.a), adapter.file.shape(entry.b)), adapter.file.tensor(entry.a).dtype
    if len(shapes[0]) > 2:  # a convolution
        a, b = a.reshape(rank, *shapes[0][1:]), b.reshape(-1, rank, *shapes[1][2:])
    stem = f"{_PREFIX}{entry.module}.lora_"
    ends = ("embedding_A", "embedding_B") if entry.is_embedding else ("A.weight", "B.weight")
    made = {stem + end: t.to(dtype).contiguous() for end, t in zip(ends, (a, b), strict=True)}
    if entry.magnitude:
        made[f"{stem}magnitude_vector"] = adapter.file.tensor(entry.magnitude).contiguous()
    return made


def _named(name: str) -> str:
    return name if name.startswith(_PREFIX) else _PREFIX + name


def _config(adapter: Adapter, ranks: Mapping[str, int], rest: list[str]) -> dict[str, Any]:
    """The adapter's own configuration where it has one, with ranks and alphas such that every scaling is 1."""
    kept = {m: r for m, r in ranks.items() if r}
    common = max(set(kept.values()), key=lambda r: (list(kept.values()).count(r), -r))
    odd = {m: r for m, r in kept.items() if r != common}
    config: dict[str, Any] = {"peft_type": "LORA", "task_type": None, "base_model_name_or_path": None, "bias": "none", "inference_mode": True} | adapter.config
    if not adapter.config and rest:
        config |= {"modules_to_save": rest, "task_type": "SEQ_CLS"}
    everywhere = len(kept) == len(ranks) and adapter.config.get("target_modules")
    chosen = {} if everywhere else {"target_modules": sorted(kept), "layers_to_transform": None, "layers_pattern": None, "exclude_modules": None}
    cut = {"r": common, "lora_alpha": common, "rank_pattern": odd, "alpha_pattern": dict(odd)}
    return config | chosen | cut | {"use_rslora": False, "use_dora": adapter.is_dora, "init_lora_weights": True}
