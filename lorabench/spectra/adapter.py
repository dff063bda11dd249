"""LoRA adapters in files: PEFT's own format, old PEFT files, loralib's.

    PEFT       base_model.model.<module>.lora_A.weight (r, in), .lora_B.weight (out, r); adapter_config.json beside it
    embedding  ....lora_embedding_A (r, rows), ....lora_embedding_B (dim, r)
    loralib    <module>.lora_A (r, in), <module>.lora_B (out, r); no configuration, so that alpha must be told

Merged projections (loralib's MergedLinear: one lora_A of g r rows for a lora_B of r columns) are told by their shapes:
part i of B's rows goes with rows i r ... (i + 1) r of A, one change of rank g r.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorabench.errors import ModelError
from lorabench.record.spectrum import by_layer
from lorabench.spectra.delta import Delta, of_dora, of_factors
from lorabench.spectra.files import READABLE, TensorFile, Weights

CONFIG, FILES = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
_KEY = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>embedding_A|embedding_B|A|B|magnitude_vector)(?:\.(?!weight$)(?P<adapter>[^.]+))?(?:\.weight)?$")


@dataclass(frozen=True)
class Entry:
    """The tensors of one adapted module, by name in the file."""

    module: str
    a: str
    b: str
    magnitude: str | None = None

    @property
    def is_embedding(self) -> bool:
        return "lora_embedding_" in self.a


class Adapter:
    """An adapter on disk; its tensors are read when they are asked for."""

    def __init__(self, place: str | Path, alpha: float | None = None) -> None:
        self.place = Path(place)
        self.config = _config(self.place)
        self.file = TensorFile(_file(self.place))
        self.entries = _entries(self.file)
        self.alpha = alpha
        self._patterns: Mapping[str, Any] = self.config.get("alpha_pattern") or {}

    @property
    def base(self) -> str | None:
        """The model that it was trained on, as its configuration names it."""
        return self.config.get("base_model_name_or_path") or None

    @property
    def is_dora(self) -> bool:
        return any(e.magnitude for e in self.entries)

    def notes(self) -> tuple[str, ...]:
        """What to know before believing the numbers."""
        told = []
        if not self.config and self.alpha is None:
            told.append("no adapter_config.json: alpha is not known, scaling 1 (alpha = rank) is assumed; say it with --alpha")
        start = self.config.get("init_lora_weights")
        if isinstance(start, str) and re.match(r"pissa|olora|corda|loftq|lora_ga", start.lower()):
            told.append(f"the adapter starts from {start}, which changed the base: the values are of scaling * B @ A against that changed base; PEFT's path_initial_model_for_weight_conversion saves the whole change")
        return tuple(told)

    def scaling(self, module: str, rank: int) -> float:
        """alpha / rank, alpha / sqrt(rank) for rsLoRA; alpha by PEFT's own pattern where there is one."""
        pattern = next((p for p in self._patterns if re.match(rf"(.*\.)?({p})$", module)), None)  # peft.utils.other.get_pattern_key
        alpha = self.alpha
        if alpha is None:
            alpha = self._patterns[pattern] if pattern else self.config.get("lora_alpha", 8 if self.config else rank)  # 8: PEFT's default
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def factors(self, entry: Entry) -> tuple[torch.Tensor, torch.Tensor, float]:
        """(A, B, scaling) with A (rank, in) and B (out, rank): convolutions flat, merged projections as one block-diagonal B."""
        a, b = (self._flat(entry, name, of_b) for name, of_b in ((entry.a, False), (entry.b, True)))
        rank = b.shape[1]
        if not rank or a.shape[0] % rank or b.shape[0] % max(1, a.shape[0] // rank):
            raise ModelError(f"{self.file.path}: {entry.module}: lora_A is {_by(a)} and lora_B is {_by(b)}; the rows of A must be the columns of B")
        declared = self.config.get("r")
        if declared and rank != declared and not self.config.get("rank_pattern") and not isinstance(declared, Mapping):
            raise ModelError(f"{self.file.path}: {entry.module} has rank {rank}, {CONFIG} says r = {declared}; the two belong to different adapters")
        groups = a.shape[0] // rank
        if groups > 1:
            b = torch.block_diag(*b.chunk(groups))
        return a, b, self.scaling(entry.module, rank)

    def delta(self, entry: Entry, base: Weights | None = None) -> Delta:
        """The change of one module; of DoRA the whole one where the base is there, else of scaling * B @ A alone."""
        if entry.magnitude is not None and base is not None:
            a, b, scaling = self.factors(entry)
            weight = base.weight(entry.module, (b.shape[0], a.shape[1]))
            if weight is None:
                raise ModelError(f"{base.place} has no weight {entry.module} of {b.shape[0]} x {a.shape[1]}, which this DoRA adapter belongs to; give the base that it was trained on")
            return of_dora(entry.module, weight, a, b, scaling, self.file.tensor(entry.magnitude))
        return self.product(entry)

    def product(self, entry: Entry) -> Delta:
        """scaling * B @ A of one module: its change, or of DoRA the part that turns it."""
        return of_factors(entry.module, *self.factors(entry))

    def deltas(self, base: Weights | None = None) -> Iterator[Delta]:
        """The changes of all modules, in the model's order of layers, one in memory at a time."""
        for entry in self.entries:
            yield self.delta(entry, base)

    def _flat(self, entry: Entry, name: str, of_b: bool) -> torch.Tensor:
        found = self.file.tensor(name)
        if found.dim() < 2 or not found.is_floating_point():
            raise ModelError(f"{self.file.path}: {name} is {_by(found)} of {str(found.dtype).removeprefix('torch.')}; a matrix of floating-point numbers is needed")
        if not bool(torch.isfinite(found).all()):
            raise ModelError(f"{self.file.path}: {name} holds values that are not finite; the training diverged")
        return found.reshape(found.shape[0], -1)


def is_adapter(place: Path) -> bool:
    """Whether a path is an adapter's folder, or a file that may be one."""
    if place.is_dir():
        return (place / CONFIG).is_file() or any((place / f).is_file() for f in FILES)
    return place.suffix in READABLE


def _file(place: Path) -> Path:
    if place.is_file():
        return place
    found = next((place / f for f in FILES if (place / f).is_file()), None)
    if found is None:
        raise ModelError(f"{place} holds no adapter; allowed: {' or '.join(FILES)}")
    return found


def _config(place: Path) -> dict[str, Any]:
    path = (place if place.is_dir() else place.parent) / CONFIG
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{path} cannot be read ({' '.join(str(e).split())[:160]}); get it anew") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} is no PEFT configuration; an object with peft_type, r and lora_alpha is needed")
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise ModelError(f"{path}: the adapter's type is {kind}, which has no factors B @ A to decompose; allowed: LORA (with rsLoRA, DoRA and converted PiSSA)")
    alpha, rank, patterns = config.get("lora_alpha", 8), config.get("r", 8), config.get("alpha_pattern") or {}
    for name, value in (("lora_alpha", alpha), ("r", rank), *((f"alpha_pattern of {k}", v) for k, v in (patterns.items() if isinstance(patterns, dict) else ()))):
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise ModelError(f"{path}: {name} is {value!r}; a positive number is needed")
    if not isinstance(patterns, dict):
        raise ModelError(f"{path}: alpha_pattern is {patterns!r}; a mapping of module names to numbers is needed")
    return config


def _entries(file: TensorFile) -> tuple[Entry, ...]:
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    adapters = set()
    for name in file.names():
        if match := _KEY.match(name):
            found[match["module"]][match["part"].removeprefix("embedding_")] = name
            adapters.add(match["adapter"])
    if not found:
        some = ", ".join(file.names()[:3])
        raise ModelError(f"{file.path} holds no LoRA factors (its tensors: {some}, ...); allowed: lora_A and lora_B as PEFT or loralib save them")
    if len(adapters) > 1:
        raise ModelError(f"{file.path} holds several adapters ({', '.join(sorted(map(str, adapters)))}); save one of them alone")
    for module, parts in found.items():
        if not {"A", "B"} <= set(parts):
            raise ModelError(f"{file.path}: {module} has no lora_{'B' if 'A' in parts else 'A'}; the file is not whole, get it anew")
    return tuple(Entry(m, found[m]["A"], found[m]["B"], found[m].get("magnitude_vector")) for m in sorted(found, key=by_layer))


def _by(tensor: torch.Tensor) -> str:
    return " x ".join(str(n) for n in tensor.shape)
