"""What was seen: results, the table of metrics, the store on disk, and the frame that analysis reads."""

from typing import Any

from lorabench.record.result import CellResult, Environment, Fault, Outcome, Reading, Resolved
from lorabench.record.store import Store


def __getattr__(name: str) -> Any:
    """frame and wide, imported when first asked for: pandas takes about a second, which no run should wait for."""
    if name in ("frame", "wide"):
        import importlib

        return getattr(importlib.import_module("lorabench.record.frame"), name)
    raise AttributeError(name)


__all__ = ["CellResult", "Environment", "Fault", "Outcome", "Reading", "Resolved", "Store", "frame", "wide"]
