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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lorabench.errors import ModelError
from lorabench.record.spectrum import by_layer
from lorabench.spectra.delta import Delta, of_dora, of_factors
from lorabench.spectra.files import READABLE, TensorFile, Weights

CONFIG, FILES = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
_KEY = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>embedding_A|embedding_B|A|B|magnitude_vector)(?:\.(?!weight$|bias$)(?P<adapter>[^.]+))?(?:\.weight)?$")
_BIAS = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_B(?:\.(?!bias$)[^.]+)?\.bias$")
_MOVES_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga", re.IGNORECASE)  # starts that are taken off the base weights


Held = Callable[[torch.Tensor], torch.Tensor]


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
        if alpha is not None and not 0 < alpha < math.inf:
            raise ModelError(f"alpha {alpha:g} is no scaling; a positive number is needed")
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

    @property
    def moves_base(self) -> str | None:
        """The start (PiSSA and the like) that changed the base this adapter was trained on; None for what fits onto the base as it is."""
        start = self.config.get("init_lora_weights")
        return start if isinstance(start, str) and _MOVES_BASE.match(start) else None

    def notes(self) -> tuple[str, ...]:
        """What to know before believing the numbers."""
        told = []
        if not self.config and self.alpha is None:
            told.append("no adapter_config.json: alpha is not known, scaling 1 (alpha = rank) is assumed; say it with --alpha")
        if self.moves_base:
            told.append(f"the adapter starts from {self.moves_base}, which changed the base: the values are of scaling * B @ A against that changed base; PEFT's path_initial_model_for_weight_conversion saves the whole change")
        return tuple(told)

    def scaling(self, module: str, rank: int) -> float:
        """alpha / rank, alpha / sqrt(rank) for rsLoRA; alpha by PEFT's own pattern where there is one."""
        alpha = self.alpha
        if alpha is None:
            alpha = _by_pattern(self._patterns, module, self.config.get("lora_alpha", 8 if self.config else rank))  # 8: PEFT's default
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def factors(self, entry: Entry) -> tuple[torch.Tensor, torch.Tensor, float]:
        """(A, B, scaling) with A (rank, in) and B (out, rank): convolutions flat, merged projections as one block-diagonal B."""
        a, b = (self._flat(entry, name, of_b) for name, of_b in ((entry.a, False), (entry.b, True)))
        rank = b.shape[1]
        if not rank or a.shape[0] % rank or b.shape[0] % max(1, a.shape[0] // rank):
            raise ModelError(f"{self.file.path}: {entry.module}: lora_A is {_by(a)} and lora_B is {_by(b)}; the rows of A must be the columns of B")
        declared = _by_pattern(self.config.get("rank_pattern") or {}, entry.module, self.config.get("r", rank))
        if rank != declared:
            raise ModelError(f"{self.file.path}: {entry.module} has rank {rank}, {CONFIG} says {declared}; the two belong to different adapters")
        groups = a.shape[0] // rank
        if groups > 1:
            b = torch.block_diag(*b.chunk(groups))
        return a, b, self.scaling(entry.module, rank)

    def delta(self, entry: Entry, base: Weights | None = None, held: Held = lambda weight: weight) -> Delta:
        """The change of one module; of DoRA on a linear layer the whole one where the base is there, else of scaling * B @ A alone.

        `held` gives a base weight as training saw it, where that was quantised.
        """
        if entry.magnitude is not None and base is not None and not entry.is_embedding and len(self.file.shape(entry.a)) == 2:
            a, b, scaling = self.factors(entry)
            magnitude = self.file.tensor(entry.magnitude)
            if magnitude.numel() != b.shape[0] or not bool(torch.isfinite(magnitude).all()):
                raise ModelError(f"{self.file.path}: {entry.magnitude} is {_by(magnitude)}; {b.shape[0]} finite magnitudes are needed")
            weight = base.weight(entry.module, (b.shape[0], a.shape[1]))
            if weight is None:
                raise ModelError(f"{base.place} has no weight {entry.module} of {b.shape[0]} x {a.shape[1]}, which this DoRA adapter belongs to; give the base that it was trained on")
            return of_dora(entry.module, held(weight), a, b, scaling, magnitude)
        return self.product(entry)

    def product(self, entry: Entry) -> Delta:
        """scaling * B @ A of one module: its change, or of DoRA the part that turns it."""
        return replace(of_factors(entry.module, *self.factors(entry)), is_embedding=entry.is_embedding)

    def deltas(self, base: Weights | None = None, held: Held = lambda weight: weight) -> Iterator[Delta]:
        """The changes of all modules, in the model's order of layers, one in memory at a time."""
        for entry in self.entries:
            yield self.delta(entry, base, held)

    def _flat(self, entry: Entry, name: str, of_b: bool) -> torch.Tensor:
        found = self.file.tensor(name)
        if found.dim() < 2 or not found.is_floating_point():
            raise ModelError(f"{self.file.path}: {name} is {_by(found)} of {str(found.dtype).removeprefix('torch.')}; a matrix of floating-point numbers is needed")
        if not bool(torch.isfinite(found).all()):
            raise ModelError(f"{self.file.path}: {name} holds values that are not finite; the training diverged")
        return found.reshape(found.shape[0], -1)


def bias_module(name: str) -> str | None:
    """The module whose B has this bias (PEFT's lora_bias); None for any other tensor."""
    match = _BIAS.match(name)
    return match["module"] if match else None


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
    if config.get("target_parameters"):
        raise ModelError(f"{path}: target_parameters are adapted, stacks of matrices that share their factors; only adapters of modules can be read")
    numbers = {"lora_alpha": config.get("lora_alpha", 8), "r": config.get("r", 8)}
    for name in ("alpha_pattern", "rank_pattern"):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict):
            raise ModelError(f"{path}: {name} is {patterns!r}; a mapping of module names to numbers is needed")
        numbers |= {f"{name} of {k}": v for k, v in patterns.items()}
    for name, value in numbers.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ModelError(f"{path}: {name} is {value!r}; a positive number is needed")
    return config


def _by_pattern(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that a module's name ends with, as peft.utils.other.get_pattern_key matches it."""
    return next((v for p, v in patterns.items() if re.match(rf"(.*\.)?({p})$", module)), otherwise)


def _entries(file: TensorFile) -> tuple[Entry, ...]:
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    adapters = set()
    for name in file.names():
        if name.endswith(".lora_E"):
            raise ModelError(f"{file.path} is an AdaLoRA adapter ({name}), whose factors are of another kind; allowed: LORA (with rsLoRA, DoRA and converted PiSSA)")
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
