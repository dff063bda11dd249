"""Where an adapter's factors lie in a folder, by the names that trainers give their files."""

from __future__ import annotations

import re
from pathlib import Path

from lorabench.errors import ModelError
from lorabench.spectra.adapter_config import CONFIG
from lorabench.spectra.tensor_file import READABLE

FILES = ("adapter_model.safetensors", "adapter_model.bin")
OF_DIFFUSERS = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
_OF_MLX = "adapters.safetensors"
_NUMBERED = re.compile(r"^adapter_\d+\.(?:safetensors|pt|bin)$")  # torchtune's, one an epoch


def is_adapter(place: Path) -> bool:
    """Whether a path is an adapter's folder, or a file that may be one."""
    if place.is_dir():
        return (
            (place / CONFIG).is_file()
            or any((place / f).is_file() for f in (*FILES, _OF_MLX, *OF_DIFFUSERS))
            or bool(_numbered(place))
        )
    return place.suffix in READABLE


def _numbered(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if _NUMBERED.match(p.name))


def adapter_file(place: Path) -> Path:
    """The file of factors that a path means; ModelError where a folder has none or several."""
    if place.is_file():
        return place
    files = [place / f for f in (*FILES, _OF_MLX, *OF_DIFFUSERS) if (place / f).is_file()][:1] or _numbered(place)
    if len(files) > 1:
        raise ModelError(
            f"{place} holds the adapters of several epochs ({', '.join(p.name for p in files)}); name one of the files"
        )
    if not files:
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
    return files[0]
