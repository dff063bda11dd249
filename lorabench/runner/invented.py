"""Results that nothing was trained for: an executor that draws them says so, and their environment names no device that
torch computes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorabench import plugins

if TYPE_CHECKING:
    from lorabench.record.result import CellResult


def is_invented(result: CellResult) -> bool:
    """Whether a result was drawn instead of measured: it ran neither on the CPU nor with CUDA. Without a recorded
    environment it counts as measured."""
    where = result.environment
    return where is not None and where.device != "cpu" and where.driver is None


def invents(executor: str) -> bool:
    """Whether an executor plug-in draws its results, by its INVENTS; one that says nothing trains."""
    return bool(getattr(plugins.load("executors", executor), "INVENTS", False))
