"""The command import: results of other programs as a results directory."""

from __future__ import annotations

import argparse

from lorabench import plugins, startup
from lorabench.commands.output import note, say
from lorabench.errors import LorabenchError
from lorabench.formatting import plural


def add_import_options(c: argparse.ArgumentParser) -> None:
    kinds = "; ".join(f"{n}: {plugins.describe('importers', n)}" for n in plugins.names("importers"))
    c.add_argument("importer", metavar="FORMAT", help=f"what is read ({kinds})")
    c.add_argument("paths", metavar="PATH", nargs="+", help="files, or folders that hold them")
    c.add_argument("--out", metavar="DIR", required=True, help="results directory to be made: new or empty")
    c.add_argument("--name", metavar="NAME", help="of the study (default: the directory's)")
    c.add_argument(
        "--metric",
        metavar="NAME",
        help="that answers the study (default: accuracy, or the first that has a better and worse)",
    )
    c.add_argument(
        "--map",
        metavar="COLUMN=FIELD",
        action="append",
        default=[],
        help="csv: what a column is: --map score=accuracy --map r=rank; columns that are called as a field need none",
    )
    c.add_argument(
        "--unit",
        choices=("auto", "percent", "fraction"),
        default="auto",
        help="csv: of accuracies (default: percent where a value is above 1)",
    )
    for way, words in (("higher", "more"), ("lower", "less")):
        c.add_argument(
            f"--{way}-is-better",
            metavar="NAME",
            action="append",
            default=[],
            help=f"csv: a metric that lorabench does not know, of which {words} is better",
        )


def import_results(options: argparse.Namespace) -> int:
    """Reads what can be read, tells what cannot, and says where the table and report are; 2 where something was
    refused."""
    from lorabench.api.imports import import_results as read

    pairs = [text.rpartition("=") for text in options.map]
    if odd := next((text for text in options.map if "=" not in text.strip("=")), None):
        raise LorabenchError(f"--map {odd} is no COLUMN=FIELD; write --map score=accuracy")
    refused: list[str] = []
    with startup.uncollected():
        results = read(
            options.importer,
            options.paths,
            options.out,
            name=options.name,
            columns={column.strip(): field.strip() for column, _, field in pairs} or None,
            metric=options.metric,
            unit=options.unit,
            higher_is_better=options.higher_is_better,
            lower_is_better=options.lower_is_better,
            refused=refused.append,
        )
    for sentence in refused:
        say(f"left out: {sentence}", 2)
    cells, source = results.store.plan(), results.study.imported
    conditions = len({c.condition_id for c in cells})
    print(f"{plural(len(cells), 'result')} of {plural(conditions, 'condition')} imported into {results.store.folder}")
    for sentence in source.notes if source else ():
        note(sentence)
    print(f"table:  lorabench table {options.out}\nreport: {results.store.folder / 'report.html'}")
    return 2 if refused else 0
