"""The nearest adapter of a lower rank, module by module, written as PEFT reads it.

scaling * B @ A = U S V^T is cut to its first k terms (Eckart and Young 1936) and stored as B = U sqrt(S), A = sqrt(S)
V^T with alpha = rank, so that every scaling is 1. Of DoRA the factors are cut and the magnitudes kept: its energy is
that of scaling * B @ A, and every module keeps a rank. Of others, modules that get rank 0 are left out.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from lorabench.errors import LorabenchError, ModelError
from lorabench.record.whole_files import write_atomically
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.adapter_config import CONFIG
from lorabench.spectra.adapter_files import FILES
from lorabench.spectra.allocate import Allotment, ModuleCandidate, by_energy, least_by_energy, least_uniform, uniform
from lorabench.spectra.layouts import Entry, bias_module, is_side
from lorabench.spectra.names import unwrapped
from lorabench.spectra.reread import PREFIX as _PREFIX
from lorabench.spectra.reread import ExpectedModule, check
from lorabench.spectra.truncated_config import truncated_config


@dataclass(frozen=True)
class TruncationResult:
    """What was written."""

    allotment: Allotment
    modules: int
    """of the adapter as it was"""
    left_out: tuple[str, ...]
    """other tensors of the file that a PEFT adapter has no place for"""
    before: int
    """parameters of its factors"""
    folder: Path


def truncate(
    adapter: Adapter, folder: str | Path, rank: int | None = None, energy: float | None = None, per_module: bool = False
) -> TruncationResult:
    """Writes the cut adapter to a folder. Either `rank` (per_module: as many parameters as that rank everywhere, spread
    by energy) or `energy`, a share of all sigma^2 to keep with the fewest ranks (per_module: the fewest parameters).

    LorabenchError where both or none are given, where one is out of range, or the folder holds something.
    """
    if (rank is None) == (energy is None):
        raise LorabenchError("give either --rank K or --energy SHARE")
    if rank is not None and rank < 1:
        raise LorabenchError(f"rank {rank} leaves nothing; at least 1 is needed")
    if energy is not None and not 0 < energy <= 1:
        raise LorabenchError(f"energy {energy:g} is not a share; give a number above 0 and at most 1, such as 0.95")
    _refuse(adapter)
    target, least = Path(folder), int(adapter.is_dora)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LorabenchError(f"{target} already exists and is not empty; choose another folder with -o DIR")
    modules = candidates(adapter)
    if not any(c.energy for c in modules.values()):
        raise LorabenchError(
            f"{adapter.place} is a change of zero (it was never trained), so there is nothing to truncate"
        )
    if rank is not None:
        level = uniform(modules, rank)
        cut = by_energy(modules, level.parameters, least) if per_module else level
    else:
        assert energy is not None
        cut = least_by_energy(modules, energy, least) if per_module else least_uniform(modules, energy)
    before = sum(math.prod(adapter.file.shape(n)) for n in {n for e in adapter.entries for n in (e.a, e.b)})
    left_out = _write(adapter, cut.ranks, target)
    return TruncationResult(cut, len(modules), left_out, before, target)


def groups(adapter: Adapter) -> dict[str, tuple[Entry, ...]]:
    """What shares one rank, by the name that PEFT matches ranks with: a module, or all experts of a stack."""
    by_key: dict[str, list[Entry]] = {}
    for entry in adapter.entries:
        by_key.setdefault(entry.key, []).append(entry)
    return {k: tuple(v) for k, v in by_key.items()}


def candidates(adapter: Adapter) -> dict[str, ModuleCandidate]:
    """What every module's ranks bring and cost; a rank of a stack is one of each expert."""
    by_key = {}
    for key, members in groups(adapter).items():
        deltas = [adapter.product(e) for e in members]
        squares = sum(np.square(d.singular_values().numpy()) for d in deltas)
        by_key[key] = ModuleCandidate(np.sqrt(squares), sum(d.in_features + d.out_features for d in deltas))
    return by_key


def _refuse(adapter: Adapter) -> None:
    """What has no place in an adapter of PEFT's, or would mean something else there."""
    layout = {e.layout for e in adapter.entries}
    if adapter.moves_base:
        raise LorabenchError(
            f"{adapter.place} starts from {adapter.moves_base}, which changed its base: a truncated copy fits"
            " neither; convert it first (PEFT's save_pretrained with path_initial_model_for_weight_conversion)"
        )
    if adapter.is_kasa:
        raise LorabenchError(
            f"{adapter.place} is a KaSA adapter, which takes as many singular values off its base as it has ranks: a"
            " truncated copy would belong to another base"
        )
    if "kohya" in layout and any("." not in e.module for e in adapter.entries):
        raise LorabenchError(
            f"{adapter.place} has kohya's names, with _ for every dot: it is uncertain which module each name means;"
            " convert it to PEFT's or diffusers' format first"
        )
    if "torchtune" in layout:
        raise LorabenchError(
            f"{adapter.place} has torchtune's own names and row order; truncate the adapter_model file that"
            " torchtune writes in PEFT's format beside it"
        )
    if len(fronts := {e.module.split(".")[0] for e in adapter.entries}) > 1 and adapter.is_pipeline:
        raise LorabenchError(
            f"{adapter.place} holds adapters of several models ({', '.join(sorted(fronts))}), which PEFT keeps in a"
            " folder each; save only one of them"
        )
    if passed := adapter.passed_over():
        raise LorabenchError(
            f"{adapter.place}: {CONFIG} does not target {passed[0]}, whose factors are in the file: PEFT would ignore"
            " them; make target_modules (layers_to_transform, exclude_modules) name what was trained"
        )
    for e in adapter.entries:
        if adapter.is_merged(e):
            what = (
                "a grouped convolution, whose nearest change of a lower rank is not grouped"
                if len(adapter.file.shape(e.a)) > 2
                else "merged from several projections; the file does not say which rows of the layer they are"
            )
            raise LorabenchError(f"{adapter.place}: {e.module} is {what}")
        if ".base_layer." in unwrapped(e.a.rpartition(".lora_")[0]) and not e.parameter:
            raise LorabenchError(
                f"{adapter.place}: {e.module} is part of a layer that is adapted as a whole (nn.MultiheadAttention);"
                " such a pair cannot be truncated"
            )
        if e.layout == "mlx" and e.experts > 1:
            raise LorabenchError(
                f"{adapter.place}: {e.owner} is a stack of experts in mlx's layout, whose place in a transformers"
                " model is uncertain"
            )


def _write(adapter: Adapter, ranks: Mapping[str, int], folder: Path) -> tuple[str, ...]:
    others, left_out = _others(adapter, ranks)
    remaining = {key: members for key, members in groups(adapter).items() if ranks[key]}
    expected = dict(
        _truncated(adapter, members, ranks[key], _nest(members[0], remaining)) for key, members in remaining.items()
    )
    tensors = {_PREFIX + n: t for n, t in others.items()}
    for name, one in expected.items():
        tensors |= _tensors(adapter, name, one)
    partial = folder.with_name(
        f".{folder.name}.partial"
    )  # a cut that is stopped leaves nothing under the name that was asked for
    rest = sorted({n.split(".")[0] for n in others if ".lora_" not in n})
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(tensors, partial / FILES[0], metadata={"format": "pt"})
        (partial / FILES[0]).chmod(0o644)  # safetensors writes for the owner alone
        write_atomically(partial / CONFIG, json.dumps(truncated_config(adapter, ranks, rest), indent=2) + "\n")
        check(partial, expected, others)
        folder.mkdir(exist_ok=True)
        for name in (FILES[0], CONFIG):
            (partial / name).replace(folder / name)
    except (OSError, SafetensorError) as e:
        raise ModelError(
            f"{folder} cannot be written ({' '.join(str(e).split())[:160]}); choose another folder with -o DIR"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return left_out


def _others(adapter: Adapter, ranks: Mapping[str, int]) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """(further tensors by the names that PEFT gives them, those it has no place for)."""
    own = {n for e in adapter.entries for n in e.tensors()}
    # without a configuration only whole parts beside the adapted ones (a classifier) are known to be trained along
    trunk = {e.module.split(".")[0] for e in adapter.entries}
    embeddings = {e.module for e in adapter.entries if e.is_embedding or e.module.endswith("lm_head")}
    tensors, left_out = {}, []
    for name in adapter.file.names():
        if name in own or is_side(name):
            continue
        plain = _of_peft(unwrapped(name))
        if plain is None or (
            plain.endswith(".base_layer.weight") and plain.removesuffix(".base_layer.weight") not in embeddings
        ):
            continue  # a frozen copy; of an embedding PEFT saves it too, since it may have been resized
        if (module := bias_module(name)) is not None:
            entry = next((e for e in adapter.entries if e.module == module), None)
            if entry is not None and ranks.get(entry.key):
                tensors[plain] = (adapter.factors(entry)[2] * adapter.file.tensor(name)).contiguous()
        elif not adapter.config and plain.split(".")[0] in trunk:
            left_out.append(name)
        else:
            tensors[plain] = adapter.file.tensor(name).clone()
    return tensors, tuple(left_out)


def _of_peft(name: str) -> str | None:
    """A further tensor's name as PEFT saves it, without the adapter's; None for what it does not save: a copy of what
    was there before."""
    if (
        ".original_module." in name
        or ".trainable_tokens_original" in name
        or ".token_adapter.base_layer." in name
        or ".token_indices" in name
    ):
        return None
    name = re.sub(r"\.modules_to_save\.[^.]+", "", name)
    name = re.sub(r"(\.trainable_tokens_delta)\..+$", r"\1", name)
    return re.sub(r"(\.lora_B)\.(?!bias$)[^.]+(\.bias)$", r"\1\2", name)


def _nest(entry: Entry, groups: Mapping[str, tuple[Entry, ...]]) -> int:
    """How many wrappers of the same module PEFT puts around this one, of those that are kept."""
    return sum(
        m[0].nest < entry.nest and (m[0].owner or m[0].module) == (entry.owner or entry.module) for m in groups.values()
    )


def _truncated(adapter: Adapter, members: tuple[Entry, ...], rank: int, nest: int) -> tuple[str, ExpectedModule]:
    """(the module's name in PEFT's file, what it is cut to)."""
    first = members[0]
    factors = tuple(adapter.product(e).decompose(rank).factors() for e in members)
    (a, b), shapes = factors[0], (adapter.file.shape(first.a), adapter.file.shape(first.b))
    flat: tuple[tuple[int, ...], tuple[int, ...]] = (tuple(a.shape), tuple(b.shape))
    if len(shapes[0]) > 2 and first.layout != "mlx":  # a convolution
        flat = (len(a), *shapes[0][1:]), (len(b), b.shape[1], *shapes[1][2:])
    dtype = adapter.file.tensor(first.a).dtype
    name = (first.owner or first.module).removeprefix(f"{first.module.split('.')[0]}." if adapter.is_pipeline else "")
    return name + ".base_layer" * nest, ExpectedModule(
        first, factors, flat, dtype if dtype.itemsize > 1 else torch.float32
    )


def _tensors(adapter: Adapter, name: str, one: ExpectedModule) -> dict[str, torch.Tensor]:
    a, b = (torch.stack(side) for side in zip(*one.factors, strict=True))
    # of a stack rows e r ... of A are those of expert e, of B columns e, e + n, ...
    a, b = (
        a.flatten(0, 1).reshape(-1, *one.shapes[0][1:]),
        b.permute(1, 2, 0).reshape(b.shape[1], -1, *one.shapes[1][2:]),
    )
    stem = f"{_PREFIX}{name}.lora_"
    ends = ("embedding_A", "embedding_B") if one.entry.is_embedding else ("A.weight", "B.weight")
    tensors = {stem + end: t.to(one.dtype).contiguous() for end, t in zip(ends, (a, b), strict=True)}
    if one.entry.magnitude:
        magnitude = adapter.file.tensor(one.entry.magnitude)
        tensors[f"{stem}magnitude_vector"] = (
            magnitude if magnitude.element_size() > 1 else magnitude.float()
        ).contiguous()
    return tensors
