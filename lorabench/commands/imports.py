"""The command import: results of other programs as a results directory."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

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
        "--reference",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="the condition that others are compared with: --reference method=lora --reference method.rank=8 (default:"
        " full fine-tuning)",
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

    columns = _pairs("--map", options.map, "score=accuracy")
    reference = _pairs("--reference", options.reference, "method=lora")
    refused: list[str] = []
    with startup.uncollected():
        results = read(
            options.importer,
            options.paths,
            options.out,
            name=options.name,
            columns=columns or None,
            reference=reference or None,
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


def _pairs(option: str, texts: Sequence[str], example: str) -> dict[str, str]:
    """ "a=b" of each text, split at its last sign: a column's name may hold one."""
    if odd := next((text for text in texts if "=" not in text.strip("=")), None):
        raise LorabenchError(f"{option} {odd} has no value; write {option} {example}")
    return {name.strip(): value.strip() for name, _, value in (text.rpartition("=") for text in texts)}
