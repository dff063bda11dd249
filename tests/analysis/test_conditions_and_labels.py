"""Conditions, their labels and their means."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorabench.analysis.aggregate import aggregate
from lorabench.analysis.conditions import replicates
from lorabench.analysis.labels import labels
from lorabench.config import expand
from lorabench.record import CellResult
from lorabench.record.frames import wide
from lorabench.report.view import make_view
from tests.report.stores import STUDY, filled, renamed, study_of
from tests.synthetic import expected


def texts(folder: Path, text: str = STUDY) -> list[str]:
    return [label.text for label in labels(replicates(expand(study_of(folder, text)))).values()]


def test_conditions_keep_the_order_of_the_study_and_their_cells(tmp_path: Path) -> None:
    cells = expand(study_of(tmp_path))
    groups = replicates(cells)
    assert [i for g in groups for i in g.ids] == [c.id for c in cells]
    assert [len(g.cells) for g in groups] == [2] * 7 + [1]


def test_labels_are_short(tmp_path: Path) -> None:
    assert texts(tmp_path) == [
        "LoRA r=1",
        "LoRA r=1 nf4",
        "LoRA r=4",
        "LoRA r=4 nf4",
        "LoRA r=16",
        "LoRA r=16 nf4",
        "full",
        "base",
    ]


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ("training.learning_rate: [1e-3, 3e-3]", "lr=0.001"),
        ("method.target_modules: [attention, all-linear]", "attention"),
        ("quantization: [{name: nf4}, {name: nf4, double_quant: true}]", "double quant"),
        ("method.alpha: [8, 16]", "alpha=8"),
        ("training.gradient_checkpointing: [false, true]", "checkpointing"),
        ("method.target_modules: [[q_proj], [q_proj, v_proj]]", "q_proj+v_proj"),
    ],
)
def test_labels_name_what_varies_and_stay_unique(tmp_path: Path, axis: str, words: str) -> None:
    text = (
        STUDY.replace("  quantization: [none, nf4]\n", f"  {axis}\n")
        if axis.startswith("quantization")
        else STUDY.replace("grid:\n", f"grid:\n  {axis}\n")
    )
    made = texts(tmp_path, text)
    assert len(set(made)) == len(made)
    assert any(words in t for t in made)
    assert "full" in made
    assert "base" in made


def test_a_setting_that_follows_from_the_rest_is_left_out(tmp_path: Path) -> None:
    assert not any("lr=" in t for t in texts(tmp_path))  # full has another rate than the adapters


def test_models_are_named_where_there_are_several(tmp_path: Path) -> None:
    cells = expand(study_of(tmp_path))
    made = labels(replicates((*cells, *renamed(cells, "hub/other"))))
    words = [label.text for label in made.values()]
    assert len(set(words)) == 16
    assert "full, hub/other" in words
    assert "full, tiny-300k" in words


def test_one_name_over_other_bytes_still_gets_two_labels(tmp_path: Path) -> None:
    cells = expand(study_of(tmp_path))
    again = tuple(
        c.model_copy(update={"fingerprints": c.fingerprints.model_copy(update={"data": "other"})}) for c in cells
    )
    words = [label.text for label in labels(replicates((*cells, *again))).values()]
    assert len(set(words)) == 16


def test_a_family_is_a_label_without_its_rank(tmp_path: Path) -> None:
    families = [label.family for label in labels(replicates(expand(study_of(tmp_path)))).values()]
    assert families == ["LoRA", "LoRA nf4"] * 3 + ["full", "base"]


def test_means_and_deviations_are_over_finished_replicates(tmp_path: Path) -> None:
    store = filled(tmp_path, STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    view = make_view(store)
    for group, s in zip(view.analysis.groups, view.analysis.summaries, strict=True):
        values = [expected(c)["eval_loss"] for c in group.cells]
        mean = sum(values) / len(values)
        found = s.statistics["eval_loss"]
        assert found.mean == pytest.approx(mean)
        assert found.n == len(values)
        if len(values) > 1:
            assert found.std == pytest.approx((sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5)
        else:
            assert found.std is None
            assert s.seeds == ()


def test_every_outcome_is_counted_and_none_is_averaged_in(tmp_path: Path) -> None:
    def change(result: CellResult) -> CellResult | None:
        if result.cell.method.name != "full":
            return result
        return None if result.cell.seed == 1 else result.model_copy(update={"outcome": "failed"})

    store = filled(tmp_path, change=change)
    full = next(s for s in make_view(store).analysis.summaries if s.method == "full")
    assert (full.outcomes.failed, full.outcomes.missing, full.outcomes.finished, full.outcomes.total) == (1, 1, 0, 2)
    assert dict(full.statistics) == {}
    assert not full.comparable


def test_a_study_without_results_has_rows_all_the_same(tmp_path: Path) -> None:
    groups = replicates(expand(study_of(tmp_path)))
    rows = aggregate(groups, wide(()))
    assert len(rows) == 8
    assert all(s.outcomes.missing == len(s.cells) for s in rows)
