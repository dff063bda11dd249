"""Curves of every seed, each seed's validation loss by rate, the meaning of columns, and the page of quantization's
error."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from lorabench.commands.main import main
from lorabench.record.spectrum import Repair
from lorabench.report.column_legend import MEANINGS, legend
from lorabench.report.curves import draw_curves
from lorabench.report.quantization_page import ModuleError, group_rows, quantization_sections
from lorabench.report.view import make_view
from lorabench.sections import learning_rates, training_curves
from tests.report.stores import STUDY, filled


def test_every_seed_has_its_loss_norm_and_rate_as_they_stand_in_its_file(tmp_path: Path) -> None:
    store = filled(tmp_path)
    view = make_view(store)
    found = training_curves.compute_by_seed(view)
    first = found[0]
    assert [s.seed for s in first.seeds] == [0, 1] and first.clip == 1.0
    cell = view.analysis.summaries[0].cells[1]
    with (store.cells_folder / cell / "curve.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for i, column in enumerate(("loss", "grad_norm", "learning_rate")):
        assert first.seeds[1].values[i] == pytest.approx([float(r[column]) for r in rows])
    drawn = json.loads(draw_curves(found).to_json())
    clip = drawn["data"][-1]
    assert (clip["name"], clip["yaxis"], clip["y"]) == ("clipped above", "y2", [1.0, 1.0])
    assert [b["label"] for b in drawn["layout"]["updatemenus"][0]["buttons"]] == [c.label for c in found]
    section = training_curves.section(view)
    assert section is not None
    assert "there is no curve of them during training" in section.blocks[-1].caption  # type: ignore[union-attr]


def test_a_long_study_keeps_its_curves_small(tmp_path: Path) -> None:
    view = make_view(
        filled(
            tmp_path,
            STUDY.replace("steps: 40", "steps: 2000")
            .replace("[1, 4, 16]", "[4]")
            .replace("[0, 1]", "[0, 1, 2, 3, 4, 5]"),
        )
    )
    found = training_curves.compute_by_seed(view)
    assert max(len(s.step) for c in found for s in c.seeds) <= 120
    assert len(draw_curves(found).to_json()) < 200_000


def test_each_seeds_validation_loss_stands_at_each_rate_with_the_chosen_one_marked(tmp_path: Path) -> None:
    text = STUDY.replace("learning_rate: 3e-3", "learning_rate: {tune: [1e-3, 3e-3, 1e-2]}").replace(
        "training.learning_rate: 1e-3", "training.learning_rate: {tune: [3e-4, 1e-3]}"
    )
    view = make_view(filled(tmp_path, text))
    drawing = learning_rates.compute_by_seed(view)[view.analysis.label(view.analysis.tunings[0].condition)]
    *seeds, chosen = drawing.lines
    assert [line.label for line in seeds] == ["seed 0", "seed 1"] and all(
        line.x == (1e-3, 3e-3, 1e-2) for line in seeds
    )
    means = [sum(line.y[i] for line in seeds) / 2 for i in range(3)]
    assert (chosen.x, chosen.y) == ((seeds[0].x[means.index(min(means))],), (pytest.approx(min(means)),))


def test_every_column_of_a_table_of_spectra_has_a_meaning() -> None:
    shown = (
        "norm",
        "of base",
        "stable rank",
        "entropy rank",
        "k(0.5)",
        "k(0.9)",
        "utilisation",
        "amplification",
        "intruders",
        "their energy",
        "repair cosine",
        "repaired",
        "at best",
    )
    assert [line.split(":")[0] for line in legend(("group", *shown))] == [*shown[:4], "k(q)", *shown[6:]]
    assert all(
        "20" in MEANINGS[name] for name in ("stable rank", "entropy rank", "amplification", "intruders")
    )  # a source with its year


def test_means_by_form_and_type_are_those_of_the_modules() -> None:
    made = [
        ModuleError(
            f"model.layers.{n}.mlp.up_proj",
            form,
            (n + 1) * size,
            0.5,
            20.0,
            3.0,
            Repair(1.0, 0.5, 0.2, 0.4) if form == "nf4" else None,
        )
        for form, size in (("int8", 0.01), ("nf4", 0.1))
        for n in (0, 1)
    ]
    heads, rows = group_rows(made)
    assert [r[heads.index("relative error")] for r in rows] == ["1.5 %", "1.5 %", "15 %", "15 %"]
    assert [r[heads.index("repaired")] for r in rows] == ["\u2013", "\u2013", "0.2", "0.2"]
    titles = [s.title for s in quantization_sections(made, "mine")]
    assert titles == ["What quantization loses", "What the adapter repairs", "By module type", "Every module"]


def test_quantization_error_writes_a_page_with_its_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "error.html"
    assert (
        main(["quantization-error", "lorabench/tiny-300k", "--quantization", "int8", "nf4", "--html", str(page)]) == 0
    )
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text()
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', text).group(1))  # type: ignore[union-attr]
    assert [t["name"] for t in figures["error-by-type"]["data"]] == ["int8", "nf4", "nf4 dq"]
    assert "What the columns mean" in text and "relative error: norm of what quantization changes" in text
