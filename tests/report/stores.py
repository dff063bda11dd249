"""Stores that are filled through the synthetic executor, for every test of the light arm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from lorabench.config import Cell, Study, expand, load_study
from lorabench.record.checksums import CHECKSUM, FILES
from lorabench.record.result import CellResult
from lorabench.record.store import Store
from tests import synthetic

STUDY = """
schema: 1
name: small
question: What do rank and 4-bit weights cost?
model: lorabench/tiny-300k
task: {name: python-docs}
method: {name: lora, alpha: 16}
training: {steps: 40, batch_size: 4, sequence_length: 64, learning_rate: 3e-3}
grid:
  method.rank: [1, 4, 16]
  quantization: [none, nf4]
include:
  - {method: {name: full}, quantization: none, training.learning_rate: 1e-3}
  - {method: {name: base}, quantization: none}
seeds: [0, 1]
reference: {method: {name: full}}
evaluation: {lm_eval: [python-docs-cloze], limit: 200}
"""

ONLY_FULL = (
    "schema: 1\nname: one\nmodel: lorabench/tiny-300k\ntask: {name: python-docs}\nmethod: full\ntraining: {steps: 4}\n"
)


def study_of(folder: Path, text: str = STUDY) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study-in.yaml"
    path.write_text(text, encoding="utf-8")
    return load_study(path)


def filled(folder: Path, text: str = STUDY, change: Callable[[CellResult], CellResult | None] = lambda r: r) -> Store:
    """A store whose cells have run; `change` may alter a result or, by None, leave it out."""
    study = study_of(folder, text)
    return fill(folder / "store", study, expand(study), change)


def unsealed(store: Store) -> Store:
    """The store with records that keep no checksums, as those of earlier versions, so that a test may change files."""
    for path in store.cells_folder.glob("*/result.json"):
        plain = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({k: v for k, v in plain.items() if k not in (FILES, CHECKSUM)}), encoding="utf-8")
    return store


def fill(
    folder: Path, study: Study, cells: tuple[Cell, ...], change: Callable[[CellResult], CellResult | None] = lambda r: r
) -> Store:
    store = Store(folder)
    store.save_plan(study, cells)
    worker = synthetic.open_worker()
    for cell in cells:
        result = change(worker.run(cell, store.partial(cell.id), lambda event: None))
        if result is not None:
            store.put(result)
    return store


def renamed(cells: tuple[Cell, ...], name: str) -> tuple[Cell, ...]:
    """The cells with another model name; its fingerprint goes along, so that they are other cells."""
    return tuple(
        c.model_copy(
            update={
                "model": c.model.model_copy(update={"name": name}),
                "fingerprints": c.fingerprints.model_copy(update={"model": f"of {name}"}),
            }
        )
        for c in cells
    )
