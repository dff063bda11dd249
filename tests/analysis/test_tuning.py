"""The rate is chosen on the validation split, what is reported comes from the test split."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lorabench.analysis.conditions import replicates
from lorabench.analysis.tuning import METRIC, tunings
from lorabench.config import expand
from lorabench.errors import StudyError
from lorabench.record.result import CellResult, Reading
from lorabench.report import learning_rates_text
from lorabench.report.page import write_report
from lorabench.report.view import make_view
from lorabench.sections import learning_rates
from tests.report.stores import STUDY, filled, study_of

TUNED = STUDY.replace("learning_rate: 3e-3}", "learning_rate: {tune: [1e-2, 3e-4, 3e-3]}}").replace(
    "quantization: [none, nf4]", "quantization: [none]"
)


def test_a_tuned_condition_has_a_cell_for_each_rate_and_seed(tmp_path: Path) -> None:
    cells = expand(study_of(tmp_path, TUNED))
    groups = replicates(cells)
    assert [len(g.cells) for g in groups] == [6, 6, 6, 2, 1]
    assert {c.training.fixed_learning_rate for c in groups[0].cells} == {3e-4, 3e-3, 1e-2}
    assert len({c.id for c in cells}) == 21
    assert groups[0].declared["training"]["learning_rate"] == {"tune": [3e-4, 3e-3, 1e-2]}
    assert cells[0].condition.training.learning_rate != cells[0].training.fixed_learning_rate


def test_a_larger_grid_keeps_the_cells_it_had_and_a_given_rate_is_another_cell(tmp_path: Path) -> None:
    few = {c.id for c in expand(study_of(tmp_path / "a", TUNED)) if c.tuned_over}
    more = {c.id for c in expand(study_of(tmp_path / "b", TUNED.replace("[1e-2,", "[3e-2, 1e-2,"))) if c.tuned_over}
    given = {c.id for c in expand(study_of(tmp_path / "c", TUNED.replace("{tune: [1e-2, 3e-4, 3e-3]}", "3e-3")))}
    assert few < more
    assert not given & few, "its validation loss was never asked for"


def test_the_lowest_mean_validation_loss_decides_whatever_the_test_says(tmp_path: Path) -> None:
    def planted(result: CellResult) -> CellResult:
        if not result.cell.tuned_over:
            return result
        loss = {3e-4: 2.0, 3e-3: 3.0, 1e-2: 1.9 + 0.3 * result.cell.seed}[
            result.cell.training.fixed_learning_rate
        ]  # 1e-2 is lowest in one seed, not in the mean
        kept = [r for r in result.readings if r.metric != "validation_loss"]
        return result.model_copy(update={"readings": (*kept, Reading(metric="validation_loss", value=loss))})

    view = make_view(filled(tmp_path, TUNED, planted))
    assert [t.chosen for t in view.analysis.tunings] == [3e-4] * 3
    assert all(t.edge for t in view.analysis.tunings)
    row = view.analysis.summaries[0]
    assert len(row.cells) == 2
    assert {view.analysis.results[i].cell.training.fixed_learning_rate for i in row.cells} == {3e-4}
    assert row.mean("eval_loss") == pytest.approx(
        sum(view.analysis.results[i].value("eval_loss") or 0 for i in row.cells) / 2
    )


def test_the_synthetic_optimum_is_found_inside_its_grid(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path, TUNED))
    assert [t.chosen for t in view.analysis.tunings] == [3e-3] * 3
    assert not any(t.edge for t in view.analysis.tunings)
    made = learning_rates.section(view)
    assert made is not None
    assert "chose 0.003 throughout" in learning_rates_text.choices(view)[0]
    assert "→" in learning_rates.table(view).rows[0][2]
    text = write_report(filled(tmp_path / "page", TUNED), tmp_path / "r.html").read_text()
    assert "Learning rates were tuned" in text


def test_a_rate_that_diverged_is_never_chosen(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path, TUNED.replace("[1e-2,", "[2.0, 1e-2,")))
    assert [t.chosen for t in view.analysis.tunings] == [3e-3] * 3
    assert view.analysis.tunings[0].results[-1].broken == 2
    assert view.analysis.summaries[0].outcomes.broken == 0


def test_of_rates_with_as_many_seeds_survivors_are_not_chosen(tmp_path: Path) -> None:
    """At 1e-2 one seed diverged and the other has the best validation loss; at 3e-3 one has not been run yet."""

    def change(r: CellResult) -> CellResult | None:
        if r.cell.training.fixed_learning_rate == 3e-3 and r.cell.seed == 0:
            return r
        if r.cell.training.fixed_learning_rate == 1e-2:
            readings = tuple(x.model_copy(update={"value": 0.1}) if x.metric == METRIC else x for x in r.readings)
            return (
                r.model_copy(update={"outcome": "diverged", "readings": ()})
                if r.cell.seed == 1
                else r.model_copy(update={"readings": readings})
            )
        return None

    view = make_view(filled(tmp_path, TUNED, change))
    assert {t.chosen for t in view.analysis.tunings} == {3e-3}
    said = learning_rates_text.sentence(view, view.analysis.tunings[0])
    assert re.search(r"chose 0\.003 with [\d.]+ nats \(1 without a value\);", said)
    assert said.endswith("0.100 at 0.01 (1 broke)"), "so that nobody wonders why the lower one was not taken"
    row = learning_rates.table(view).rows[0]
    assert [any(word in field for field in row) for word in ("(1 without a value)", "0.100 (1 broke)")] == [True, True]


def test_before_any_cell_finished_nothing_is_chosen(tmp_path: Path) -> None:
    view = make_view(filled(tmp_path, TUNED, lambda r: None))
    assert [t.chosen for t in view.analysis.tunings] == [None] * 3
    assert view.analysis.summaries[0].outcomes.missing == 6
    (first, *_) = tunings(view.analysis.groups, view.analysis.data)
    assert first.results[0].missing == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{tune: [1e-3]}", "two or more different"),
        ("{tune: [1e-3, 1e-3]}", "two or more different"),
        ("{tune: [0, 1e-3]}", "above 0"),
        ("{tunes: [1, 2]}", "did you mean 'training.learning_rate.tune'"),
        ("abc", "must be a number"),
    ],
)
def test_a_grid_that_is_none_is_one_sentence_with_its_line(tmp_path: Path, value: str, words: str) -> None:
    with pytest.raises(StudyError, match=words) as caught:
        study_of(tmp_path, STUDY.replace("learning_rate: 3e-3}", f"learning_rate: {value}}}"))
    assert "study-in.yaml:8: " in str(caught.value)
