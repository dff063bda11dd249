"""The commands. Thin: each imports what it needs when it runs, so that --help takes milliseconds.

Exit codes: 0 done; 1 a cell did not finish, or the report could not be written; 2 a mistake that the user can mend;
130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lorabench import own_process, plugins, quick
from lorabench.arguments import make_parser, modules, settings_of
from lorabench.errors import LorabenchError, StoreError

if TYPE_CHECKING:
    from lorabench.runner.plan import Plan


def entry() -> NoReturn:
    """The command lorabench."""
    own_process.settle()
    quick.leave(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses, runs one command, and turns what a user can mend into one sentence."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    options = make_parser().parse_args(argv)
    try:
        code = COMMANDS[options.command](options)
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

        plan = run_study(study, options.out, crew=crew, progress=open_progress(), source=source, skip_infeasible=options.skip_infeasible)
    return _finish(plan)


def _dry_run(study: Any, out: str | None, crew: Any, source: Any) -> int:
    from lorabench import show
    from lorabench.runner.plan import make_plan
    from lorabench.runner.run import check

    plan = make_plan(study, out)
    if plan.pending:
        plan = check(plan, crew, source)
    print(show.dry_run(plan))
    return 0


def _finish(plan: Plan) -> int:
    """Table, report and what did not finish; a fault of the report loses nothing of the run."""
    from lorabench import api, show
    from lorabench.report.tables import study_table

    code = 0
    try:
        print()
        print(_drawn(study_table(plan.store)))
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
        print(f"\n{len(rows)} of {len(plan.cells)} cells did not finish:", *(line for _, line in rows), sep="\n")
    if not all(expected for expected, _ in rows):
        code = 1
    return code


def status(options: argparse.Namespace) -> int:
    """Prints what a results directory holds and lacks."""
    from lorabench import show
    from lorabench.record.store import Store

    print(show.status(Store.open(options.directory)))
    return 0


def table(options: argparse.Namespace) -> int:
    """Prints or writes the table of conditions, or one of the literature."""
    if options.directory.endswith((".yaml", ".yml")):
        _emit(_drawn(_paper(options.directory), options.format), options.output)
        return 0
    from lorabench.record.store import Store
    from lorabench.report.tables import study_table

    store = Store.open(options.directory)
    with quick.uncollected():
        _emit(_drawn(study_table(store), options.format), options.output)
    return _left_out(store)


def _paper(path: str) -> Any:
    from lorabench import forecast
    from lorabench.spec.paper import is_paper
    from lorabench.spec.source import read_source

    source = read_source(path)
    if not is_paper(source):
        raise LorabenchError(f"{path} is a study: run it first (lorabench run {path}), then give its results directory (lorabench table DIR)")
    return forecast.paper(source)


def report(options: argparse.Namespace) -> int:
    """Writes the HTML report anew."""
    from lorabench.record.store import Store
    from lorabench.report.page import write_report

    store = Store.open(options.directory)
    other = Store.open(options.compare) if options.compare else None
    path = Path(options.output) if options.output else store.folder / "report.html"
    try:
        with quick.uncollected():
            print(write_report(store, path, other=other))
    except OSError as e:
        raise StoreError(f"{path} cannot be written ({e.strerror}); choose another file with -o FILE") from None
    return _left_out(store)


def explain(options: argparse.Namespace) -> int:
    """Prints all that is known of a cell."""
    from lorabench import show

    print(show.explain(*show.find_cell(options.cell, options.directory)))
    return 0


def estimate(options: argparse.Namespace) -> int:
    """Predicts the memory of one training step."""
    from lorabench import forecast

    print(forecast.estimate(settings_of(options), options.gpu, options.json))
    return 0


def plan(options: argparse.Namespace) -> int:
    """Predicts what each condition of a study needs on a card."""
    from lorabench import forecast
    from lorabench.spec.source import override, read_source

    print(forecast.plan(override(read_source(options.study), tuple(options.set)), options.gpu, options.json))
    return 0


def recommend(options: argparse.Namespace) -> int:
    """Recommends what to take for a model on a card."""
    from lorabench import recommend as advisor
    from lorabench.advice import words

    if options.emit and not options.output:
        raise LorabenchError("--emit writes files; say where with -o DIR")
    if options.entry is not None and not options.emit:
        raise LorabenchError(f"--entry says which recommendation is written, but nothing is; add --emit and one of {', '.join(plugins.names('emitters'))}")
    if options.output and not options.emit:
        raise LorabenchError(f"-o says where files go, but none are asked for; add --emit and one of {', '.join(plugins.names('emitters'))}")
    emitter = plugins.load("emitters", options.emit) if options.emit else None
    answer = advisor.recommend(
        options.model, options.gpu, options.sequence_length, batch_size=options.batch_size, examples=options.examples, tokens=options.tokens,
        studies=options.studies, priority=options.priority, tolerated_loss=options.tolerated_loss, task=options.task,
    )  # fmt: skip
    print(words.as_json(answer) if options.json else words.as_text(answer))
    if emitter is not None:
        for path in advisor.emit(answer, emitter.emit, options.entry or 1, options.output):
            print(path, file=sys.stderr if options.json else sys.stdout)
    return 0


def parameters(options: argparse.Namespace) -> int:
    """Counts trainable parameters by rank."""
    from lorabench import forecast

    print(forecast.parameters(options.model, options.rank, modules(options.target_modules) or "all-linear", options.method, options.json))
    return 0


def gpus(options: argparse.Namespace) -> int:
    """Lists the known cards."""
    from lorabench import forecast

    print(forecast.gpus())
    return 0


def spectrum(options: argparse.Namespace) -> int:
    """Decomposes what an adapter, a cell or a checkpoint learned."""
    from lorabench import examine

    found = examine.spectrum(options.source, options.base, options.compare, options.alpha, examine.cell_finder(options.directory), options.intruders)
    if options.html:
        path = examine.write_page(found, options.html)
        if not options.json:
            print(path)
            return 0
    print(examine.spectrum_json(found) if options.json else examine.spectrum_text(found))
    return 0


def truncate(options: argparse.Namespace) -> int:
    """Writes an adapter cut to a lower rank."""
    from lorabench import examine

    print(examine.truncate(options.source, options.output, options.rank, options.energy, options.per_module, options.alpha, examine.cell_finder(options.directory)))
    return 0


def quantization_error(options: argparse.Namespace) -> int:
    """Measures what quantisation alone does to a model's weights."""
    from lorabench import examine

    errors = examine.quantization_errors(options.model, options.quantization, options.adapter, examine.cell_finder(options.directory))
    note = examine.stored_note(options.model)
    if options.html:
        path = examine.write_errors_page(options.model, errors, options.html, options.adapter, note)
        if not options.json:
            print(path)
            return 0
    print(examine.errors_json(options.model, errors, note) if options.json else examine.errors_text(errors, note))
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


def plugin_list(options: argparse.Namespace) -> int:
    """Lists the plug-ins of a kind, which is the command's name, or all options of one task."""
    from lorabench import show

    name = getattr(options, "name", None)
    print(show.task_options(name) if name else show.plugin_list(options.command))
    return 0


def _left_out(store: Any) -> int:
    """Tells of results that cannot be read, which tables and reports leave out."""
    told = store.unreadable()
    for sentence in told:
        _say(f"left out: {sentence}", 1)
    return 1 if told else 0


def _drawn(table: Any, form: str | None = None) -> str:
    import shutil

    if form is not None:
        return str(plugins.load("exporters", form).export(table))
    from lorabench.report.tables import as_text

    # a file or a pipe has no width: nothing is to be folded there
    return str(as_text(table, shutil.get_terminal_size().columns if sys.stdout.isatty() else 200)).rstrip("\n")


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


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    **{f.__name__.replace("_", "-"): f for f in (run, status, table, report, explain, estimate, plan, recommend, parameters, gpus)},
    **{f.__name__.replace("_", "-"): f for f in (spectrum, truncate, quantization_error, models, schema, doctor)},
    **dict.fromkeys(("methods", "quantizations", "tasks", "executors", "emitters"), plugin_list),
}
