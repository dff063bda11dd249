"""A study's cells as runs of an experiment tracker: the stored ones at once, those of a run as they go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lorabench import plugins
from lorabench.errors import LorabenchError
from lorabench.record.result_file import first_line
from lorabench.record.store import Store
from lorabench.record.tracked import curve_steps, tracked_end, tracked_run
from lorabench.runner.plan import describe_cells


@dataclass(frozen=True)
class Exported:
    """What an export did."""

    new: int
    """runs that were made"""
    known: int
    """cells that were there already"""
    without_result: int
    place: str
    """where the runs are, and how they are looked at"""


def export_study(store: Store, tracker: str, said: Callable[[int, int], None] = lambda done, of: None) -> Exported:
    """Puts the results of a study where a tracker has its runs, each once; cells that are there stay as they are.

    Args:
        store: the study's results directory.
        tracker: a plug-in's name: trackio, wandb or mlflow.
        said: called after each run with how many are done, of how many.
    Raises:
        LorabenchError: there is no such tracker, or its library is not installed.
    """
    study, cells, results = store.study().name, store.plan(), store.results()
    words, plugin = describe_cells(cells), plugins.load("trackers", tracker)
    try:
        target = plugin.open_tracker(study)
        known = target.known()
        new = [r for r in results if r.cell.id not in known]
        for done, result in enumerate(new, 1):
            cell = result.cell
            run = target.begin(tracked_run(study, cell, words[cell.id]))
            for step, values in curve_steps(store.cells_folder / cell.id / "curve.csv"):
                run.step(step, values)
            run.end(tracked_end(result))
            said(done, len(new))
    except (LorabenchError, BrokenPipeError):
        raise
    except Exception as e:  # the library's own: a server that does not answer, a folder that cannot be written
        raise LorabenchError(
            f"{tracker} could not take the runs ({type(e).__name__}: {first_line(e)}); mend that and export again:"
            " cells that are there are not sent twice"
        ) from None
    return Exported(len(new), len(results) - len(new), len(cells) - len(results), target.place)
