"""Where an adapter's factors lie in a folder, by the names that trainers give their files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lorabench.errors import ModelError
from lorabench.spectra.adapter_config import CONFIG
from lorabench.spectra.tensor_file import READABLE

FILES = ("adapter_model.safetensors", "adapter_model.bin")
OF_DIFFUSERS = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
_OF_MLX = "adapters.safetensors"
_NUMBERED = re.compile(r"^adapter_\d+\.(?:safetensors|pt|bin)$")  # torchtune's, one an epoch


@dataclass(frozen=True)
class AdapterFiles:
    """Where an adapter lies, looked up once: its readers open these files and look for no others."""

    place: Path
    """the folder or file that was named"""
    factors: Path
    config: Path | None
    """adapter_config.json beside the factors; None where there is none"""


def is_adapter(place: Path) -> bool:
    """Whether a path is an adapter's folder, or a file that may be one."""
    if place.is_dir():
        return _config_file(place) is not None or bool(_factor_files(place))
    return place.suffix in READABLE


def adapter_files(place: Path) -> AdapterFiles:
    """The files that a path means; ModelError where a folder has no factors, or those of several epochs."""
    if place.is_file():
        return AdapterFiles(place, place, _config_file(place.parent))
    files = _factor_files(place)
    if len(files) == 1:
        return AdapterFiles(place, files[0], _config_file(place))
    if files:
        raise ModelError(
            f"{place} holds the adapters of several epochs ({', '.join(p.name for p in files)}); name one of the files"
        )
    inside = sorted(p.parent.name for p in place.glob(f"*/{CONFIG}"))
    readable = sorted(p.name for p in place.iterdir() if p.is_file() and p.suffix in READABLE)
    where = (
        f"; its folders {', '.join(inside[:4])} do: name one of them"
        if inside
        else f"; it holds {', '.join(readable[:4])}: name the file itself"
        if readable
        else ""
    )
    raise ModelError(
        f"{place} holds no adapter's factors; allowed: {', '.join((*FILES, _OF_MLX, *OF_DIFFUSERS))}{where}"
    )


def _factor_files(folder: Path) -> list[Path]:
    """The first file of a usual name, else all of those that are numbered by their epoch."""
    usual = [folder / f for f in (*FILES, _OF_MLX, *OF_DIFFUSERS) if (folder / f).is_file()][:1]
    return usual or sorted(p for p in folder.iterdir() if _NUMBERED.match(p.name))


def _config_file(folder: Path) -> Path | None:
    return folder / CONFIG if (folder / CONFIG).is_file() else None
