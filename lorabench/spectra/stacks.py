"""Adapters whose factors are shared: by the experts of one stack (PEFT's target_parameters, mlx's switch layers), and
layers made of others (layer_replication)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from lorabench.errors import ModelError
from lorabench.spectra.adapter_config import PeftConfig
from lorabench.spectra.declared import Declared
from lorabench.spectra.layouts import Entry
from lorabench.spectra.tensor_file import TensorFile


def with_experts(entries: Iterable[Entry], file: TensorFile, declared: Declared) -> tuple[Entry, ...]:
    """The same with an entry an expert in place of each stack; ModelError where it cannot be told which parameter a
    pair of factors adapts."""
    unstacked: list[Entry] = []
    all_entries = tuple(entries)
    wrappers = Counter(e.module for e in all_entries)
    for entry in all_entries:
        if entry.layout == "mlx":
            shape = file.shape(entry.b)
            unstacked += _split(entry, shape[0], None) if len(shape) == 3 else [entry]
            continue
        rows, rank = next(iter(file.shape(entry.a)), 0), declared.rank(entry.module)
        named = _parameters(
            entry.module, declared.config.get("target_parameters") or [], unnamed=entry.nest > 0 or rows != rank
        )
        if not named:
            if wrappers[entry.module] > 1 or entry.nest:
                raise ModelError(
                    f"{file.path}: {entry.module} has {wrappers[entry.module]} pairs of factors, and its configuration"
                    " names no target_parameters that they could belong to"
                )
            unstacked.append(entry)
            continue
        if len(named) != wrappers[entry.module]:
            raise ModelError(
                f"{file.path}: {entry.module} has {wrappers[entry.module]} pairs of factors for the parameters"
                f" {', '.join(named)}; the two belong to different adapters"
            )
        if len(named) > 1 and set(named) != {"gate_up_proj", "down_proj"}:
            raise ModelError(
                f"{file.path}: {entry.module} adapts {', '.join(named)}; which pair of factors belongs to which"
                " depends on the model's code, which is not in the file"
            )
        # PEFT wraps parameters in the model's own order, and each wrapper stands around the one before: the innermost
        # is the first
        ordered = ["gate_up_proj", "down_proj"] if len(named) > 1 else named
        parameter = ordered[len(ordered) - 1 - entry.nest]
        entry = replace(entry, parameter=parameter)
        rank = declared.rank(entry.key)
        stacked = rank is not None and rank > 0 and rows % rank == 0 and rows > rank
        unstacked += _split(entry, rows // (rank or 1), f"{entry.module}.{parameter}") if stacked else [entry]
    return tuple(unstacked)


def origin(module: str, config: PeftConfig) -> str | None:
    """With layer_replication [[0, 4], [2, 5]] the layers are 0 1 2 3 2 3 4 of the base: the name there of a module's
    weight; None where it is its own. ModelError where there are not so many layers."""
    spans = config.get("layer_replication")
    if not spans:
        return None
    layers = [layer for start, end in spans for layer in range(start, end)]
    parts = module.split(".")
    at = next((i for i, p in enumerate(parts) if p.isdigit()), None)
    if at is None:
        return None
    if int(parts[at]) >= len(layers):
        raise ModelError(
            f"{module}: layer_replication makes {len(layers)} layers of the base, so that there is no layer"
            f" {parts[at]}; the file and its configuration belong to different adapters"
        )
    return ".".join([*parts[:at], str(layers[int(parts[at])]), *parts[at + 1 :]])


def _split(entry: Entry, experts: int, stack: str | None) -> list[Entry]:
    last = entry.parameter
    name = f"{entry.module}.{{}}.{last}" if last else f"{entry.module}.{{}}"
    return [
        replace(entry, module=name.format(e), expert=e, experts=experts, stack=stack, owner=entry.module)
        for e in range(experts)
    ]


def _parameters(module: str, targets: Iterable[str], unnamed: bool) -> list[str]:
    """The parameters of a module that target_parameters names, as PEFT matches them; `unnamed`: also those named
    without any module."""
    parameters = []
    for target in targets:
        front, _, last = target.rpartition(".")
        if module == front or (module.endswith(f".{front}") if front else unnamed):
            parameters.append(last)
    return sorted(set(parameters))
