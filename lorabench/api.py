"""The Python API: run a study and read its results. Beside the CLI the only place that sees both arms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lorabench.errors import LorabenchError, unknown
from lorabench.record.result import RETRIED, Outcome
from lorabench.record.store import Store
from lorabench.runner.crew import Crew
from lorabench.runner.run import run as run_study
from lorabench.spec import Study, load_study

if TYPE_CHECKING:
    import pandas as pd

    from lorabench.record.result import CellResult
    from lorabench.report.examined import Examined
    from lorabench.runner.crew import Slot
    from lorabench.runner.progress import Progress


def run(
    study: Study | str | Path,
    out: str | Path | None = None,
    *,
    workers: int = 1,
    executor: str | Callable[[int | None], Slot] = "local",
    retry: Iterable[Outcome] = RETRIED,
    skip_infeasible: bool = False,
    progress: Progress | None = None,
) -> StudyResults:
    """Runs what a study (or the study file of a path) wants and has not yet, writes its tables and report, returns its results.

    `out` is reports/<study name> where absent; cells whose outcome is in `retry` are run again; what is predicted not
    to fit into memory is warned of, and with skip_infeasible recorded as skipped instead of run; `progress`
    shows what goes on (lorabench.runner.progress.open_progress() as the CLI does), nothing where absent.
    """
    if not isinstance(study, Study):
        study = load_study(study)
    unknown_outcomes = set(retry := tuple(retry)) - set(get_args(Outcome))
    if unknown_outcomes:
        raise LorabenchError(unknown("outcome", min(unknown_outcomes), get_args(Outcome)))
    plan = run_study(study, out, crew=Crew(executor, workers), progress=progress, retry=retry, skip_infeasible=skip_infeasible)
    write_outputs(plan.store)
    return StudyResults(plan.store, study)


def open_results(folder: str | Path) -> StudyResults:
    """The results of a study that was run before."""
    store = Store.open(folder)
    return StudyResults(store, store.study())


def spectrum(source: str | Path, *, base: str | Path | None = None, compare: str | Path | None = None, alpha: float | None = None, directory: str | Path | None = None) -> Examined:
    """What an adapter (PEFT or loralib), a cell (its folder, id or words), a condition (its label: the first seed's cell) or a checkpoint learned, module by module.

    `base` names the weights before (a cell knows its own), `compare` a second one whose subspaces are held beside it, `alpha` the
    lora_alpha of a file without configuration, `directory` where cells are looked up (all under reports/ and runs/ where absent). Modules stand in `.spectra` and `.frame()`, groups in `.summary`.
    LorabenchError where there is nothing of the kind, or the files are damaged.
    """
    from lorabench import examine

    named = [None if n is None else str(n) for n in (base, compare)]
    return examine.spectrum(str(source), named[0], named[1], alpha, examine.cell_finder(None if directory is None else str(directory)))


def write_outputs(store: Store) -> tuple[Path, Path]:
    """Writes table.md and report.html; returns their paths."""
    from lorabench import plugins
    from lorabench.record.store import write_atomically
    from lorabench.report.page import write_report
    from lorabench.report.tables import study_table

    table = store.folder / "table.md"
    write_atomically(table, plugins.load("exporters", "md").export(study_table(store)))
    return table, write_report(store, store.folder / "report.html")


@dataclass(frozen=True)
class StudyResults:
    """A study and what its results directory holds at the time of asking."""

    store: Store
    study: Study

    @property
    def results(self) -> tuple[CellResult, ...]:
        """One result per cell that has one, in the study's order."""
        return self.store.results()

    def frame(self) -> pd.DataFrame:
        """Tidy: a row per cell and metric."""
        from lorabench.record.frames import frame

        return frame(self.results)

    def wide(self) -> pd.DataFrame:
        """A row per cell, as in cells.csv."""
        from lorabench.record.frames import wide

        return wide(self.results)

    def table(self) -> Any:
        """The table of conditions, means over seeds, as the report has it."""
        from lorabench.report.tables import study_table

        return study_table(self.store)

    def report(self, path: str | Path | None = None) -> Path:
        """Writes the HTML report anew; returns its path."""
        from lorabench.report.page import write_report

        return write_report(self.store, Path(path) if path else self.store.folder / "report.html")
