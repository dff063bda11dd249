"""A study's results for pandas: which rows count, what each condition has, and a table that reads as a DataFrame
does."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lorabench as lb
from lorabench import plugins
from lorabench.analysis.intervals import half_of
from lorabench.config import expand
from lorabench.record.result import CellResult, Fault
from lorabench.record.store import Store
from lorabench.report.table_model import Table
from lorabench.report.tables import as_text, study_table
from lorabench.report.view import make_view
from tests.report.stores import STUDY, fill, filled, study_of

TUNED = STUDY.replace("learning_rate: 3e-3}", "learning_rate: {tune: [1e-4, 3e-3]}}").replace(
    "seeds: [0, 1]", "seeds: [0, 1, 2]"
)


def planted(result: CellResult) -> CellResult:
    """Rank 16 validates best at 1e-4, the others at 3e-3; the rejected rate is 1 nat worse on the test set."""
    cell = result.cell
    right = 1e-4 if cell.method.rank == 16 else 3e-3
    lost = 0.0 if cell.training.fixed_learning_rate == right or not cell.tuned_over else 1.0
    readings = tuple(
        (
            r.model_copy(update={"value": 2.0 + lost + 0.01 * cell.seed})
            if r.metric in ("eval_loss", "validation_loss")
            else r
        )
        for r in result.readings
    )
    return result.model_copy(update={"readings": readings})


def test_chosen_says_which_rows_a_rank_curve_is_made_of(tmp_path: Path) -> None:
    results = lb.open_results(filled(tmp_path, TUNED, planted).folder)
    for data in (results.wide(), results.frame()):
        assert data["chosen"].dtype == "boolean" and not data["chosen"].isna().any()
        lora = data[data["method"] == "lora"]
        assert (lora["chosen"] == (lora["learning_rate"] == np.where(lora["rank"] == 16, 1e-4, 3e-3))).all()
        assert data[data["method"] != "lora"]["chosen"].all(), "nothing was tuned there"
    wide = results.wide()
    trained = wide[wide["method"] == "lora"]
    assert trained[trained["chosen"]].groupby("rank")["eval_loss"].mean().tolist() == pytest.approx([2.01, 2.01, 2.01])
    assert trained.groupby("rank")["eval_loss"].mean().tolist() == pytest.approx([2.51, 2.51, 2.51]), (
        "the obvious average holds the rejected rate"
    )


def test_chosen_is_empty_while_a_rate_is_still_running_and_where_none_finished(tmp_path: Path) -> None:
    def partly(result: CellResult) -> CellResult | None:
        cell = result.cell
        if cell.method.rank == 4 and cell.seed == 2 and cell.training.fixed_learning_rate == 1e-4:
            return None
        if cell.method.rank == 1:
            return result.model_copy(
                update={"outcome": "failed", "readings": (), "error": Fault(kind="ValueError", message="no")}
            )
        return planted(result)

    data = lb.open_results(filled(tmp_path, TUNED, partly).folder).wide()
    lora = data[data["method"] == "lora"]
    assert lora[lora["rank"] == 1]["chosen"].isna().all()
    rank4 = lora[lora["rank"] == 4]
    assert rank4["chosen"].isna().all()
    assert lora[lora["rank"] == 16]["chosen"].notna().all()


def test_cells_csv_has_the_choice_after_a_report_and_after_a_run(tmp_path: Path) -> None:
    store = filled(tmp_path, TUNED, planted)
    results = lb.open_results(store.folder)
    results.report()
    again = lb.run(study_of(tmp_path / "run", TUNED), tmp_path / "run" / "out", executor="synthetic")
    for found in (results, again):
        data = pd.read_csv(found.store.folder / "cells.csv")
        assert data["chosen"].dtype == bool
        assert data["chosen"].tolist() == found.wide()["chosen"].tolist()
        assert 0 < (~data["chosen"]).sum() < len(data)


def test_cells_csv_has_the_choice_when_the_run_is_stopped(tmp_path: Path) -> None:
    from lorabench import api
    from lorabench.runner.run import run
    from lorabench.runner.worker_pool import WorkerPool
    from tests import synthetic

    study = study_of(tmp_path, TUNED)
    ran = 0

    class Stops:
        def __init__(self, place: int | None) -> None:
            self.worker = synthetic.open_worker(place)

        def __getattr__(self, name: str) -> object:
            return getattr(self.worker, name)

        def run(self, *given: object) -> CellResult:
            nonlocal ran
            ran += 1
            if ran > 8:
                raise KeyboardInterrupt
            return self.worker.run(*given)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "out", pool=WorkerPool(Stops), frame=api.cells_frame)  # type: ignore[arg-type]
    data = pd.read_csv(tmp_path / "out" / "cells.csv")
    assert len(data) == 8
    whole = data.groupby("condition")["chosen"].count()
    assert whole.tolist() == [6, 0], "of the first condition all six cells ran, the second one's choice is open"


def test_conditions_are_rows_of_numbers_with_the_reports_verdict(tmp_path: Path) -> None:
    store = filled(tmp_path, TUNED)
    results, view = lb.open_results(store.folder), make_view(store)
    data = results.conditions().set_index("label")
    assert data.index.tolist() == [s.label.text for s in view.analysis.summaries]
    wide = results.wide()
    one = data.loc["LoRA r=4"]
    values = wide[(wide["condition"] == one["condition"]) & wide["chosen"]]["eval_loss"].tolist()
    assert (one["eval_loss_mean"], one["eval_loss_std"], one["eval_loss_n"]) == (
        pytest.approx(np.mean(values)),
        pytest.approx(np.std(values, ddof=1)),
        3,
    )
    half = half_of(values)
    assert (one["eval_loss_ci_low"], one["eval_loss_ci_high"]) == (
        pytest.approx(np.mean(values) - (half or 0)),
        pytest.approx(np.mean(values) + (half or 0)),
    )
    assert (one["rank"], one["learning_rate"], one["tuned"], one["seeds"], one["finished"], one["reference"]) == (
        4,
        3e-3,
        True,
        3,
        3,
        "full",
    )
    for c in (c for c in view.analysis.comparisons if c.metric == "eval_loss"):
        row = data.loc[view.analysis.label(c.condition)]
        assert (row["eval_loss_difference"], row["eval_loss_p"], row["eval_loss_verdict"]) == (
            c.difference,
            c.p_adjusted,
            c.verdict,
        )
        assert (row["eval_loss_difference_ci_low"], row["eval_loss_difference_ci_high"]) == (c.low, c.high)
    assert pd.isna(data.loc["full", "eval_loss_verdict"]) and np.isnan(data.loc["full", "eval_loss_p"])
    kinds = data.dtypes.astype(str)
    assert {kinds[n] for n in ("rank", "seeds", "finished", "missing", "eval_loss_n")} == {"Int64"}
    assert {
        kinds[n]
        for n in ("learning_rate", "alpha", "eval_loss_mean", "eval_loss_ci_low", "eval_loss_difference", "eval_loss_p")
    } == {"float64"}
    assert kinds["tuned"] == "boolean"


@pytest.mark.parametrize("rest", ["nothing ran", "all failed"])
def test_conditions_and_table_work_before_anything_finished(tmp_path: Path, rest: str) -> None:
    def change(result: CellResult) -> CellResult | None:
        return None if rest == "nothing ran" else result.model_copy(update={"outcome": "failed", "readings": ()})

    results = lb.open_results(filled(tmp_path, TUNED, change).folder)
    data = results.conditions()
    assert len(data) == len(results.table()) == 8
    assert data["missing" if rest == "nothing ran" else "failed"].sum() > 0
    assert data["finished"].sum() == 0 and data[data["tuned"]]["learning_rate"].isna().all()
    assert len(results.wide()) == (0 if rest == "nothing ran" else 40) and "chosen" in results.wide()


def test_a_table_prints_as_the_command_does_and_reads_as_a_frame(tmp_path: Path) -> None:
    store = filled(tmp_path, TUNED)
    table = lb.open_results(store.folder).table()
    assert str(table) == repr(table) == as_text(study_table(store))
    csv = plugins.load("exporters", "csv").export(table.layout)
    read = pd.read_csv(io.StringIO(csv))
    assert list(table) == list(table.columns) == list(read.columns)
    pd.testing.assert_frame_equal(table.to_pandas(), read, check_dtype=False)
    assert len(table) == 8 and table.shape == (8, len(read.columns)) and "eval_loss_nats" in table
    assert table.sort_values("eval_loss_nats").iloc[0]["condition"] == "full"
    assert table["eval_loss_nats"].dtype == table["learning_rate"].dtype == "float64"
    changed = table.to_pandas()
    changed["eval_loss_nats"] = 0.0
    assert table["eval_loss_nats"].min() > 1
    assert isinstance(table.layout, Table)
    assert str(copy.deepcopy(table)) == str(pickle.loads(pickle.dumps(table))) == str(table)
    with pytest.raises(AttributeError):
        _ = table.no_such_thing


def test_a_table_in_a_notebook_escapes_what_a_name_holds(tmp_path: Path) -> None:
    from tests.report.stores import renamed

    study = study_of(tmp_path)
    cells = expand(study)
    fill(tmp_path / "s", study, (*cells, *renamed(cells, "<script>alert(1)</script>")))
    shown = lb.open_results(Store.open(tmp_path / "s").folder).table()._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "held-out loss (nats)" in shown
