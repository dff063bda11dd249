"""What the tests of the sections on spectra read by hand: the files that cells kept of what they learned."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from lorabench.record.result import CellResult
from lorabench.record.store import Store
from lorabench.report.view import View, make_view
from lorabench.sections import effective_rank, quantization_repair, seed_similarity, truncation
from tests.report.stores import unsealed

NEW = (effective_rank, truncation, seed_similarity, quantization_repair)
FILES = ("spectra.safetensors", "directions.safetensors", "truncation.csv")


def condition(view: View, label: str) -> str:
    return next(s.condition for s in view.analysis.summaries if s.label.text == label)


def cells(view: View, label: str) -> tuple[CellResult, ...]:
    return view.analysis.of_condition(condition(view, label))


def rewritten(store: Store, change: Callable[[Path], None]) -> View:
    for folder in sorted(unsealed(store).cells_folder.iterdir()):
        change(folder)
    return make_view(store)


def raw(view: View, cell: CellResult) -> dict[str, np.ndarray]:
    """The singular values as they lie on disk."""
    return {k: v.astype(np.float64) for k, v in load_file(view.analysis.file(cell.cell.id, FILES[0])).items()}


def k_of(values: np.ndarray, share: float) -> int:
    kept = 0.0
    for k, sigma in enumerate(values, start=1):
        kept += sigma**2
        if kept >= share * float(np.sum(values**2)) - 1e-9:
            return k
    raise AssertionError


def rows_of(view: View, cell: CellResult) -> list[dict[str, str]]:
    with view.analysis.file(cell.cell.id, FILES[2]).open() as stream:
        return list(csv.DictReader(stream))
