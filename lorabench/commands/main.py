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

from lorabench import plugins, startup
from lorabench.commands.output import drawn, emit, left_out, note, say
from lorabench.commands.parser import make_parser, modules, settings_of
from lorabench.errors import LorabenchError, StoreError

if TYPE_CHECKING:
    from lorabench.runner.plan import Plan


def entry() -> NoReturn:
    """The command lorabench."""
    startup.settle()
    startup.leave(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses, runs one command, and turns what a user can mend into one sentence."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    options = make_parser().parse_args(argv)
    try:
        code = COMMANDS[options.command](options)
        sys.stdout.flush()
        return code
    except LorabenchError as e:
        return say(str(e), 2)
    except BrokenPipeError:  # `lorabench status DIR | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        return 141  # what a shell shows for SIGPIPE
    except KeyboardInterrupt as e:
        code = e.code if isinstance(e, _Terminated) else 130
        again = f"; what has finished is kept, the same command goes on from there: {shlex.join(['lorabench', *argv])}"
        return say("stopped" + (again if argv[:1] == ["run"] and "--dry-run" not in argv else ""), code)


def run(options: argparse.Namespace) -> int:
    """Runs a study, then prints its table."""
    from lorabench.runner.worker_pool import WorkerPool

    signal.signal(signal.SIGTERM, _terminate)
    with WorkerPool(
        options.executor, options.workers
    ) as pool:  # first of all: its imports take 5 s beside what follows
        from lorabench.config.load import read_study
        from lorabench.config.source import override, read_source

        source = override(read_source(options.study), tuple(options.set))
        study = read_study(source)
        if options.dry_run:
            return _dry_run(study, options, pool, source)
        from lorabench import api
        from lorabench.runner.display import open_progress
        from lorabench.runner.run import run as run_study

        plan = run_study(
            study,
            options.out,
            pool=pool,
            progress=open_progress(),
            source=source,
            skip_infeasible=options.skip_infeasible,
            frame=api.cells_frame,
        )
    return _finish(plan)


def _dry_run(study: Any, options: argparse.Namespace, pool: Any, source: Any) -> int:
    from lorabench.commands import results
    from lorabench.runner.plan import make_plan
    from lorabench.runner.run import check

    plan = make_plan(study, options.out)
    if plan.pending:
        plan = check(plan, pool, source, options.skip_infeasible)
    print(results.dry_run(plan))
    return 0


def _finish(plan: Plan) -> int:
    """Table, report and what did not finish; a fault of the report loses nothing of the run."""
    from lorabench import api
    from lorabench.commands import results
    from lorabench.report.tables import study_table

    code = 0
    try:
        print()
        print(drawn(study_table(plan.store)))
        paths = api.write_outputs(plan.store)
        print(f"\ntable:  {paths[0]}\nreport: {paths[1]}")
    except BrokenPipeError:
        raise
    except Exception as e:  # whatever it is, the results are on disk
        reason, folder = " ".join(str(e).split()) or "no message", plan.store.folder
        told = f"the report could not be written ({type(e).__name__}: {reason})"
        code = say(f"{told}; all results are in {folder}, try again with: lorabench report {folder}", 1)
    rows = results.unfinished(plan)
    if rows:
        print(f"\n{len(rows)} of {len(plan.cells)} cells did not finish:", *(line for _, line in rows), sep="\n")
    if not all(expected for expected, _ in rows):
        code = 1
    return code


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

        plan = repeat(
            store,
            (*options.cells, *options.cell),
            again=options.again,
            pool=pool,
            progress=open_progress(),
            frame=api.cells_frame,
        )
    return _finish(plan)


def status(options: argparse.Namespace) -> int:
    """Prints what a results directory holds and lacks."""
    from lorabench.commands import results
    from lorabench.record.store import Store

    print(results.status(Store.open(options.directory), options.cells))
    return 0


def table(options: argparse.Namespace) -> int:
    """Prints or writes the table of conditions, or one of the literature."""
    if options.directory.endswith((".yaml", ".yml")):
        emit(drawn(_paper(options.directory), options.format), options.output)
        return 0
    from lorabench.record.store import Store
    from lorabench.report.tables import study_table

    store = Store.open(options.directory)
    with startup.uncollected():
        emit(drawn(study_table(store), options.format), options.output)
    return left_out(store)


def _paper(path: str) -> Any:
    from lorabench.commands import predict
    from lorabench.config.published_tables import is_paper
    from lorabench.config.source import read_source

    source = read_source(path)
    if not is_paper(source):
        raise LorabenchError(
            f"{path} is a study: run it first (lorabench run {path}), then give its results directory (lorabench table DIR)"
        )
    with startup.predicting():
        return predict.paper(source)


def report(options: argparse.Namespace) -> int:
    """Writes the HTML report anew."""
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
    return left_out(store)


def explain(options: argparse.Namespace) -> int:
    """Prints all that is known of a cell, or of a condition."""
    from lorabench.commands import results
    from lorabench.workflows import cell_lookup

    print(results.explain_named(cell_lookup.find(options.cell, options.directory)))
    return 0


def estimate(options: argparse.Namespace) -> int:
    """Predicts the memory of one training step."""
    from lorabench.commands import predict

    with startup.predicting():
        print(predict.estimate(settings_of(options), options.gpu, options.json))
    return 0


def plan(options: argparse.Namespace) -> int:
    """Predicts what each condition of a study needs on a card."""
    from lorabench.commands import predict
    from lorabench.config.source import override, read_source

    with startup.predicting():
        print(predict.plan(override(read_source(options.study), tuple(options.set)), options.gpu, options.json))
    return 0


def recommend(options: argparse.Namespace) -> int:
    """Recommends what to take for a model on a card."""
    from lorabench.advice import text
    from lorabench.commands import predict
    from lorabench.workflows import recommend as advisor

    if options.emit and not options.output:
        raise LorabenchError("--emit writes files; say where with -o DIR")
    if options.entry is not None and not options.emit:
        raise LorabenchError(
            f"--entry says which recommendation is written, but nothing is; add --emit and one of {', '.join(plugins.names('emitters'))}"
        )
    if options.output and not options.emit:
        raise LorabenchError(
            f"-o says where files go, but none are asked for; add --emit and one of {', '.join(plugins.names('emitters'))}"
        )
    emitter = plugins.load("emitters", options.emit) if options.emit else None
    with startup.predicting():
        answer = advisor.recommend(
            options.model,
            options.gpu,
            options.sequence_length,
            batch_size=options.batch_size,
            examples=options.examples,
            tokens=options.tokens,
            studies=options.studies,
            priority=options.priority,
            tolerated_loss=options.tolerated_loss,
            task=options.task,
            nearby=() if options.studies else advisor.stored(),
            timings=predict.HERE,
        )
    print(text.as_json(answer) if options.json else text.as_text(answer))
    if emitter is not None:
        for path in advisor.emit(answer, emitter.emit, options.entry or 1, options.output):
            print(path, file=sys.stderr if options.json else sys.stdout)
    return 0


def parameters(options: argparse.Namespace) -> int:
    """Counts trainable parameters by rank."""
    from lorabench.commands import predict

    targets = modules(options.target_modules) or "all-linear"
    with startup.predicting():
        print(predict.parameters(options.model, options.rank, targets, options.method, options.json))
    return 0


def gpus(options: argparse.Namespace) -> int:
    """Lists the known cards."""
    from lorabench.commands import catalogue

    print(catalogue.gpus())
    return 0


def spectrum(options: argparse.Namespace) -> int:
    """Decomposes what an adapter, a cell or a checkpoint learned."""
    from lorabench.commands import spectrum as shown
    from lorabench.workflows import spectrum as workflow

    found = workflow.spectrum(
        options.source,
        options.base,
        options.compare,
        options.alpha,
        workflow.cell_finder(options.directory, note),
        options.intruders,
    )
    if options.html:
        path = shown.write_page(found, options.html)
        if not options.json:
            print(path)
            return 0
    print(shown.spectrum_json(found) if options.json else shown.spectrum_text(found))
    return 0


def truncate(options: argparse.Namespace) -> int:
    """Writes an adapter cut to a lower rank."""
    from lorabench.workflows import spectrum as workflow

    print(
        workflow.truncate(
            options.source,
            options.output,
            options.rank,
            options.energy,
            options.per_module,
            options.alpha,
            workflow.cell_finder(options.directory, note),
        )
    )
    return 0


def quantization_error(options: argparse.Namespace) -> int:
    """Measures what quantisation alone does to a model's weights."""
    from lorabench.commands import spectrum as shown
    from lorabench.workflows import spectrum as workflow

    errors = workflow.quantization_errors(
        options.model, options.quantization, options.adapter, workflow.cell_finder(options.directory, note)
    )
    if options.html:
        path = shown.write_errors_page(options.model, errors.errors, options.html, options.adapter, errors.note)
        if not options.json:
            print(path)
            return 0
    print(shown.errors_json(errors) if options.json else shown.errors_text(errors.errors, errors.note))
    return 0


def models(options: argparse.Namespace) -> int:
    """Lists the shipped models, or what matches words."""
    from lorabench.commands import catalogue

    print(catalogue.models(" ".join(options.search)))
    return 0


def schema(options: argparse.Namespace) -> int:
    """Prints the JSON Schema of the study file."""
    from lorabench.commands import results

    print(results.schema())
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Prints what this machine has and what works on it."""
    from lorabench.commands.doctor import report as machine

    print(machine())
    return 0


def plugin_list(options: argparse.Namespace) -> int:
    """Lists the plug-ins of a kind, which is the command's name, or all options of one task."""
    from lorabench.commands import results

    name = getattr(options, "name", None)
    print(results.task_options(name) if name else results.plugin_list(options.command))
    return 0


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""

    code = 128 + signal.SIGTERM


def _terminate(number: int, frame: Any) -> NoReturn:
    raise _Terminated


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    **{
        f.__name__.replace("_", "-"): f
        for f in (run, evaluate, status, table, report, explain, estimate, plan, recommend, parameters, gpus)
    },
    **{f.__name__.replace("_", "-"): f for f in (spectrum, truncate, quantization_error, models, schema, doctor)},
    **dict.fromkeys(("methods", "quantizations", "tasks", "executors", "emitters"), plugin_list),
}
