"""Finds what somebody learned, wherever it lies: a cell of a study, a PEFT or loralib adapter, a fully fine-tuned
checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from lorabench.config import hub
from lorabench.config.paths import shipped_models
from lorabench.errors import LorabenchError, ModelError, StoreError
from lorabench.record.result import CellResult
from lorabench.record.result_file import read_result
from lorabench.record.spectrum import Spectrum, load_spectra
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.adapter_files import AdapterFiles, adapter_files
from lorabench.spectra.checkpoint_change import change, changes, unlike
from lorabench.spectra.delta import Delta
from lorabench.spectra.files import Weights, checkpoint_directory
from lorabench.spectra.lookup import lacking, weight_of
from lorabench.spectra.names import near_names
from lorabench.spectra.quantized import Quantize, quantizer
from lorabench.spectra.tensor_file import READABLE

_NO_WEIGHTS = "{} stores its singular values, not its weights; give an adapter, or a checkpoint with its base"


@dataclass(frozen=True, eq=False)
class Learned:
    """Changes of a model's weights, read one module at a time."""

    title: str
    base: Weights | None
    """the weights before, where they are known"""
    adapter: Adapter | None = None
    result: CellResult | None = None
    """the cell that learned it"""
    stored: tuple[Spectrum, ...] | None = None
    """of a cell whose weights are not kept: singular values alone"""
    quantize: Quantize | None = None
    """how the cell's base held its weights; None where it was not quantized, or it is no cell"""
    notes: tuple[str, ...] = ()
    after: Weights | None = None

    def deltas(self) -> Iterator[Delta]:
        """The change of every module; ModelError where only singular values were kept."""
        if self.adapter is not None:
            return self.adapter.deltas(self.base, self._as_trained)
        if self.after is not None and self.base is not None:
            return changes(self.base, self.after)
        raise ModelError(_NO_WEIGHTS.format(self.title))

    def delta(self, module: str) -> Delta | None:
        """The change of one module, None where it has none."""
        if self.adapter is not None:
            entry = next((e for e in self.adapter.entries if e.module == module), None)
            if entry is None:  # one name in the base's version, another in the adapter's
                others = set(near_names(module))
                entry = next((e for e in self.adapter.entries if e.module in others), None)
            return None if entry is None else self.adapter.delta(entry, self.base, self._as_trained)
        if self.after is not None and self.base is not None:
            return change(self.base, self.after, module)
        raise ModelError(_NO_WEIGHTS.format(self.title))

    def weight(self, delta: Delta) -> torch.Tensor | None:
        """The base's weight that a change belongs to, (out, in) as the change; None where the base is not known or has
        none of that name and size."""
        return weight_of(self.base, delta) if self.base is not None else None

    def _as_trained(self, weight: torch.Tensor) -> torch.Tensor:
        """A base weight as training saw it."""
        return weight if self.quantize is None else self.quantize(weight)[1]

    @property
    def has_weights(self) -> bool:
        """Whether changes can be computed; False where only singular values were stored."""
        return self.adapter is not None or self.after is not None


PathKind = Literal["cell", "results", "checkpoint", "adapter", "unknown", "absent"]


@dataclass(frozen=True)
class SourcePath:
    """What lies at a source, looked up once: every reader asks this value and not the disk."""

    name: str
    """as the user wrote it"""
    path: Path
    kind: PathKind
    """a cell's folder, a whole results directory, a folder of transformers, an adapter (PEFT, mlx, diffusers,
    torchtune, or a file of tensors such as loralib's and kohya's), something else that exists, or nothing on this disk
    (it may be a hub id)"""
    adapter: AdapterFiles | None = None
    """the files of an adapter; None for every other kind"""


def resolve(name: str, find: Callable[[str], Path] | None = None) -> SourcePath:
    """What a path or, through `find`, the id of a cell or the label of a condition means; LorabenchError where nothing
    is named."""
    if not name.strip():
        raise LorabenchError(
            "no adapter is named; give a PEFT folder, a file of factors, a cell's folder or id, or a checkpoint"
        )
    path = Path(name).expanduser()
    if not path.exists() and find is not None and not _looks_like_path(name):  # an id, or the label of a condition
        path = find(name)
    if (path / "result.json").is_file():
        return SourcePath(name, path, "cell")
    if (path / "plan.json").is_file():
        return SourcePath(name, path, "results")
    if not path.exists():
        return SourcePath(name, path, "absent")
    files = adapter_files(path)
    if files.is_adapter:
        return SourcePath(name, path, "adapter", files)
    return SourcePath(name, path, "checkpoint" if (path / "config.json").is_file() else "unknown")


def open_learned(
    source: str | SourcePath,
    base: str | None = None,
    alpha: float | None = None,
    find: Callable[[str], Path] | None = None,
) -> Learned:
    """The changes that a path, a hub id or (through `find`, which gives its folder) a cell's id means.

    base     the weights before: a shipped model, a folder, a file or a hub id; a cell knows its own
    alpha    lora_alpha, over what the files say
    LorabenchError with what is allowed where it is none of these.
    """
    at = source if isinstance(source, SourcePath) else resolve(source, find)
    weights = open_base(base) if base is not None else None
    match at.kind:
        case "cell":
            return _of_cell(at.path, weights, alpha)
        case "checkpoint":
            return _of_checkpoint(at.path, weights)
        case "adapter":
            assert at.adapter is not None
            return _of_adapter(at.name, Adapter(at.adapter, alpha), weights)
        case "absent":
            return _of_hub(at.name, weights, alpha)
        case "results":
            ids = [p.name for p in sorted((at.path / "cells").glob("*")) if p.suffix == ""][:4]
            cells = ", ".join(str(at.path / "cells" / i) for i in ids) or "none yet"
            raise StoreError(f"{at.name} is a whole results directory; name one of its cells, such as {cells}")
        case "unknown":
            raise ModelError(
                f"{at.name} is not an adapter, cell or checkpoint; allowed: a folder with adapter_config.json or"
                f" config.json, a file of tensors, a cell's folder or id{_inside(at.path)}"
            )


def why_lacking(learned: Learned, spectrum: Spectrum) -> str:
    """Why a base has no weight for a module, by what it has in its place."""
    assert learned.base is not None
    declared = learned.adapter.base if learned.adapter is not None else None
    return lacking(learned.base, spectrum.module, (spectrum.out_features or 0, spectrum.in_features or 0), declared)


def open_base(name: str) -> Weights:
    """The weights of a shipped model, a directory, a file, or a hub id; ModelError where there are none."""
    path = Path(name).expanduser()
    if path.exists():
        return Weights(path)
    directory = checkpoint_directory(name) or (
        checkpoint_directory(name, download=True) if _looks_like_hub(name) else None
    )
    if directory is None and _looks_like_hub(name) and not hub.answers():
        raise ModelError(f"the base {hub.absent(name)}")
    if directory is None:
        raise ModelError(
            f"the base {name} cannot be found: it is not a directory, a shipped model ({', '.join(shipped_models())})"
            " or in the local cache of the hub; give the path of a local copy"
        )
    return Weights(directory)


def _inside(path: Path) -> str:
    """What a folder holds that could have been meant: folders of adapters and checkpoints, files of tensors."""
    if not path.is_dir():
        return ""
    names = [
        p.name
        for p in sorted(path.iterdir())
        if (p.is_dir() and (adapter_files(p).is_adapter or (p / "config.json").is_file()))
        or (p.is_file() and p.suffix in READABLE)
    ]
    return f"; it holds {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}: name one of them" if names else ""


def _of_cell(folder: Path, base: Weights | None, alpha: float | None) -> Learned:
    result = read_result(folder / "result.json", contents=True, weights=True)
    cell, title = result.cell, f"cell {result.cell.id}"
    if cell.training.steps == 0:
        raise ModelError(f"{title} is the untouched base: nothing was learned in it")
    if result.outcome != "finished":
        raise ModelError(
            f"{title} has not finished ({result.outcome.replace('_', ' ')}): it saved nothing that could be decomposed"
        )
    if base is None:
        directory = checkpoint_directory(cell.model.name, cell.model.revision)
        base = Weights(directory) if directory is not None else None
    is_quantized_here = (
        result.resolved and not result.resolved.stored_quantised
    )  # of a quantized checkpoint nobody knows the weights it was made from
    quantize = (
        quantizer(cell.quantization, getattr(torch, result.resolved.dtype))
        if is_quantized_here and result.resolved
        else None
    )
    if (folder / "adapter").is_dir():
        return _of_adapter(title, Adapter(folder / "adapter", alpha), base, result, quantize)
    if cell.analysis.spectra == "none" and not (folder / "spectra.safetensors").exists():
        key = "full" if cell.method.target_modules is None else "adapter"
        raise ModelError(
            f"{title} saved nothing of what it learned: its weights were not saved (save.{key}:"
            f" {getattr(cell.save, key)}), and its study asked for no spectra (analysis.spectra: none); run it with"
            " analysis.spectra: full in another folder"
        )
    spectra = load_spectra(folder / "spectra.safetensors")
    reason = "full fine-tuning saves no weights" if cell.method.target_modules is None else "its adapter was not saved"
    return Learned(
        title, base, None, result, spectra, notes=(f"{reason}: what is shown was computed when the cell ran",)
    )


def _of_checkpoint(path: Path, base: Weights | None) -> Learned:
    if base is None:
        raise ModelError(
            f"{path} is a whole checkpoint; name the model that it was trained from with --base MODEL, so that the"
            " difference can be taken"
        )
    after = Weights(path)
    odd = unlike(base, after)
    note = (
        f"left out: {len(odd)} weights that are not matrices of the same size in both checkpoints, such as {odd[0]}"
        if odd
        else ""
    )
    return Learned(str(path), base, notes=(note,) if note else (), after=after)


def _of_hub(name: str, base: Weights | None, alpha: float | None) -> Learned:
    place = checkpoint_directory(name, download=True) if _looks_like_hub(name) else None
    if place is None:
        raise LorabenchError(
            f"there is no adapter, cell or checkpoint {name}: it is not a path, a cell under reports/ (--in DIR names"
            " another place) or a hub id that can be reached"
        )
    files = adapter_files(place)
    return _of_adapter(name, Adapter(files, alpha), base) if files.is_adapter else _of_checkpoint(place, base)


def _of_adapter(
    title: str,
    adapter: Adapter,
    base: Weights | None,
    result: CellResult | None = None,
    quantize: Quantize | None = None,
) -> Learned:
    if base is not None and adapter.config.get("fan_in_fan_out"):
        base.transposed = True  # a file of weights alone does not say so
    notes = adapter.notes()
    if adapter.is_dora and base is None:
        notes += (
            (
                "DoRA: without the base's weights (--base MODEL) the values are of scaling * B @ A alone, not of the"
                " whole change"
            ),
        )
    elif adapter.is_dora and result is None:
        notes += (
            (
                "DoRA: the change is against the base's weights as they are stored; if it was trained on a quantized"
                " base, the change is different"
            ),
        )
    return Learned(title, base, adapter, result, quantize=quantize, notes=notes)


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "~")) or ("/" in name and " " not in name)


def _looks_like_hub(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")
