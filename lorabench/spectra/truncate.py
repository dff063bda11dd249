"""The nearest adapter of a lower rank, module by module, written as PEFT reads it.

scaling * B @ A = U S V^T is cut to its first k terms (Eckart and Young 1936) and stored as B = U sqrt(S), A = sqrt(S) V^T with
alpha = rank, so that every scaling is 1. Of DoRA the factors are cut and the magnitudes kept. Modules that get rank 0 are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from lorabench.errors import LorabenchError, ModelError
from lorabench.record.store import write_atomically
from lorabench.spectra.adapter import CONFIG, FILES, Adapter, Entry
from lorabench.spectra.allocate import Allotment, Candidate, by_energy, least_by_energy, least_uniform, uniform

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Cut:
    """What was written."""

    allotment: Allotment
    modules: int
    """of the adapter as it was"""
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
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LorabenchError(f"{target} is there already and not empty; choose another folder with -o DIR")
    found = candidates(adapter)
    if not any(c.energy for c in found.values()):
        raise LorabenchError(f"{adapter.place} is a change of zero (it was never trained): nothing is left of it at any rank")
    if rank is not None:
        level = uniform(found, rank)
        cut = by_energy(found, level.parameters) if per_module else level
    else:
        assert energy is not None
        cut = least_by_energy(found, energy) if per_module else least_uniform(found, energy)
    before = sum(c.cost * len(c.values) for c in found.values())
    _write(adapter, cut.ranks, target)
    return Cut(cut, len(found), before, target)


def candidates(adapter: Adapter) -> dict[str, Candidate]:
    """What every module's ranks bring and cost."""
    products = (adapter.product(entry) for entry in adapter.entries)
    return {d.module: Candidate(d.singular_values().numpy(), d.in_features + d.out_features) for d in products}


def _write(adapter: Adapter, ranks: Mapping[str, int], folder: Path) -> None:
    own = {name for e in adapter.entries for name in (e.a, e.b, e.magnitude) if name}
    tensors = {_named(n): adapter.file.tensor(n).contiguous() for n in adapter.file.names() if n not in own}
    for entry in adapter.entries:
        rank = ranks[entry.module]
        if rank:
            tensors |= _cut(adapter, entry, rank)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / FILES[0], metadata={"format": "pt"})
    except (OSError, SafetensorError) as e:
        raise ModelError(f"{folder} cannot be written ({' '.join(str(e).split())[:160]}); choose another folder with -o DIR") from None
    rest = sorted({n.removeprefix(_PREFIX).split(".")[0] for n in tensors if n.startswith(_PREFIX) and ".lora_" not in n and n.rpartition(".")[2] in ("weight", "bias")})
    write_atomically(folder / CONFIG, json.dumps(_config(adapter, ranks, rest), indent=2) + "\n")


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
