"""A tracker's library, which is an extra and no dependency."""

from __future__ import annotations

import importlib
from typing import Any

from lorabench.errors import LorabenchError


def library(name: str) -> Any:
    """The module; LorabenchError, with the extra that brings it, where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        why = "is not installed" if e.name == name else f"cannot be imported ({e})"
        raise LorabenchError(f"{name} {why}; it comes with the extra {name}: pip install 'lorabench[{name}]'") from None
