"""What `lorabench calibrate` measured on a card: a JSON file a card, in the user's cache, read again by the predictions
for that card.

The file's name is the driver's name of the card ("nvidia-geforce-rtx-4090.json", "cpu.json"), so that only the file of
the card that is asked for is read. What follows from its rows:

    factors   measured over predicted bytes of lorabench's own loop, from the least to the most, widened about their
              middle by (n + 1) / (n - 1): n values span (n - 1) / (n + 1) of the interval that they are drawn from (the
              mean range of a uniform sample); with 1 among them, so that the range holds the prediction
    context   what the driver took for the process beside what the allocator had reserved

Both replace what is assumed of all cards (memory.estimate). The factors are those of the versions that were measured:
with another torch, transformers, PEFT or bitsandbytes installed (by their first two numbers) the context alone is used.
"""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from lorabench.config.frozen import Frozen, Number, Whole
from lorabench.config.gpus import Gpu, MeasuredCard, cards_named, find_gpu
from lorabench.config.trainer import OWN
from lorabench.errors import LorabenchError
from lorabench.formatting import plural
from lorabench.record.whole_files import write_atomically

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


class CalibrationRow(Frozen):
    """A setting, what was predicted for it and what was measured; a fault in place of a measurement."""

    trainer: str
    model: str
    quantization: str
    rank: Whole
    batch_size: Whole
    sequence_length: Whole
    gradient_checkpointing: bool = False
    predicted_bytes: Whole | None = Field(default=None, gt=0)
    measured_bytes: Whole | None = Field(default=None, gt=0)
    """peak of what the allocator held; on a CPU of live tensors"""
    reserved_bytes: Whole | None = None
    """peak of what the allocator kept; absent on a CPU"""
    step_seconds: Number | None = Field(default=None, gt=0)
    """median of the steps after the first"""
    work: tuple[Whole, Whole, Whole] | None = None
    """of an optimizer step: flops, bytes moved, kernels started, by the trace"""
    fault: str | None = None

    @property
    def ratio(self) -> float | None:
        """Measured over predicted bytes."""
        if not self.measured_bytes or not self.predicted_bytes:
            return None
        return self.measured_bytes / self.predicted_bytes

    def __str__(self) -> str:
        more = " checkpointed" if self.gradient_checkpointing else ""
        return (
            f"{self.trainer} {self.model} lora r={self.rank} {self.quantization}"
            f" {self.batch_size}x{self.sequence_length}{more}"
        )


class CardCalibration(Frozen):
    """A card as it was measured."""

    card: str
    """as its driver names it; cpu"""
    measured_at: str
    """ISO 8601"""
    packages: dict[str, str]
    memory_bytes: Whole
    """all of the card's; of the host for the CPU"""
    bf16: bool = True
    capability: Whole = 8
    """major compute capability"""
    cores: Whole | None = None
    """threads that computed, on a CPU"""
    context_bytes: Whole | None = Field(default=None, gt=0)
    """CUDA context of the measured process; absent on a CPU"""
    workspace_bytes: Whole | None = None
    """what the allocator still held when the model was gone: cuBLAS's workspaces; absent on a CPU"""
    rows: tuple[CalibrationRow, ...]
    summary: dict[str, Number] | None = None
    """what the rows come to, for whoever reads the file: it is computed anew from them"""

    @field_validator("measured_at")
    @classmethod
    def _is_a_date(cls, text: str) -> str:
        datetime.fromisoformat(text)
        return text

    @property
    def ratios(self) -> tuple[float, ...]:
        """Measured over predicted bytes of lorabench's own loop, ascending."""
        return tuple(sorted(r.ratio for r in self.rows if r.trainer == OWN and r.ratio is not None))

    @property
    def factors(self) -> tuple[float, float] | None:
        """Between which multiples of a prediction the peak of another setting is expected; None of fewer than two
        rows."""
        ratios = self.ratios
        if len(ratios) < 2:
            return None
        middle, half_range = (ratios[0] + ratios[-1]) / 2, (ratios[-1] - ratios[0]) / 2
        wide = half_range * (len(ratios) + 1) / (len(ratios) - 1)
        return min(middle - wide, 1.0), max(middle + wide, 1.0)

    @property
    def reserved_ratio(self) -> float | None:
        """Median of what the allocator kept over what it held: on a card with room to spare, so more than is needed."""
        shares = [r.reserved_bytes / r.measured_bytes for r in self.rows if r.reserved_bytes and r.measured_bytes]
        return statistics.median(shares) if shares else None

    @property
    def summarised(self) -> dict[str, float]:
        """The ratios in short."""
        ratios, reserved = self.ratios, self.reserved_ratio
        named = (("least", min), ("median", statistics.median), ("most", max))
        summary = {f"measured_over_predicted_{name}": function(ratios) for name, function in named if ratios}
        return summary | ({"reserved_over_allocated_median": reserved} if reserved else {})

    @property
    def date(self) -> str:
        """The day of the measurement."""
        return self.measured_at[:10]

    def outdated(self, installed: Mapping[str, str]) -> str | None:
        """The measured packages whose installed version is another one by its first two numbers; None where none is."""
        others = [
            f"{name} {number}"
            for name, number in self.packages.items()
            if name in installed and installed[name].split(".")[:2] != number.split(".")[:2]
        ]
        return ", ".join(others) or None

    def measured(self, installed: Mapping[str, str]) -> MeasuredCard:
        """What it tells a prediction, with these versions installed."""
        ratios, old = self.ratios, self.outdated(installed)
        words = f"calibrated on this card {self.date}: "
        if not ratios:
            words += "no row of lorabench's own loop was measured"
        elif old:
            words += f"old ({old}), so its factors are left out"
        else:
            words += f"{plural(len(ratios), 'row')}, {ratios[0]:.2f} to {ratios[-1]:.2f}"
        timed = tuple((*r.work, r.step_seconds) for r in self.rows if r.trainer == OWN and r.work and r.step_seconds)
        return MeasuredCard(
            words,
            self.context_bytes,
            None if old else self.factors,
            () if old else timed,
        )


def installed_versions() -> dict[str, str]:
    """Of the packages whose behaviour was measured, those that are installed; none of them is imported."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def calibrations_folder() -> Path:
    """Where calibrations lie: ~/.cache/lorabench/calibrations, or within XDG_CACHE_HOME where that is set."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lorabench" / "calibrations"


def file_name(card: str) -> str:
    """ "NVIDIA GeForce RTX 4090" is nvidia-geforce-rtx-4090.json."""
    return "-".join(re.findall(r"[a-z0-9]+", card.lower())) + ".json"


def write_calibration(calibration: CardCalibration, path: Path) -> None:
    """Writes the file whole or not at all; LorabenchError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = calibration.model_copy(update={"summary": calibration.summarised})
        write_atomically(path, whole.model_dump_json(indent=1, exclude_none=True) + "\n")
    except OSError as e:
        raise LorabenchError(f"{path} cannot be written ({e.strerror}); choose another file with --out FILE") from None


def read_calibration(path: Path) -> CardCalibration:
    """LorabenchError where it is none that this version reads."""
    remedy = "delete it, measure again with lorabench calibrate, or leave it out with --no-calibration"
    try:
        return CardCalibration.model_validate_json(path.read_bytes())
    except OSError as e:
        raise LorabenchError(f"{path} cannot be read ({e.strerror}); {remedy}") from None
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place + ': ' if place else ''}{' '.join(str(first['msg']).split())}"
        raise LorabenchError(f"{path} is not a calibration that this version reads ({reason}); {remedy}") from None


def stored_calibrations(folder: Path) -> dict[Path, CardCalibration | LorabenchError]:
    """All of a folder, each with its fault where it cannot be read."""
    calibrations: dict[Path, CardCalibration | LorabenchError] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            calibrations[path] = read_calibration(path)
        except LorabenchError as e:
            calibrations[path] = e
    return calibrations


def calibrated_card(text: str, folder: Path | None) -> Gpu:
    """The card of a name with what a folder's file for it says; a card that is in no list but was measured is known by
    its driver's name. The latest file where several names mean the card. LorabenchError as of find_gpu and
    read_calibration."""
    paths = sorted(folder.glob("*.json")) if folder is not None else []
    try:
        card = find_gpu(text)
        own = [p for p in paths if (p.stem == "cpu" if card.kind == "cpu" else card in cards_named(p.stem))]
    except LorabenchError:
        own = [p for p in paths if p.name == file_name(text)]
        if not own:
            raise
        one = read_calibration(own[0])
        card = Gpu(one.card, one.memory_bytes, bf16=one.bf16, capability=one.capability)
    if not own:
        return card
    latest = max(map(read_calibration, own), key=lambda c: c.measured_at)
    return replace(card, measured=latest.measured(installed_versions()))
