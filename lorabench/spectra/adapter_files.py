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
    """What a path holds of an adapter, looked up once: its readers open these files and look for no others."""

    place: Path
    """the folder or file that was named"""
    factors: tuple[Path, ...]
    """files of A and B: one of an adapter, several where a folder holds one an epoch, none where there are none"""
    config: Path | None
    """adapter_config.json beside them; None where there is none"""

    @property
    def is_adapter(self) -> bool:
        """Whether it may be an adapter, by the names of its files alone."""
        return self.config is not None or any(f.suffix in READABLE for f in self.factors)

    @property
    def factor_file(self) -> Path:
        """The one file of A and B; ModelError where a folder has none, or those of several epochs."""
        if len(self.factors) == 1:
            return self.factors[0]
        if self.factors:
            names = ", ".join(p.name for p in self.factors)
            raise ModelError(f"{self.place} holds the adapters of several epochs ({names}); name one of the files")
        allowed = ", ".join((*FILES, _OF_MLX, *OF_DIFFUSERS))
        raise ModelError(f"{self.place} holds no adapter factors; allowed: {allowed}{_others(self.place)}")


def adapter_files(place: Path) -> AdapterFiles:
    """The files of an adapter's folder, by the names that trainers give them; a file is taken as it is."""
    if not place.is_dir():
        return AdapterFiles(place, (place,), _config_file(place.parent) if place.suffix in READABLE else None)
    usual = [place / f for f in (*FILES, _OF_MLX, *OF_DIFFUSERS) if (place / f).is_file()][:1]
    numbered = sorted(p for p in place.iterdir() if _NUMBERED.match(p.name))
    return AdapterFiles(place, tuple(usual or numbered), _config_file(place))


def _config_file(folder: Path) -> Path | None:
    return folder / CONFIG if (folder / CONFIG).is_file() else None


def _others(folder: Path) -> str:
    """What a folder without factors holds that could have been meant."""
    adapters = sorted(p.parent.name for p in folder.glob(f"*/{CONFIG}"))
    if adapters:
        return f"; its folders {', '.join(adapters[:4])} do: name one of them"
    readable = sorted(p.name for p in folder.iterdir() if p.is_file() and p.suffix in READABLE)
    return f"; it holds {', '.join(readable[:4])}: name the file itself" if readable else ""
