"""The commands that read a results directory: status, table, report, explain."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench import plugins, startup
from lorabench.commands.output import emit, say_unreadable, table_text
from lorabench.errors import LorabenchError, StoreError

if TYPE_CHECKING:
    from lorabench.report.table_model import Table


def add_status_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("directory", metavar="DIR", help="results directory")
    c.add_argument(
        "--cells",
        action="store_true",
        help="a line for each cell: id, outcome, seconds of training, the study's metric, its description",
    )


def status(options: argparse.Namespace) -> int:
    """Prints what a results directory holds and lacks."""
    from lorabench.commands import status_text
    from lorabench.record.store import Store

    print(status_text.status(Store.open(options.directory), options.cells))
    return 0


def add_table_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("directory", metavar="DIR", help="results directory, or a file of studies/paper/")
    c.add_argument(
        "--format", metavar="FORMAT", help=f"{', '.join(plugins.names('exporters'))} (default: text for a terminal)"
    )
    c.add_argument("-o", "--output", metavar="FILE", help="where it is written (default: standard output)")


def table(options: argparse.Namespace) -> int:
    """Prints or writes the table of conditions, or one of the literature."""
    if options.directory.endswith((".yaml", ".yml")):
        emit(table_text(_paper(options.directory), options.format), options.output)
        return 0
    from lorabench.record.store import Store
    from lorabench.report.tables import study_table

    store = Store.open(options.directory)
    with startup.uncollected():
        emit(table_text(study_table(store), options.format), options.output)
    return say_unreadable(store)


def _paper(path: str) -> Table:
    from lorabench.commands import parameters_text
    from lorabench.config.published_tables import is_paper
    from lorabench.config.source import read_source

    source = read_source(path)
    if not is_paper(source):
        raise LorabenchError(
            f"{path} is a study: run it first (lorabench run {path}), then give its results directory (lorabench table"
            " DIR)"
        )
    with startup.predicting():
        return parameters_text.paper(source)


def add_report_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("directory", metavar="DIR", help="results directory")
    c.add_argument("-o", "--output", metavar="FILE", help="default: DIR/report.html")
    c.add_argument(
        "--compare",
        metavar="OTHER_DIR",
        help="another results directory, whose matching conditions are shown beside these",
    )


def report(options: argparse.Namespace) -> int:
    """Rewrites the HTML report."""
    from lorabench.api import write_report
    from lorabench.record.store import Store

    store = Store.open(options.directory)
    other = Store.open(options.compare) if options.compare else None
    path = Path(options.output) if options.output else store.folder / "report.html"
    try:
        with startup.uncollected():
            print(write_report(store, path, other=other))
    except OSError as e:
        raise StoreError(f"{path} cannot be written ({e.strerror}); choose another file with -o FILE") from None
    return say_unreadable(store)


def add_explain_options(c: argparse.ArgumentParser) -> None:
    c.add_argument(
        "cell",
        metavar="CELL_OR_CONDITION",
        help=(
            "id of a cell, or its beginning; or a condition as tables and runs call it: 'LoRA r=8 nf4', 'lora rank 8,"
            " seed 0'"
        ),
    )
    c.add_argument(
        "--in", metavar="DIR", dest="directory", help="results directory (default: all under reports/ and runs/)"
    )


def explain(options: argparse.Namespace) -> int:
    """Prints everything about a cell or a condition."""
    from lorabench.commands import explain_text
    from lorabench.workflows import cell_lookup

    print(explain_text.explain_named(cell_lookup.find(options.cell, options.directory)))
    return 0
