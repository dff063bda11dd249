"""The child's main: a process that imports the engine once and runs one cell after another.

    python -m lorabench.runner.worker COMMANDS REPLIES ENGINE PREDICTOR

COMMANDS and REPLIES are inherited pipe ends that carry one JSON object a line; standard output and error belong to
whatever the libraries print, and go to the log.txt of the cell that runs. ENGINE is the package with
`check.check_cells`, `cell.run_cell` and `cell.repeat_cell`, PREDICTOR the module with `predict_memory`.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lorabench import startup
from lorabench.formatting import error_line
from lorabench.runner.messages import calibrations_of
from lorabench.runner.packs import KEPT, TrainedPacks
from lorabench.runner.patience import BEAT_SECONDS
from lorabench.runner.threads import FreeThreads, limit_threads

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event, Foretold, Problem
    from lorabench.record.card_need import CardNeed
    from lorabench.record.memory_prediction import MemoryPrediction
    from lorabench.record.result import CellResult, Phase
    from lorabench.runner.messages import Command, Reply

    Check = Callable[[tuple[Cell, ...]], tuple[Problem, ...]]
    Report = Callable[[Event], None]

LATE = ("transformers.models.auto.modeling_auto", "peft")


class Engine(NamedTuple):
    """The functions that a worker serves."""

    check_cells: Check
    foretell: Callable[..., Foretold]
    """of the memory of cells; a folder of calibrations may follow them"""
    run_cell: Callable[..., CellResult]
    """of a cell, its folder, a report, and what the cell learned in a pack where it did"""
    repeat_cell: Callable[[Cell, Path, CellResult, Sequence[Phase], Report], CellResult]
    predict_memory: Callable[..., MemoryPrediction | None]
    """of a cell; a folder of calibrations may follow it"""
    card_needs: Callable[..., Mapping[str, CardNeed]]
    """by id what cells ask a card for; a folder of calibrations may follow them"""
    packs: TrainedPacks
    disk_bytes: Callable[[tuple[Cell, ...]], dict[str, dict[str, int]]]
    """what of the disk cells will take, by id"""


def _engine(package: str, predictor: str) -> Engine:
    """Of an engine's package and a predictor's module, imported."""
    from lorabench.engine.events import Foretold

    cell, prediction = importlib.import_module(f"{package}.cell"), importlib.import_module(predictor)
    return Engine(
        importlib.import_module(f"{package}.check").check_cells,
        getattr(prediction, "foretell", lambda *cells: Foretold()),
        cell.run_cell,
        cell.repeat_cell,
        prediction.predict_memory,
        getattr(prediction, "card_needs", lambda *cells: {}),
        TrainedPacks(package),
        getattr(prediction, "disk_bytes", lambda cells: {}),
    )


def main(arguments: list[str]) -> None:
    """Serves commands until the runner closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the runner decides
    startup.settle()
    faulthandler.enable()  # a segfault leaves its stack in log.txt
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what was printed before a crash must be in the log
    commands = _commands(int(arguments[0]))  # before the slow import, so that a dead runner is noticed in it, too
    send = _sender(int(arguments[1]))
    threading.Thread(target=_beat, args=(send,), daemon=True, name="heartbeat").start()
    with startup.uncollected():
        engine = _engine(arguments[2], arguments[3])
        if (
            "torch" in sys.modules
        ):  # what an engine that uses it imports late: ~3 s that would count as the first cell's load_seconds
            for name in LATE:
                importlib.import_module(name)
    send({"ready": True})
    while True:
        command = commands.get()
        if command["do"] == "check":
            send(_check(engine, command))
        elif command["do"] == "needs":
            needs = engine.card_needs(tuple(_cell(c) for c in command["cells"]), *_calibrations(command))
            send({"needs": {name: dataclasses.asdict(need) for name, need in needs.items()}})
        elif command["do"] == "limit":
            limit_threads(command["threads"])
        else:
            reply = _run(engine, command, send)
            send(reply)
            if reply["last"]:
                os._exit(0)


def is_spoilt(cell: Cell, result: CellResult | None) -> bool:
    """Whether the next cell needs a fresh process: a fault on a GPU may leave its context dead, and bitsandbytes never
    frees paged memory."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    if result is None:
        return True
    later = any(f.kind != "OutOfMemoryError" for f in result.faults)  # of a cell that has finished
    return result.outcome == "failed" or later or cell.training.optimizer.startswith("paged")


def _check(engine: Engine, command: Command) -> Reply:
    from lorabench.errors import LorabenchError

    try:
        cells = tuple(_cell(c) for c in command["cells"])
        problems = engine.check_cells(cells)
        sizes: dict[str, dict[str, int]] = {}
        at_once = 1
        if not any(p.fatal for p in problems):  # what cannot be built has no memory to be predicted
            foretold = engine.foretell(cells, *_calibrations(command))
            problems, at_once, sizes = (*problems, *foretold.problems), foretold.at_once, engine.disk_bytes(cells)
        return {"problems": [dataclasses.asdict(p) for p in problems], "disk": sizes, "at_once": at_once}
    except LorabenchError as e:
        return {"error": {"kind": type(e).__name__, "message": str(e)}}
    except Exception:
        return {"broken": traceback.format_exc()}


def _run(engine: Engine, command: Command, send: Callable[[Reply], None]) -> Reply:
    cell, folder = _cell(command["cell"]), Path(command["folder"])
    result: CellResult | None = None
    threads = FreeThreads.of()

    def report(event: Event) -> None:
        send({"event": dataclasses.asdict(event)})
        threads.look()

    with _printing_to(folder / "log.txt"):
        try:
            if command["do"] == "repeat":
                result = _repeated(engine, cell, folder, command, report)
            else:
                result = _predicted(engine, cell, folder, command, report)
            reply: Reply = {"result": result.model_dump(mode="json", by_alias=True)}
        except BaseException as e:  # SystemExit as well: a library that calls exit() ends its cell, not the study
            traceback.print_exc()
            reply = {"fault": {"kind": type(e).__name__, "message": error_line(e)}}
    reply["last"] = is_spoilt(cell, result)
    return reply


def _predicted(engine: Engine, cell: Cell, folder: Path, command: Command, report: Report) -> CellResult:
    """Runs a cell with its prediction beside what is measured, or skips what is predicted not to fit."""
    from lorabench.engine.events import Event

    prediction = _prediction(engine, cell, command)
    if prediction is None:
        return _run_cell(engine, cell, folder, command, report)
    if command["skip_infeasible"] and prediction.fits is False:
        return prediction.skipped(cell)
    if prediction.warning:
        report(Event(cell.id, "foresee", warning=prediction.warning))
    result = _run_cell(engine, cell, folder, command, report)
    return result.model_copy(update={"readings": (*result.readings, *prediction.readings())})


def _run_cell(engine: Engine, cell: Cell, folder: Path, command: Command, report: Report) -> CellResult:
    """Runs a cell, with what it learned in a pack where it has one."""
    if command.get("cards", 1) > 1:
        sharded = importlib.import_module(f"{engine.packs.engine}.sharded")
        trained = sharded.train_sharded(cell, folder, command["cards"], report)
        return engine.run_cell(cell, folder, report, *([] if trained is None else [trained]))
    others = [_cell(c) for c in command.get("pack", ())]
    packed = engine.packs.training(
        cell,
        others,
        lambda c: _prediction(engine, c, command, command.get("beside", 1)),
        report,
        folder.parent.parent / KEPT,
        command.get("gaining", False),
    )
    return engine.run_cell(cell, folder, report, *([] if packed is None else [packed]))


def _prediction(engine: Engine, cell: Cell, command: Command, parts: int = 1) -> MemoryPrediction | None:
    """What a cell needs of what is its own of the card, or of one of so many parts of what is free; None where it is
    trained by several, or nothing can be said."""
    if command.get("cards", 1) > 1:
        return None
    prediction = engine.predict_memory(cell, *_calibrations(command))
    if prediction is None:
        return None
    own = min(prediction.available_bytes // parts, command.get("available", prediction.available_bytes))
    return dataclasses.replace(prediction, available_bytes=own)


def _calibrations(command: Command) -> tuple[Path, ...]:
    folder = calibrations_of(command)
    return () if folder is None else (folder,)


def _repeated(engine: Engine, cell: Cell, folder: Path, command: Command, report: Report) -> CellResult:
    """Phases of a trained cell, from its saved weights; one whose worker was lost after training gets its prediction
    now, on a CPU, where that hangs on the cell alone (on no calibration and no share of a card)."""
    from lorabench.record.result import CellResult

    before = CellResult.model_validate(command["before"])
    result = engine.repeat_cell(cell, folder, before, command["phases"], report)
    devices = {r.environment.device if r.environment else None for r in (before, result)}
    predicted = any(r.metric == "predicted_train_peak_bytes" for r in before.readings)
    if before.outcome == "finished" or predicted or devices != {"cpu"}:
        return result
    prediction = _prediction(engine, cell, command)
    readings = () if prediction is None else prediction.readings()
    return result.model_copy(update={"readings": (*result.readings, *readings)})


def _cell(plain: object) -> Cell:
    from lorabench.config.study import Cell

    return Cell.model_validate(plain)


def _commands(descriptor: int) -> queue.Queue[Command]:
    """Commands as they come, read by a thread: the end of the pipe is the runner's death, and ours."""
    os.set_inheritable(descriptor, False)
    arrived: queue.Queue[Command] = queue.Queue()

    def read() -> None:
        with open(descriptor, encoding="utf-8") as lines:
            for line in lines:
                arrived.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True, name="commands").start()
    return arrived


def _beat(send: Callable[[Reply], None]) -> None:
    """Signs of life, as long as the runner listens."""
    with suppress(OSError):
        while True:
            send({"beat": True})
            time.sleep(BEAT_SECONDS)


def _sender(descriptor: int) -> Callable[[Reply], None]:
    os.set_inheritable(descriptor, False)
    stream = open(descriptor, "w", encoding="utf-8")  # noqa: SIM115  (lives as long as the process)
    lock = threading.Lock()

    def send(message: Reply) -> None:
        text = json.dumps(message)
        with lock:
            stream.write(text + "\n")
            stream.flush()

    return send


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Descriptors 1 and 2 lead to a file meanwhile, so that C libraries and children of ours write there, too."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for duplicate, descriptor in zip(before, (1, 2), strict=True):
            os.dup2(duplicate, descriptor)
            os.close(duplicate)


if __name__ == "__main__":
    main(sys.argv[1:])
