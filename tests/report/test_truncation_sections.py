"""What is left of a change that is cut or that repairs its base's quantization, against sums by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from lorabench.record.spectrum import load_spectra, save_spectra
from lorabench.report import quantization_repair_text, truncation_text
from lorabench.report.blocks import Figure
from lorabench.report.view import View, make_view
from lorabench.sections import quantization_repair, rank_curve, truncation
from tests import synthetic_spectra
from tests.report.learned import FILES, cells, condition, rewritten, rows_of
from tests.report.stores import STUDY, filled


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    return make_view(filled(tmp_path_factory.mktemp("learned")))


def test_a_cut_curve_holds_the_means_of_its_rows_and_ends_at_the_whole_change(view: View) -> None:
    cuts = {(c.label, c.allocation): c for c in truncation.compute(view, "eval_loss")}
    cut = cuts["LoRA r=16", "uniform"]
    assert [p.rank for p in cut.points] == [1, 2, 4, 8]
    for p in cut.points:
        values = [
            float(r["value"])
            for c in cells(view, "LoRA r=16")
            for r in rows_of(view, c)
            if r["allocation"] == "uniform" and int(r["rank"]) == p.rank and r["metric"] == "eval_loss"
        ]
        assert len(values) == 2
        assert p.value.mean == pytest.approx(np.mean(values))
        assert p.value.std == pytest.approx(np.std(values, ddof=1))
    assert ("LoRA r=1", "uniform") not in cuts  # there is nothing below rank 1
    assert ("base", "uniform") not in cuts
    assert [p.rank for p in cuts["full", "energy"].points] == [1, 2, 4, 8, 16, 32]
    assert cuts["full", "uniform"].whole is None
    info = truncation.drawing(view, "eval_loss", tuple(cuts.values()))
    line = next(x for x in info.lines if x.label == "LoRA r=16, cut")
    assert line.x[-1] == 16
    assert line.y[-1] == view.analysis.summary(condition(view, "LoRA r=16")).mean("eval_loss")


def test_a_cut_stands_beside_what_was_trained_at_its_rank(view: View) -> None:
    cut = next(c for c in truncation.compute(view, "eval_loss") if c.label == "LoRA r=16" and c.allocation == "uniform")
    four = next(p for p in cut.points if p.rank == 4)
    trained = {c.cell.seed: c.value("eval_loss") for c in cells(view, "LoRA r=4")}
    ours = {
        c.cell.seed: float(r["value"])
        for c in cells(view, "LoRA r=16")
        for r in rows_of(view, c)
        if (r["allocation"], r["rank"], r["metric"]) == ("uniform", "4", "eval_loss")
    }
    assert four.trained is not None
    assert four.trained.mean == pytest.approx(np.mean([v for v in trained.values() if v is not None]))
    assert (four.ahead, four.pairs) == (sum(ours[s] < (trained[s] or 0) for s in ours), 2)
    assert next(p for p in cut.points if p.rank == 2).trained is None  # nobody trained that rank
    accuracy = next(
        c
        for c in truncation.compute(view, "python-docs-cloze/acc")
        if c.label == "LoRA r=16" and c.allocation == "uniform"
    )
    assert next(p for p in accuracy.points if p.rank == 4).ahead == four.ahead  # higher is better there
    said = truncation_text.sentence(cut, "eval_loss")
    assert f"trained at 4 {four.trained.mean:.3f}" in said
    assert f"(the cut one is better in {four.ahead} of 2 seeds)" in said


def test_a_cut_to_the_own_rank_is_not_compared_with_itself(tmp_path: Path) -> None:
    def add_whole(folder: Path) -> None:
        path = folder / FILES[2]
        if path.is_file():
            lines = path.read_text().splitlines()
            path.write_text("\n".join([*lines, "uniform,16,1,1.0,eval_loss,2.5,,"]) + "\n")

    view = rewritten(filled(tmp_path), add_whole)
    cut = next(c for c in truncation.compute(view, "eval_loss") if c.label == "LoRA r=16" and c.allocation == "uniform")
    assert cut.points[-1].rank == 16
    assert cut.points[-1].trained is None
    line = next(x for x in truncation.drawing(view, "eval_loss", (cut,)).lines if "cut" in x.label)
    assert line.x.count(16.0) == 1


def test_the_trained_ranks_are_those_of_the_rank_curve_and_far_levels_are_told_not_drawn(view: View) -> None:
    cuts = truncation.compute(view, "eval_loss")
    info, curve = truncation.drawing(view, "eval_loss", cuts), rank_curve.compute(view, "eval_loss")
    assert curve is not None
    assert [(x.label.partition(",")[0], x.x, x.y) for x in info.lines[:2]] == [(x.label, x.x, x.y) for x in curve.lines]
    assert [level.label for level in info.levels] == ["full"]
    made = truncation.section(view)
    assert made is not None
    captions = [b.caption for b in made.blocks if isinstance(b, Figure)]
    assert len(captions) == 2
    assert captions[0].endswith("Too far away to be drawn: base at 3.200.")
    assert "runs below the trained one" in captions[0]
    assert "runs above the trained one" in captions[1]


def test_the_first_truncation_figure_is_of_the_studys_own_metric(tmp_path: Path) -> None:
    for chosen, first in (("python-docs-cloze/acc", "python-docs-cloze accuracy"), ("eval_loss", "held-out loss")):
        made = truncation.section(
            make_view(filled(tmp_path / chosen.partition("/")[0], STUDY + f"comparison: {{metric: {chosen}}}\n"))
        )
        assert made is not None
        assert next(b.title for b in made.blocks if isinstance(b, Figure)) == f"{first} against truncated rank"
        assert len(made.blocks) == 2


def test_many_cut_curves_become_the_highest_rank_of_each_family(view: View) -> None:
    cuts = truncation.compute(view, "eval_loss")
    assert len(cuts) > truncation.MOST_LINES
    assert {c.label for c in truncation.shown(view, cuts)} == {"LoRA r=16", "LoRA r=16 nf4", "full"}
    assert truncation.shown(view, cuts[:3]) == cuts[:3]
    many = tuple(replace(c, label=str(i)) for c in truncation.shown(view, cuts) for i in range(2))
    assert {c.allocation for c in truncation.shown(view, many)} == {"uniform"}


def test_repair_is_the_mean_over_modules_and_seeds(view: View) -> None:
    found = {r.label: r for r in quantization_repair.compute(view)}
    assert set(found) == {"LoRA r=1 nf4", "LoRA r=4 nf4", "LoRA r=16 nf4"}
    shares = []
    for cell in cells(view, "LoRA r=4 nf4"):
        with safe_open(view.analysis.file(cell.cell.id, FILES[0]), framework="numpy") as file:
            shares += [m["repair"]["repaired_share"] for m in json.loads(file.metadata()["modules"]).values()]
    assert len(shares) == 16
    assert found["LoRA r=4 nf4"].repaired.mean == pytest.approx(np.mean(shares))
    assert found["LoRA r=4 nf4"].cosine.mean == pytest.approx(synthetic_spectra.REPAIR_COSINE)
    error = found["LoRA r=4 nf4"].error
    assert error is not None
    assert error.mean == pytest.approx(synthetic_spectra.ERROR["nf4"])


def test_the_answer_follows_the_numbers(view: View, tmp_path: Path) -> None:
    found = quantization_repair.compute(view)
    said = quantization_repair_text.answer(found)
    top = max(found, key=lambda r: r.repaired.mean)
    assert said.startswith(
        "Does the adapter repair the quantization? No. In 3 of 3 conditions the trained weights lie no nearer"
    )
    assert f"with {top.label}, the nearest, the squared error grew by {-100 * top.repaired.mean:.0f} %" in said

    def repairs(folder: Path) -> None:
        path = folder / FILES[0]
        if path.is_file():
            kept = load_spectra(path)
            save_spectra(
                path,
                [
                    (
                        replace(s, repair=replace(s.repair, cosine=0.9, repaired_share=0.3 if s.rank == 4 else -0.1))
                        if s.repair
                        else s
                    )
                    for s in kept
                ],
            )

    other = quantization_repair.compute(rewritten(filled(tmp_path), repairs))
    said = quantization_repair_text.answer(other)
    assert "No." not in said
    assert "In 1 of 3 conditions" in said
    assert (
        "most with LoRA r=4 nf4, which takes away 30 % of the squared error, of 9.4 % that a change of its rank could"
        " (cosine with −E 0.900)" in said
    )
