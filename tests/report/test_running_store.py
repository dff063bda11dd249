"""A report of a study that is still running: what it has, what it lacks, and decisions that are said to be so far."""

from __future__ import annotations

import re
import shutil
from datetime import date
from pathlib import Path

import pytest

from lorabench.record.result import CellResult
from lorabench.report.page import page, unfinished, write_report
from lorabench.report.view import make_view
from tests.report.stores import filled


def text_of(path: Path) -> str:
    body = path.read_text().partition("<body")[2].partition("<script>")[0]
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", body))


def upto(n: int) -> object:
    seen: list[CellResult] = []

    def change(r: CellResult) -> CellResult | None:
        seen.append(r)
        return r if len(seen) <= n else None

    return change


@pytest.mark.parametrize("n", [0, 1, 9])
def test_a_store_with_few_results_has_a_report_that_counts_them(tmp_path: Path, n: int) -> None:
    store = filled(tmp_path, change=upto(n))  # type: ignore[arg-type]
    total = len(store.plan())
    (store.cells_folder / f"{store.plan()[-1].id}.partial" / "curve.csv").write_text("step,loss\n1,2.5\n2,")
    text = text_of(write_report(store, tmp_path / "r.html"))
    assert f"{n} of {total} cells have finished, {total - n} have no result yet." in text
    assert re.search(r"Made by lorabench on \d{4}-\d\d-\d\d \d\d:\d\d UTC", text)
    assert "Rebuild the report when more cells have finished" in text


def test_decisions_are_so_far_until_all_cells_have_ended(tmp_path: Path) -> None:
    running = make_view(filled(tmp_path / "a", change=upto(9)))  # type: ignore[arg-type]
    assert re.findall(r'<p class="lead">(So far: )?', page(running, date(2026, 1, 1)))
    assert all(re.findall(r'<p class="lead">(So far: )?', page(running, date(2026, 1, 1))))
    whole = make_view(filled(tmp_path / "b"))
    text = page(whole, date(2026, 1, 1))
    assert unfinished(whole) == () and "So far" not in text and "Not complete" not in text


def test_another_study_that_still_runs_is_told_too(tmp_path: Path) -> None:
    store = filled(tmp_path / "b", change=upto(3))  # type: ignore[arg-type]
    (notice,) = unfinished(make_view(filled(tmp_path / "a"), store))
    assert notice.title == "The other study, small, is still running, or was stopped"  # type: ignore[union-attr]


def test_a_cell_that_vanishes_between_reads_costs_its_own_files_alone(tmp_path: Path) -> None:
    store = filled(tmp_path)
    view = make_view(store)
    for cell in store.plan()[::2]:  # as while a failed cell is replaced by its next result
        shutil.rmtree(store.cells_folder / cell.id)
    assert "Held-out" in page(view, date(2026, 1, 1)) or "held-out" in page(view, date(2026, 1, 1))
    (store.cells_folder / store.plan()[1].id / "result.json").write_text('{"cell": ')
    assert "cells finished" in text_of(write_report(store, tmp_path / "r.html"))
