"""What was seen: results, the table of metrics, the store on disk, and the frame that analysis reads."""

from lorabench.record.frame import frame, wide
from lorabench.record.result import CellResult, Environment, Fault, Outcome, Reading, Resolved
from lorabench.record.store import Store

__all__ = ["CellResult", "Environment", "Fault", "Outcome", "Reading", "Resolved", "Store", "frame", "wide"]
