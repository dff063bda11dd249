"""Which stored studies speak for a model: found by their place, told apart by their cells, weighed by their size."""

from pathlib import Path

import pytest

from lorabench.advice.evidence import Here
from lorabench.workflows.stored_evidence import stored_evidence, studies_here

ROOT = Path(__file__).parents[2]


def kept(folder, *cells):
    """As an archive lies there."""
    folder.mkdir(parents=True)
    (folder / "results.json.gz").write_bytes(b"")
    (folder / "cells.csv").write_text("cell,total_parameters\n" + "".join(f"{c},1000000\n" for c in cells))


def test_a_study_in_two_places_counts_once_and_another_of_its_name_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept(Path("runs/e2e"), "a", "b", "c")  # as the archive, and gone on with
    kept(Path("reports/e2e"), "a", "b")
    kept(Path("reports/real/e2e"), "d")
    kept(Path("reports/paper/sweep"), "a")
    assert studies_here() == [Path("runs/e2e"), Path("reports/paper/sweep"), Path("reports/real/e2e")]


@pytest.mark.parametrize(("parameters", "speaks"), [(135_000_000, True), (8_000_000_000, False), (300_000, False)])
def test_the_studies_of_a_real_model_speak_at_their_real_size(parameters, speaks, monkeypatch):
    monkeypatch.chdir(ROOT)
    real = [p for p in studies_here() if p.parent == Path("reports/real")]
    assert real
    groups, _ = stored_evidence(Here("some-model", parameters, task="classify"), (), real)
    assert any("SmolLM2-135M" in g.model for g in groups) == speaks
    for g in groups:
        assert abs(g.distance) < 1  # of 134,515,008 parameters, whatever the adapter adds
        assert not g.made_up
