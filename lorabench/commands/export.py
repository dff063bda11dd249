"""The command export: a study's cells as runs of an experiment tracker."""

from __future__ import annotations

import argparse

from lorabench import plugins
from lorabench.commands.output import say_unreadable
from lorabench.formatting import plural


def add_export_options(c: argparse.ArgumentParser) -> None:
    kinds = "; ".join(f"{n}: {plugins.describe('trackers', n)}" for n in plugins.names("trackers"))
    c.add_argument("tracker", metavar="TRACKER", help=f"where the runs go ({kinds})")
    c.add_argument("directory", metavar="DIR", help="results directory")


def export(options: argparse.Namespace) -> int:
    """Puts every result where it is not yet, and says where that is."""
    from lorabench.record.store import Store
    from lorabench.workflows.tracked_study import export_study

    store = Store.open(options.directory)
    done = export_study(store, options.tracker)
    also = [f"{done.known} were there already"] if done.known else []
    also += [f"{plural(done.without_result, 'cell')} without a result"] if done.without_result else []
    print(f"{plural(done.new, 'cell')} exported{''.join(f', {words}' for words in also)}\n{done.place}")
    return say_unreadable(store)
