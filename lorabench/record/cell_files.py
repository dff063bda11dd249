"""The files of a cell that others than their writer know by name: saved weights, and what is known of a trained cell
until it has a result.

adapter/      in PEFT's format
model/        a fully fine-tuned model, in transformers' format
trained.json  the result so far, from the end of training until the cell has one: a worker that dies in evaluation loses
no training
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from lorabench.record.result import CellResult

ADAPTER, MODEL, TRAINED = "adapter", "model", "trained.json"


def write_trained(folder: Path, result: CellResult) -> None:
    """Keeps what was read until the end of training."""
    from lorabench.record.whole_files import write_atomically

    write_atomically(folder / TRAINED, result.model_dump_json(by_alias=True))


def read_trained(folder: Path) -> CellResult | None:
    """What was kept of a cell that was trained and has no result; None where there is none, or it cannot be read."""
    try:
        return CellResult.model_validate_json((folder / TRAINED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def has_weights(folder: Path) -> bool:
    """Whether a cell's folder holds an adapter or a model, whole."""
    return (folder / ADAPTER / "adapter_model.safetensors").is_file() or (
        (folder / MODEL / "config.json").is_file() and any((folder / MODEL).glob("*.safetensors"))
    )


def make_readable(folder: Path) -> None:
    """Mode 0644 for files and 0755 for folders: safetensors writes for the owner alone. What a symbolic link points to
    is not the cell's."""
    for path in (folder, *(p for p in folder.rglob("*") if not p.is_symlink())):
        mode = 0o755 if path.is_dir() else 0o644
        if path.stat().st_mode & 0o777 != mode:  # what is so already may be another user's
            path.chmod(mode)


def remove_weights(folder: Path, name: str) -> None:
    """Takes a cell's adapter or model away: first its name, so that nobody finds half of it."""
    retired = folder / f"{name}.old"
    shutil.rmtree(retired, ignore_errors=True)
    with suppress(FileNotFoundError):
        (folder / name).rename(retired)
    shutil.rmtree(retired, ignore_errors=True)
