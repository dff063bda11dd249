"""What is known of a metric beside its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["lower", "higher", "none"]


@dataclass(frozen=True)
class Metric:
    """What a metric's name stands for."""

    name: str
    label: str
    unit: Literal[
        "count", "percent", "bytes", "seconds", "tokens/s", "nats", "bits", "bits per parameter", "ratio", "share"
    ]
    better: Direction
    meaning: str
