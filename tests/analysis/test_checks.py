"""Findings follow from the data."""

from __future__ import annotations

from pathlib import Path

from lorabench.report.view import make_view
from tests.report.stores import ONLY_FULL, STUDY, filled


def kinds(folder: Path, text: str, **given: object) -> list[str]:
    return [f.kind for f in make_view(filled(folder, text, **given)).findings]  # type: ignore[arg-type]


def test_one_seed_and_few_seeds(tmp_path: Path) -> None:
    assert kinds(tmp_path / "a", ONLY_FULL) == ["one_seed"]
    assert kinds(tmp_path / "b", ONLY_FULL + "seeds: [0, 1, 2]\n") == ["few_seeds"]
    assert kinds(tmp_path / "c", ONLY_FULL + "seeds: [0, 1, 2, 3, 4]\n") == []


def test_untuned_rates(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path / "a"))
    finding = next(f for f in view.findings if f.kind == "untuned_rates")
    assert "LoRA 0.003" in finding.sentence
    assert "full 0.001" in finding.sentence
    shared = make_view(filled(tmp_path / "b", STUDY.replace(", training.learning_rate: 1e-3", "")))
    assert any("share one learning rate (0.003)" in f.sentence for f in shared.findings)


def test_what_did_not_finish_is_found(tmp_path: Path) -> None:
    text = STUDY.replace("rank: [1, 4, 16]", "rank: [1]\n  training.learning_rate: [3e-3, 2.0]")
    text = text.replace("seeds:", "  - {method: {name: lora, rank: 2}, training.batch_size: 4096}\nseeds:").replace("exclude", "exclude")
    view = make_view(filled(tmp_path, text, lambda r: None if r.cell.method.name == "base" else r))
    found = {f.kind: f for f in view.findings}
    assert found["diverged"].sentence.startswith("4 of ")
    assert found["out_of_memory"].sentence.startswith("2 of ")
    assert found["missing"].conditions == ("base",)
