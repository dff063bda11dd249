"""Run a study and read its results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

from lorabench.config import Study, load_study
from lorabench.errors import LorabenchError, unknown
from lorabench.formatting import plural
from lorabench.record.result import RETRIED, Outcome
from lorabench.record.store import Store
from lorabench.runner.run import run as run_study
from lorabench.runner.worker_pool import WorkerPool

if TYPE_CHECKING:
    import pandas as pd

    from lorabench.analysis.study import StudyAnalysis
    from lorabench.record.result import CellResult
    from lorabench.report.dataframe import StudyTable
    from lorabench.runner.cluster import ClusterOptions
    from lorabench.runner.progress import Progress
    from lorabench.runner.worker_pool import Worker

Value = TypeVar("Value")


def run(
    study: Study | str | Path,
    out: str | Path | None = None,
    *,
    workers: int | None = None,
    executor: str | Callable[[int | None], Worker] = "local",
    retry: Iterable[Outcome] = RETRIED,
    skip_infeasible: bool = False,
    calibrations: str | Path | None = None,
    pack: int | None = None,
    cluster: ClusterOptions | None = None,
    progress: Progress | None = None,
) -> StudyResults:
    """Runs the cells that a study still lacks, writes its tables and report, and returns its results.

    Args:
        study: a Study, or the path of a study file.
        out: results directory; reports/<study name> where absent.
        workers: cells that run at the same time; where absent, on a CPU as many as cores are free and memory holds (1
            where OMP_NUM_THREADS or a cell's time limit is set), on a GPU 1, of a cluster as many as it has room for.
        executor: where cells run, by name or as a function that opens a worker.
        retry: outcomes that are run again.
        skip_infeasible: record what is predicted not to fit into memory as skipped instead of running it.
        calibrations: folder of what `lorabench calibrate` stored (~/.cache/lorabench/calibrations), which corrects the
            memory that is predicted; none is read where absent.
        pack: cells that train at once at most, where they differ in adapter, rate or seed alone; 1 packs none; absent:
            as many as gain by it.
        cluster: which cluster, and how much of it a cell gets (lorabench.runner.cluster.ClusterOptions), of the
            executors ray and slurm.
        progress: shows what goes on (lorabench.runner.display.open_progress(), as the command does); nothing where
            absent.
    Returns:
        StudyResults over the results directory.
    Raises:
        LorabenchError: the study, an outcome or the directory is not what is allowed.
    Example:
        >>> import tempfile, lorabench as lb
        >>> small = ["model=lorabench/tiny-300k", "training.steps=1", "seeds=[0]", "grid={method.rank: [4]}"]
        >>> study = lb.load_study("studies/quickstart.yaml", [*small, "evaluation={}"])
        >>> results = lb.run(study, tempfile.mkdtemp())
        >>> {r.outcome for r in results.results}
        {'finished'}
    """
    if not isinstance(study, Study):
        study = load_study(study)
    unknown_outcomes = set(retry := tuple(retry)) - set(get_args(Outcome))
    if unknown_outcomes:
        raise LorabenchError(unknown("outcome", min(unknown_outcomes), get_args(Outcome)))
    outcome = RunAnalysis()
    plan = run_study(
        study,
        out,
        pool=WorkerPool(executor, workers, cluster),
        progress=progress,
        retry=retry,
        skip_infeasible=skip_infeasible,
        calibrations=Path(calibrations) if calibrations else None,
        pack=pack,
        frame=outcome.cells,
    )
    write_outputs(plan.store, outcome.of(plan.store))
    return StudyResults(plan.store, study)


def open_results(folder: str | Path) -> StudyResults:
    """The results of a study that was run before.

    Args:
        folder: its results directory.
    Returns:
        StudyResults, which reads what the directory holds at the time of asking.
    Raises:
        LorabenchError: the folder is not a results directory.
    Example:
        >>> import lorabench as lb
        >>> from lorabench.record.archive import opened  # a study in one file, as it ships
        >>> with opened("reports/quickstart") as store:
        ...     lb.open_results(store.folder).study.name
        'quickstart'
    """
    store = Store.open(folder)
    return StudyResults(store, store.study())


def cells_frame(store: Store) -> pd.DataFrame:
    """The rows of cells.csv, with the choice of each learning rate."""
    from lorabench.analysis.study import analyse  # pandas and scipy: ~1 s, and not while a cell is being timed

    return analyse(store).cells


def write_report(store: Store, path: Path, other: Store | None = None) -> Path:
    """Writes the HTML report, and cells.csv anew where the store may be written to; returns the report's path."""
    from lorabench.record.frames import write_csv
    from lorabench.report.page import write_page
    from lorabench.report.view import make_view

    view = make_view(store, other)
    written = write_page(view, path)
    with suppress(OSError):  # of a store that one may only read the report is what was asked for
        write_csv(view.analysis.cells, store.folder / "cells.csv")
    return written


class RunAnalysis:
    """The analysis of a run's results, made once, when the run has ended: its cells.csv, table and report are all of
    it."""

    def __init__(self) -> None:
        self._analysis: StudyAnalysis | None = None

    def of(self, store: Store) -> StudyAnalysis:
        """Of the store as it was when this was first asked for."""
        from lorabench.analysis.study import analyse  # pandas and scipy: ~1 s, and not while a cell is being timed

        if self._analysis is None:
            self._analysis = analyse(store)
        return self._analysis

    def cells(self, store: Store) -> pd.DataFrame:
        """The rows of cells.csv, which the runner writes."""
        return self.of(store).cells


def write_outputs(store: Store, analysis: StudyAnalysis | None = None) -> tuple[Path, Path]:
    """Writes table.md and report.html after a run, which has written cells.csv; returns their paths. `analysis` of the
    store, where it is made already."""
    from lorabench import plugins
    from lorabench.analysis.study import analyse
    from lorabench.record.whole_files import write_atomically
    from lorabench.report.page import write_page
    from lorabench.report.tables import table_of
    from lorabench.report.view import view_of

    view, table = view_of(analysis or analyse(store)), store.folder / "table.md"
    write_atomically(table, plugins.load("exporters", "md").export(table_of(view)))
    return table, write_page(view, store.folder / "report.html")


@dataclass(frozen=True, repr=False)
class StudyResults:
    """A study and what its results directory holds at the time of asking.

    Example:
        >>> import lorabench as lb
        >>> from lorabench.record.archive import opened
        >>> with opened("reports/quickstart") as store:
        ...     "chosen" in lb.open_results(store.folder).wide()
        True
    """

    store: Store
    study: Study

    def __repr__(self) -> str:
        """In one line: the study, its finished cells, its conditions, where they are."""
        cells = self.store.plan()
        finished = sum(r.outcome == "finished" for r in self.results)
        conditions = len({c.condition.model_dump_json() for c in cells})
        return (
            f"StudyResults of {self.study.name}: {finished} of {plural(len(cells), 'cell')} finished,"
            f" {plural(conditions, 'condition')} ({self.store.folder})"
        )

    @property
    def results(self) -> tuple[CellResult, ...]:
        """One result per cell that has one, in the study's order; a warning names each that is damaged and left out."""
        return self._warned(self.store.results())

    def evaluate(
        self, cells: Sequence[str] = (), *, again: bool = False, workers: int = 1, progress: Progress | None = None
    ) -> StudyResults:
        """Repeats evaluations and analyses that failed or are missing, from the saved weights and without training;
        then writes the tables and the report.

        cells: ids or their beginnings, all where there are none; again: evaluate finished ones, too. StoreError where
        an id is none or was not trained.
        """
        from lorabench.runner.run import evaluate

        outcome = RunAnalysis()
        evaluate(
            self.store, cells, again=again, pool=WorkerPool("local", workers), progress=progress, frame=outcome.cells
        )
        write_outputs(self.store, outcome.of(self.store))
        return StudyResults(self.store, self.study)

    def frame(self) -> pd.DataFrame:
        """Tidy: a row per cell and metric. Where learning rates were tuned, average `frame[frame.chosen]`: other
        rows are of learning rates that were rejected."""
        from lorabench.analysis.study import analyse
        from lorabench.analysis.tuning import chosen
        from lorabench.record.frames import frame

        analysis = analyse(self.store)
        return self._warned(
            frame(analysis.results.values(), chosen(analysis.planned, analysis.results, analysis.tunings))
        )

    def wide(self) -> pd.DataFrame:
        """A row per cell, as in cells.csv. Where learning rates were tuned, average `wide[wide.chosen]`: other rows are
        of learning rates that were rejected."""
        return self._warned(cells_frame(self.store))

    def conditions(self) -> pd.DataFrame:
        """A row per condition: setting, chosen learning rate, what became of its cells, of each metric mean, 95 %
        interval, standard deviation and count, and the verdict against its reference with difference, interval and p
        (Holm). report.dataframe.conditions names every column."""
        from lorabench.report.dataframe import conditions
        from lorabench.report.view import make_view

        return self._warned(conditions(make_view(self.store)))

    def table(self) -> StudyTable:
        """The table of conditions, means over seeds, as the report has it: prints as text, reads as a DataFrame;
        `.to_pandas()` gives one."""
        from lorabench.report.dataframe import StudyTable
        from lorabench.report.tables import study_table

        return self._warned(StudyTable(study_table(self.store)))

    def report(self, path: str | Path | None = None) -> Path:
        """Rewrites the HTML report; returns its path."""
        return self._warned(write_report(self.store, Path(path) if path else self.store.folder / "report.html"))

    def _warned(self, value: Value) -> Value:
        """What was made of the results, after a warning for each that could not be read and is no part of it."""
        for sentence in self.store.unreadable():
            warnings.warn(f"left out: {sentence}", stacklevel=3)
        return value
