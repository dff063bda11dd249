"""The commands. Thin: each imports what it needs when it runs, so that --help takes milliseconds.

Exit codes: 0 done; 1 a cell did not finish, or the report could not be written; 2 a mistake that the user can mend;
130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lorabench import __version__, plugins
from lorabench.errors import LorabenchError, StoreError

if TYPE_CHECKING:
    from lorabench.runner.plan import Plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses, runs one command, and turns what a user can mend into one sentence."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(argv)
    try:
        code: int = options.command(options)
        sys.stdout.flush()
        return code
    except LorabenchError as e:
        return _say(str(e), 2)
    except BrokenPipeError:  # `lorabench status DIR | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        return 141  # what a shell shows for SIGPIPE
    except KeyboardInterrupt as e:
        code = e.code if isinstance(e, _Terminated) else 130
        again = f"; what has finished is kept, the same command goes on from there: {shlex.join(['lorabench', *argv])}"
        return _say("stopped" + (again if argv[:1] == ["run"] and "--dry-run" not in argv else ""), code)


def run(options: argparse.Namespace) -> int:
    """Runs a study, then prints its table."""
    from lorabench.runner.crew import Crew

    signal.signal(signal.SIGTERM, _terminate)
    with Crew(options.executor, options.workers) as crew:  # first of all: its imports take 5 s beside what follows
        from lorabench.spec.load import read_study
        from lorabench.spec.source import override, read_source

        source = override(read_source(options.study), tuple(options.set))
        study = read_study(source)
        if options.dry_run:
            return _dry_run(study, options.out, crew, source)
        from lorabench.runner.progress import open_progress
        from lorabench.runner.run import run as run_study

        plan = run_study(study, options.out, crew=crew, progress=open_progress(), source=source)
    return _finish(plan)


def _dry_run(study: Any, out: str | None, crew: Any, source: Any) -> int:
    from lorabench import show
    from lorabench.runner.plan import make_plan
    from lorabench.runner.run import check

    plan = make_plan(study, out)
    if plan.pending:
        check(plan, crew, source)
    print(show.dry_run(plan))
    return 0


def _finish(plan: Plan) -> int:
    """Table, report and what did not finish; a fault of the report loses nothing of the run."""
    from lorabench import api, show

    code = 0
    try:
        print()
        print(_table_text(plan.store))
        paths = api.write_outputs(plan.store)
        print(f"\ntable:  {paths[0]}\nreport: {paths[1]}")
    except BrokenPipeError:
        raise
    except Exception as e:  # whatever it is, the results are on disk
        reason, folder = " ".join(str(e).split()) or "no message", plan.store.folder
        told = f"the report could not be written ({type(e).__name__}: {reason})"
        code = _say(f"{told}; all results are in {folder}, try again with: lorabench report {folder}", 1)
    rows = show.unfinished(plan)
    if rows:
        print(f"\n{len(rows)} of {len(plan.cells)} cells did not finish:", *rows, sep="\n")
        code = 1
    return code


def status(options: argparse.Namespace) -> int:
    """Prints what a results directory holds and lacks."""
    from lorabench import show
    from lorabench.record.store import Store

    print(show.status(Store.open(options.directory)))
    return 0


def table(options: argparse.Namespace) -> int:
    """Prints or writes the table of conditions."""
    from lorabench.record.store import Store

    store = Store.open(options.directory)
    if options.format is None:
        _emit(_table_text(store), options.output)
    else:
        exporter = plugins.load("exporters", options.format)
        from lorabench.report.tables import study_table

        _emit(exporter.export(study_table(store)), options.output)
    return 0


def report(options: argparse.Namespace) -> int:
    """Writes the HTML report anew."""
    from lorabench.record.store import Store
    from lorabench.report.page import write_report

    store = Store.open(options.directory)
    path = Path(options.output) if options.output else store.folder / "report.html"
    try:
        print(write_report(store, path))
    except OSError as e:
        raise StoreError(f"{path} cannot be written ({e.strerror}); choose another file with -o FILE") from None
    return 0


def explain(options: argparse.Namespace) -> int:
    """Prints all that is known of a cell."""
    from lorabench import show

    print(show.explain(*show.find_cell(options.cell, options.directory)))
    return 0


def models(options: argparse.Namespace) -> int:
    """Lists the shipped models."""
    from lorabench import show

    print(show.models())
    return 0


def schema(options: argparse.Namespace) -> int:
    """Prints the JSON Schema of the study file."""
    from lorabench import show

    print(show.schema())
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Prints what this machine has and what works on it."""
    from lorabench.doctor import report as examine

    print(examine())
    return 0


def _list(kind: str) -> Callable[[argparse.Namespace], int]:
    def command(options: argparse.Namespace) -> int:
        from lorabench import show

        print(show.plugin_list(kind))
        return 0

    return command


def _table_text(store: Any) -> str:
    import shutil

    from lorabench.report.tables import as_text, study_table

    # a file or a pipe has no width: nothing is to be folded there
    return str(as_text(study_table(store), shutil.get_terminal_size().columns if sys.stdout.isatty() else 200)).rstrip("\n")


def _emit(text: str, output: str | None) -> None:
    if output is None:
        print(text.rstrip("\n"))
        return
    try:
        Path(output).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    except OSError as e:
        raise StoreError(f"{output} cannot be written ({e.strerror}); choose another file with -o FILE") from None


def _say(sentence: str, code: int) -> int:
    print(f"lorabench: {sentence}", file=sys.stderr, flush=True)
    return code


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""

    code = 128 + signal.SIGTERM


def _terminate(number: int, frame: Any) -> NoReturn:
    raise _Terminated


class _Parser(argparse.ArgumentParser):
    """One sentence and exit code 2, with the nearest name where a word is unknown."""

    def error(self, message: str) -> NoReturn:
        words = [*_COMMANDS, *(o for a in self._all_actions() for o in a.option_strings)]
        wrong = next((w for w in message.replace("'", " ").replace("=", " ").split() if w not in words and (near := _near(w, words))), None)
        hint = f"; did you mean {near}?" if wrong and ("invalid choice" in message or "unrecognized" in message) else ""
        place = self.prog.partition(" ")[2]
        sys.exit(_say(f"{message}{hint}; see: lorabench {place + ' ' if place else ''}--help", 2))

    def _all_actions(self) -> list[argparse.Action]:
        below = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        return [*self._actions, *(x for a in below for p in a.choices.values() for x in p._actions)]


def _near(word: str, words: list[str]) -> str:
    return next(iter(difflib.get_close_matches(word, words, n=1, cutoff=0.6)), "")


_COMMANDS = ("run", "status", "table", "report", "explain", "models", "methods", "quantizations", "tasks", "executors", "schema", "doctor")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lorabench", description="What rank, method and quantization cost and bring when a language model is fine-tuned.")
    parser.add_argument("--version", action="version", version=f"lorabench {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")

    def add(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        return command

    c = add("run", run, "run what a study wants and has not yet; then its table and report")
    c.add_argument("study", metavar="STUDY.yaml")
    c.add_argument("--out", metavar="DIR", help="results directory (default: reports/<study name>)")
    c.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a setting of the study: --set training.steps=50")
    c.add_argument("--workers", metavar="N", type=int, default=1, help="cells that run at the same time (default: 1)")
    c.add_argument("--executor", metavar="NAME", default="local", help="where cells run (default: local; see: lorabench executors)")
    c.add_argument("--dry-run", action="store_true", help="list and check the cells, run nothing")
    c = add("status", status, "what a results directory holds and lacks")
    c.add_argument("directory", metavar="DIR")
    c = add("table", table, "the table of a study's conditions")
    c.add_argument("directory", metavar="DIR")
    c.add_argument("--format", metavar="FORMAT", help=f"{', '.join(plugins.names('exporters'))} (default: text for a terminal)")
    c.add_argument("-o", "--output", metavar="FILE")
    c = add("report", report, "write the HTML report anew")
    c.add_argument("directory", metavar="DIR")
    c.add_argument("-o", "--output", metavar="FILE", help="default: DIR/report.html")
    c = add("explain", explain, "all that is known of a cell: settings, readings, files, environment")
    c.add_argument("cell", metavar="CELL", help="id of a cell, or its beginning")
    c.add_argument("--in", metavar="DIR", dest="directory", help="results directory (default: all under reports/)")
    add("models", models, "the models that ship")
    for kind in ("methods", "quantizations", "tasks", "executors"):
        add(kind, _list(kind), f"the {kind} there are")
    add("schema", schema, "JSON Schema of the study file, for editors")
    add("doctor", doctor, "device, memory, versions, and what works here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
