"""A study without findings, and what plants one: for the tests of findings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lorabench.analysis.findings.base import Finding
from lorabench.record import store as stores_module
from lorabench.record.result import CellResult, Fault
from lorabench.report.view import View, make_view
from tests import synthetic
from tests.report.stores import filled

Change = Callable[[CellResult], CellResult | None]


ACC = "python-docs-cloze/acc"


CLEAN = """
schema: 1
name: clean
model: lorabench/tiny-300k
task: {name: python-docs}
method: {name: lora, rank: 4, alpha: 8}
training: {steps: 40, batch_size: 4, sequence_length: 64, learning_rate: {tune: [3e-4, 3e-3, 3e-2]}}
include:
  - {method: {name: lora, rank: 16, alpha: 32}}
  - {method: full, training.learning_rate: {tune: [1e-4, 1e-3, 1e-2]}}
  - {method: base}
seeds: [0, 1, 2, 3, 4]
reference: {method: {name: full}}
evaluation: {lm_eval: [python-docs-cloze], limit: 200}
comparison: {accuracy_margin: 0.1}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No spectra and no fsync: a third of the time is left."""
    monkeypatch.setattr(synthetic, "spectra", lambda cell: ())
    monkeypatch.setattr(synthetic, "directions", lambda cell: {})
    monkeypatch.setattr(synthetic, "truncations", lambda cell, learned: ())
    monkeypatch.setattr(stores_module, "sync", lambda path: None)


def text(*changes: tuple[str, str], seeds: str = "[0]") -> str:
    """The clean study with few seeds and with changes, each of which must find its place."""
    made = CLEAN
    for old, new in (("[0, 1, 2, 3, 4]", seeds), *changes):
        assert old in made, old
        made = made.replace(old, new)
    return made


FIXED = (("{tune: [3e-4, 3e-3, 3e-2]}", "3e-3"), ("{tune: [1e-4, 1e-3, 1e-2]}", "1e-3"))


def seen(folder: Path, study: str, change: Change = lambda r: r) -> tuple[View, dict[str, Finding]]:
    store = filled(folder, study, change)
    view, planned = make_view(store), {c.id for c in store.plan()}
    for f in view.findings:
        assert any(c.isdigit() for c in f.sentence) or any(c in f.sentence for c in f.conditions), (
            f"{f.kind} names no value"
        )
        assert set(f.cells) <= planned
        assert len(f.cells) == len(set(f.cells)) > 0
        assert len(f.conditions) == len(set(f.conditions))
    return view, {f.kind: f for f in view.findings}


def ids(view: View, wanted: Callable[[CellResult], bool]) -> set[str]:
    return {i for i, r in view.analysis.results.items() if wanted(r)}


def with_values(result: CellResult, **values: float) -> CellResult:
    """The result with other values; acc stands for the accuracy."""
    named = {(ACC if name == "acc" else name): v for name, v in values.items()}
    return result.model_copy(
        update={
            "readings": tuple(r.model_copy(update={"value": named.get(r.metric, r.value)}) for r in result.readings)
        }
    )


def ended(result: CellResult, outcome: str, kind: str = "Fault") -> CellResult:
    return result.model_copy(update={"outcome": outcome, "readings": (), "error": Fault(kind=kind, message="planted")})
