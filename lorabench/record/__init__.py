"""What was seen: results, the table of metrics, the store on disk, and (in frames) the frames that analysis reads.

frames is not imported here: pandas takes about a second, which no run should wait for.
"""

from lorabench.record.result import CellResult, Environment, Fault, Outcome, Reading, Resolved
from lorabench.record.store import Store

__all__ = ["CellResult", "Environment", "Fault", "Outcome", "Reading", "Resolved", "Store"]
