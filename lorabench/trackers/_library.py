"""A tracker's library, which is an extra and no dependency."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from lorabench.errors import LorabenchError


def library(name: str) -> Any:
    """The module; LorabenchError, with the extra that brings it, where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        why = "is not installed" if e.name == name else f"cannot be imported ({e})"
        raise LorabenchError(f"{name} {why}; it comes with the extra {name}: pip install 'lorabench[{name}]'") from None


def writable_folder(folder: Path, variable: str) -> None:
    """Makes a tracker's folder, which an environment variable names; LorabenchError where it cannot be written, of
    which the libraries say nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK) else "it may only be read"
    except OSError as e:
        reason = e.strerror
    if reason is not None:
        raise LorabenchError(f"{folder.absolute()} cannot be written ({reason}); name another folder in {variable}")
