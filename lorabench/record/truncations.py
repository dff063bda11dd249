"""Two more files beside a cell's result: the first singular vectors of what it learned, and what is left of its
accuracy at lower ranks.

directions.safetensors   <module>.left (out, k) and <module>.right (in, k): float16, unit columns, by falling singular
                         value
truncation.csv           a row per allocation, rank and metric
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from lorabench.errors import StoreError
from lorabench.record.items import Vector
from lorabench.record.result import Reading

DIRECTIONS = 8  # singular vectors of a module that are kept: 0.3 MB a 4096 x 4096 change
Allocation = Literal["uniform", "energy"]
"""how a truncated change spreads its rank: the same k everywhere, or as many parameters, where the energy is"""


@dataclass(frozen=True)
class Directions:
    """The first singular vectors of one module's change."""

    left: Vector
    """(out, k): U, of what it writes"""
    right: Vector
    """(in, k): V, of what it reads"""


@dataclass(frozen=True)
class Truncation:
    """A cell evaluated with its changes cut to a lower rank by SVD, without further training."""

    allocation: Allocation
    rank: int
    """of every module; where the allocation is by energy, the uniform rank that has as many parameters"""
    parameters: int
    """of the cut factors, all modules together"""
    kept_energy: float
    """sum of the kept sigma^2 over all modules, of all sigma^2"""
    readings: tuple[Reading, ...]

    def value(self, metric: str) -> float | None:
        """The value of a metric, None where it was not measured."""
        return next((r.value for r in self.readings if r.metric == metric), None)


def save_directions(path: str | Path, directions: Mapping[str, Directions]) -> None:
    """Writes directions.safetensors."""
    from safetensors.numpy import save_file

    sides = {f"{name}.{side}": getattr(d, side) for name, d in directions.items() for side in ("left", "right")}
    save_file({k: np.ascontiguousarray(v, dtype=np.float16) for k, v in sides.items()}, path)


def load_directions(path: str | Path) -> dict[str, Directions]:
    """Reads it, by module; StoreError where the file cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = {k: v.astype(np.float64) for k, v in load_file(path).items()}
        names = sorted(k.removesuffix(".left") for k in tensors if k.endswith(".left"))
        return {n: Directions(tensors[f"{n}.left"], tensors[f"{n}.right"]) for n in names}
    except (SafetensorError, OSError, ValueError, KeyError) as e:
        raise StoreError(f"{path} cannot be read ({' '.join(str(e).split())[:200]}); run the cell again") from None


_HEAD = ("allocation", "rank", "parameters", "kept_energy", "metric", "value", "stderr", "count")


def save_truncations(path: str | Path, truncations: Iterable[Truncation]) -> None:
    """Writes truncation.csv."""
    with Path(path).open("w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(_HEAD)
        for t in truncations:
            for r in t.readings:
                lines.writerow(
                    (t.allocation, t.rank, t.parameters, t.kept_energy, r.metric, r.value, r.stderr, r.count)
                )


def load_truncations(path: str | Path) -> tuple[Truncation, ...]:
    """Reads it, uniform ones first, by rising rank; StoreError where the file cannot be read."""
    groups: dict[tuple[str, int], tuple[dict[str, str], list[Reading]]] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8") as stream:
            rows = csv.DictReader(stream)
            if tuple(rows.fieldnames or ()) != _HEAD:
                raise ValueError("its first line does not name the columns")
            for row in rows:
                if row["allocation"] not in get_args(Allocation):
                    raise ValueError(f"allocation {row['allocation']!r}")
                stderr, count = (
                    (float(row["stderr"]) if row["stderr"] else None),
                    (int(row["count"]) if row["count"] else None),
                )
                reading = Reading(metric=row["metric"], value=float(row["value"]), stderr=stderr, count=count)
                groups.setdefault((row["allocation"], int(row["rank"])), (row, []))[1].append(reading)
        truncations = [
            Truncation(cast(Allocation, name), rank, int(row["parameters"]), float(row["kept_energy"]), tuple(readings))
            for (name, rank), (row, readings) in groups.items()
        ]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise StoreError(f"{path} cannot be read ({' '.join(str(e).split())[:200]}); run the cell again") from None
    return tuple(sorted(truncations, key=lambda t: (t.allocation != "uniform", t.rank)))
