"""A study's results are read once, and every statistic of them is computed once, whatever is written of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lorabench import api
from lorabench.analysis import study as study_module
from lorabench.analysis.study import analyse
from lorabench.commands.main import main
from lorabench.record import store as store_module
from lorabench.runner import run as run_module
from tests import synthetic
from tests.report.stores import filled, study_of

STATISTICS = ("tunings", "chosen_cells", "aggregate", "references", "compare", "Pairing")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each result is read, and each statistic computed; of a run only what follows its last cell."""
    counts: Counter[str] = Counter()

    def counted(module: Any, name: str, key: Any = None) -> None:
        original = getattr(module, name)

        def wrapper(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            counts[key(*arguments) if key else name] += 1
            return result

        monkeypatch.setattr(module, name, wrapper)

    for name in STATISTICS:
        counted(study_module, name)
    counted(store_module, "read_result", lambda path, cell=None: f"read {path.parent.name}")

    written = run_module.write_cells_csv

    def write_cells_csv(*arguments: Any) -> Path:
        counts.clear()  # while cells run, the runner looks at those before them to decide which weights to keep
        return written(*arguments)

    monkeypatch.setattr(run_module, "write_cells_csv", write_cells_csv)
    return counts


def once(calls: Counter[str], cells: int) -> None:
    """Every result was read once, and each statistic computed once."""
    reads = [n for key, n in calls.items() if key.startswith("read ")]
    assert reads == [1] * cells
    assert {name: calls[name] for name in STATISTICS} == dict.fromkeys(STATISTICS, 1)


def test_a_report_reads_each_result_and_computes_each_statistic_once(tmp_path: Path, calls: Counter[str]) -> None:
    store = filled(tmp_path)
    cells = len(store.plan())
    calls.clear()
    assert main(["report", str(store.folder)]) == 0
    once(calls, cells)


def test_a_table_reads_each_result_and_computes_each_statistic_once(tmp_path: Path, calls: Counter[str]) -> None:
    store = filled(tmp_path)
    cells = len(store.plan())
    calls.clear()
    assert main(["table", str(store.folder)]) == 0
    once(calls, cells)


def test_a_run_reads_each_result_and_computes_each_statistic_once(tmp_path: Path, calls: Counter[str]) -> None:
    done = api.run(study_of(tmp_path), tmp_path / "out", executor=synthetic.open_worker)
    once(calls, len(done.store.plan()))


def test_the_command_run_shows_and_writes_one_analysis(tmp_path: Path, calls: Counter[str]) -> None:
    study_of(tmp_path)
    assert (
        main(["run", str(tmp_path / "study-in.yaml"), "--out", str(tmp_path / "out"), "--executor", "synthetic"]) == 0
    )
    once(calls, len(store_module.Store(tmp_path / "out").plan()))


def test_the_rows_of_cells_csv_need_no_comparison(tmp_path: Path, calls: Counter[str]) -> None:
    analysis = analyse(filled(tmp_path))
    assert len(analysis.cells) == len(analysis.results)
    assert not calls["compare"] and not calls["aggregate"]
