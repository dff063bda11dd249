"""Twins across studies: the same study elsewhere, and one that differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorabench.report import other_study_text
from lorabench.report.view import make_view
from lorabench.sections import other_study
from tests.analysis.decided import THREE
from tests.report.stores import fill, filled


def test_the_same_study_elsewhere_is_equal_to_the_last_digit(tmp_path: Path) -> None:
    here, there = filled(tmp_path / "a", THREE), filled(tmp_path / "b", THREE)
    view = make_view(here, there)
    assert view.other is not None
    found = other_study.compute(view, view.other)
    assert found.differ == ()
    assert len(found.matches) == 8
    assert all(t.comparison and t.comparison.difference == 0 for t in found.matches)
    assert "8 equal to the last digit" in other_study_text.summary(view, view.other, found)


def test_studies_that_differ_as_wholes_pair_their_conditions_by_seed(tmp_path: Path) -> None:
    text = THREE.replace("steps: 40", "steps: 60").replace("method.rank: [1, 4, 16]", "method.rank: [1, 4, 64]")
    view = make_view(filled(tmp_path / "a", THREE), filled(tmp_path / "b", text))
    assert view.other is not None
    found = other_study.compute(view, view.other)
    assert found.differ == (("training.steps", "40", "60"),)
    assert [view.analysis.label(c) for c in found.only_here] == ["LoRA r=16", "LoRA r=16 nf4"]
    assert [view.other.analysis.label(c) for c in found.only_there] == ["LoRA r=64", "LoRA r=64 nf4"]
    twin = next(t for t in found.matches if view.analysis.label(t.here) == "LoRA r=4")
    ours = [view.analysis.results[i].value("eval_loss") or 0 for i in view.analysis.summary(twin.here).cells]
    theirs = [
        view.other.analysis.results[i].value("eval_loss") or 0 for i in view.other.analysis.summary(twin.there).cells
    ]
    assert twin.comparison and twin.comparison.difference == pytest.approx(
        sum(a - b for a, b in zip(ours, theirs, strict=True)) / 3
    )
    shown = other_study.section(view)
    assert shown is not None


def test_other_bytes_under_the_same_names_are_told(tmp_path: Path) -> None:
    here = filled(tmp_path / "a", THREE)
    study = here.study()
    other = tuple(
        c.model_copy(update={"fingerprints": c.fingerprints.model_copy(update={"data": "elsewhere"})})
        for c in here.plan()
    )
    view = make_view(here, fill(tmp_path / "b", study, other))
    assert view.other is not None
    found = other_study.compute(view, view.other)
    assert len(found.changed) == len(found.matches) == 8
    assert "8 conditions differ in their bytes" in other_study_text.warnings(view, view.other, found)[0]
