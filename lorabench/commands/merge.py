"""The command merge: results directories from several machines as one."""

from __future__ import annotations

import argparse

from lorabench import startup
from lorabench.commands.output import note, say
from lorabench.formatting import plural


def add_merge_options(c: argparse.ArgumentParser) -> None:
    c.add_argument(
        "directories", metavar="DIR", nargs="+", help="results directories of one study, the preferred one first"
    )
    c.add_argument("-o", "--out", metavar="DIR", required=True, help="results directory to be made: new or empty")


def merge(options: argparse.Namespace) -> int:
    """Joins, tells what was taken from where, and says where the table and report are; 1 where a record was left
    out."""
    from lorabench.api.merging import merge as join

    told: list[str] = []
    with startup.uncollected():
        results = join(options.directories, options.out, told=told.append)
    left_out = [sentence for sentence in told if sentence.startswith("left out: ")]
    for sentence in told:
        if sentence not in left_out:
            note(sentence)
    for sentence in left_out:
        say(sentence, 1)
    cells, done = results.store.plan(), len(results.store.results())
    print(
        f"{done} of {plural(len(cells), 'cell')} have a result in {results.store.folder}\n"
        f"table:  lorabench table {options.out}\nreport: {results.store.folder / 'report.html'}"
    )
    return 1 if left_out else 0
