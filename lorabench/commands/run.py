"""The commands run and evaluate: cells are run, then their table is printed and their report written."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING, NoReturn

from lorabench import plugins
from lorabench.commands.arguments import cards_per_cell, pack_size, worker_count
from lorabench.commands.calibrate import add_calibration_option, calibrations_of
from lorabench.commands.output import note, say, table_text
from lorabench.formatting import plural

if TYPE_CHECKING:
    from types import FrameType

    from lorabench.api import RunAnalysis
    from lorabench.config.source import Source
    from lorabench.config.study import Study
    from lorabench.runner.cluster import ClusterOptions
    from lorabench.runner.plan import Plan
    from lorabench.runner.progress import Progress
    from lorabench.runner.worker_pool import WorkerPool


def add_run_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("study", metavar="STUDY.yaml", help="study file")
    c.add_argument("--out", metavar="DIR", help="results directory (default: reports/<study name>)")
    c.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change a setting of the study: --set training.steps=50",
    )
    c.add_argument(
        "--workers",
        metavar="auto|N",
        type=worker_count,
        help="cells that run at the same time; auto: on a CPU as many as cores are free and memory holds (1 where "
        "OMP_NUM_THREADS or a cell's time_limit is set), on a GPU 1, of a cluster as many as it has room for "
        "(default: auto)",
    )
    c.add_argument(
        "--executor", metavar="NAME", default="local", help="where cells run (default: local; see: lorabench executors)"
    )
    c.add_argument(
        "--address",
        metavar="auto|HOST:PORT",
        help="of a Ray cluster; auto: the one of this machine (default: that one, or a new one of this machine alone)",
    )
    c.add_argument(
        "--gpus-per-cell",
        metavar="auto|N",
        type=cards_per_cell,
        help="of a cluster: 1, whole GPUs that train a cell together, or a share such as 0.25; auto: by the memory that"
        " is predicted (default: auto)",
    )
    c.add_argument(
        "--pack",
        metavar="auto|off|N",
        type=pack_size,
        default=None,
        help="train at most N cells at once on one base, where they differ in adapter, rate or seed alone, as many of "
        "them as fit; auto: at most 8, as many as gain by it (default: auto)",
    )
    c.add_argument(
        "--skip-infeasible",
        action="store_true",
        help="do not run cells that are predicted not to fit into memory, record them as skipped",
    )
    c.add_argument(
        "--log",
        metavar="TRACKER",
        help=f"show the cells while they run, too, in {', '.join(plugins.names('trackers'))} (default: nowhere)",
    )
    add_calibration_option(c)
    c.add_argument("--dry-run", action="store_true", help="list and check the cells, run nothing")


def run(options: argparse.Namespace) -> int:
    """Runs a study, then prints its table."""
    from lorabench.runner.worker_pool import WorkerPool

    signal.signal(signal.SIGTERM, _terminate)
    with WorkerPool(
        options.executor, options.workers, _cluster(options)
    ) as pool:  # first of all: its imports take 5 s beside what follows
        from lorabench.config.load import read_study
        from lorabench.config.source import override, read_source

        source = override(read_source(options.study), tuple(options.set))
        study = read_study(source)
        if options.dry_run:
            return _dry_run(study, options, pool, source)
        from lorabench import api
        from lorabench.runner.run import run as run_study

        outcome = api.RunAnalysis()
        plan = run_study(
            study,
            options.out,
            pool=pool,
            progress=_progress(study, options.log),
            source=source,
            skip_infeasible=options.skip_infeasible,
            calibrations=calibrations_of(options),
            frame=outcome.cells,
            pack=options.pack,
        )
    return _finish(plan, outcome)


def _cluster(options: argparse.Namespace) -> ClusterOptions | None:
    """What was said of a cluster; None where nothing was."""
    from lorabench.runner.cluster import ClusterOptions

    if options.address is None and options.gpus_per_cell is None:
        return None
    return ClusterOptions(options.address, options.gpus_per_cell or None)


def _progress(study: Study, tracker: str | None) -> Progress:
    """The display, which tells a tracker as well where one was named."""
    from lorabench.runner.display import open_progress

    if tracker is None:
        return open_progress()
    from lorabench.runner.tracked_progress import TrackedProgress

    opened = plugins.load("trackers", tracker).open_tracker(study.name)
    return TrackedProgress(open_progress(), opened, tracker, note)


def _dry_run(study: Study, options: argparse.Namespace, pool: WorkerPool, source: Source | None) -> int:
    from lorabench.commands import status_text
    from lorabench.runner.plan import make_plan
    from lorabench.runner.run import check

    plan = make_plan(study, options.out)
    if plan.pending:
        plan = check(plan, pool, source, options.skip_infeasible, calibrations_of(options))
    print(status_text.dry_run(plan, min(pool.workers, len(plan.pending))))
    return 0


def _finish(plan: Plan, outcome: RunAnalysis) -> int:
    """Table, report and what did not finish; a fault of the report loses nothing of the run."""
    from lorabench import api
    from lorabench.commands import status_text
    from lorabench.report.tables import table_of
    from lorabench.report.view import view_of

    code = 0
    try:
        analysis = outcome.of(plan.store)
        print()
        print(table_text(table_of(view_of(analysis))))
        paths = api.write_outputs(plan.store, analysis)
        print(f"\ntable:  {paths[0]}\nreport: {paths[1]}")
    except BrokenPipeError:
        raise
    except Exception as e:  # whatever it is, the results are on disk
        reason, folder = " ".join(str(e).split()) or "no message", plan.store.folder
        message = f"the report could not be written ({type(e).__name__}: {reason})"
        code = say(f"{message}; all results are in {folder}, try again with: lorabench report {folder}", 1)
    rows = status_text.unfinished(plan, outcome.of(plan.store).results)
    if rows:
        print(
            f"\n{len(rows)} of {plural(len(plan.cells), 'cell')} did not finish:", *(line for _, line in rows), sep="\n"
        )
    if not all(expected for expected, _ in rows):
        code = 1
    return code


def add_evaluate_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("directory", metavar="DIR", help="results directory")
    c.add_argument(
        "cells",
        metavar="CELL",
        nargs="*",
        help=(
            "id of a cell, or its beginning (default: all that failed after training, or lack what the study asks for)"
        ),
    )
    c.add_argument("--cell", metavar="CELL", action="append", default=[], help="the same as an option")
    c.add_argument("--again", action="store_true", help="evaluate finished cells, too")
    c.add_argument("--workers", metavar="N", type=int, help="cells at a time (default: 1)")
    c.add_argument("--executor", metavar="NAME", default="local", help="where cells run (default: local)")


def evaluate(options: argparse.Namespace) -> int:
    """Repeats what failed after training, from the saved weights."""
    from lorabench.record.store import Store
    from lorabench.runner.worker_pool import WorkerPool

    store = Store.open(options.directory)
    signal.signal(signal.SIGTERM, _terminate)
    with WorkerPool(options.executor, options.workers) as pool:
        from lorabench import api
        from lorabench.runner.display import open_progress
        from lorabench.runner.run import evaluate as repeat

        outcome = api.RunAnalysis()
        plan = repeat(
            store,
            (*options.cells, *options.cell),
            again=options.again,
            pool=pool,
            progress=open_progress(),
            frame=outcome.cells,
        )
    return _finish(plan, outcome)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""

    code = 128 + signal.SIGTERM


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
