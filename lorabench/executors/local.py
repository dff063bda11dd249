"""this machine: one worker process that imports the engine once and is replaced when a cell kills it

Opening a worker starts the process (torch and transformers take it some 5 s) and returns at once. The module imports
nothing that takes time, so that the process starts before the study is even read.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench import errors
from lorabench.runner.lost_cell import end_kind, end_words, failed, phase_words
from lorabench.runner.messages import with_calibrations
from lorabench.runner.oom_kills import counters, kills
from lorabench.runner.patience import ADVICE, LOOK_SECONDS, SILENT_SECONDS, Patience
from lorabench.runner.threads import thread_variables

if TYPE_CHECKING:
    from lorabench.config.study import Cell
    from lorabench.engine.events import Event, Problem
    from lorabench.record.card_need import CardNeed
    from lorabench.record.result import CellResult, Phase
    from lorabench.runner.messages import Command, Reply

ENGINE = "lorabench.engine"
PREDICTOR = "lorabench.memory.predict_cell"
NO_MEMORY = ("MemoryError", "allocate memory", "Memory allocation", "failed to map segment", "bad_alloc")
"""words of Python, the system, OpenBLAS, the loader and C++"""
FRAMES = ('File "', "Current thread", "Thread 0x", "Extension modules")
"""of what Python writes when a process aborts"""


def open_worker(
    threads: int | None = None, *, engine: str = ENGINE, predictor: str = PREDICTOR, silent: float = SILENT_SECONDS
) -> LocalWorker:
    """A worker of its own process with so many CPU threads; `engine` names the package that checks and runs cells,
    `predictor` the module that predicts them, `silent` the seconds without a sign of life after which it is killed."""
    return LocalWorker(threads, engine, predictor, silent)


class LocalWorker:
    """One worker process at a time, spoken to in JSON lines over two pipes."""

    packs = True
    """whether cells that it is given together may train at once"""

    def __init__(self, threads: int | None, engine: str, predictor: str, silent: float) -> None:
        self._threads, self._engine, self._predictor, self._silent = threads, engine, predictor, silent
        self._lock = threading.Lock()  # close() comes from another thread than run()
        self._closed = False
        self.disk: Mapping[str, Mapping[str, int]] = {}
        """what the cells of the last check will take of the disk, by id"""
        self.at_once = 1
        """those of them that the machine's memory holds at the same time"""
        self._cells = 1  # that share this machine's memory
        self._start()

    def limit(self, threads: int, cells: int) -> None:
        """Lets the cells that follow take so many threads at most, and what so many cells leave a pack of the
        memory."""
        self._threads, self._cells = threads, cells
        with suppress(BrokenPipeError):  # the next process begins with them
            self._send({"do": "limit", "threads": threads})

    def check(self, cells: tuple[Cell, ...], calibrations: Path | None = None) -> tuple[Problem, ...]:
        """What keeps these cells from running, as far as the models themselves can tell."""
        from lorabench.engine.events import read_problems

        return read_problems(self._answer({"do": "check"}, cells, calibrations)["problems"])

    def needs(self, cells: tuple[Cell, ...], calibrations: Path | None = None) -> dict[str, CardNeed]:
        """By id what cells ask a card of this machine for; of none that nothing can be said of, or on a CPU."""
        from lorabench.record.card_need import CardNeed

        plain = self._answer({"do": "needs"}, cells, calibrations)["needs"]
        return {name: CardNeed(**need) for name, need in plain.items()}

    def _answer(self, command: Command, cells: tuple[Cell, ...], calibrations: Path | None) -> Reply:
        """What the process says of cells before they run."""
        command["cells"] = [c.model_dump(mode="json") for c in cells]
        patience = Patience(silent=self._silent)
        try:
            self._send(with_calibrations(command, calibrations))
            for reply in self._replies(patience):
                if "problems" in reply or "needs" in reply:
                    self.disk = reply.get("disk", self.disk)
                    self.at_once = reply.get("at_once", self.at_once)
                    return reply
                if "error" in reply:
                    raise getattr(errors, reply["error"]["kind"], errors.LorabenchError)(reply["error"]["message"])
                if "broken" in reply:
                    raise RuntimeError(f"the check of the cells crashed:\n{reply['broken']}")
        except BrokenPipeError:
            pass
        words = patience.ended[1] if patience.ended else end_words(self._process.wait())
        raise errors.LorabenchError(f"the worker process {words} before the first cell{self._last_line()}")

    def run(
        self,
        cell: Cell,
        folder: Path,
        on_event: Callable[[Event], None],
        skip_infeasible: bool = False,
        calibrations: Path | None = None,
        pack: Sequence[Cell] = (),
        gaining: bool = False,
        *,
        cards: int = 1,
        available: int | None = None,
    ) -> CellResult:
        """Runs a cell, or skips it where it is predicted not to fit and that is wanted; whatever happens to the
        process, there is a result.

        cards: GPUs that train it together. available: bytes of its card that are its own, where others share it.
        """
        command = with_calibrations({"do": "run", "skip_infeasible": skip_infeasible}, calibrations)
        if pack:
            command["pack"], command["gaining"] = [c.model_dump(mode="json") for c in pack], gaining
            command["beside"] = self._cells
        if cards > 1:
            command["cards"] = cards
        if available is not None:
            command["available"] = available
        return self._ask(command, cell, folder, on_event)

    def repeat(
        self, before: CellResult, phases: tuple[Phase, ...], cell: Cell, folder: Path, on_event: Callable[[Event], None]
    ) -> CellResult:
        """Runs phases of a trained cell again, from the weights in its folder; whatever happens to the process, there
        is a result."""
        result = self._ask(
            {"do": "repeat", "before": before.model_dump(mode="json", by_alias=True), "phases": phases},
            cell,
            folder,
            on_event,
        )
        if (
            result.error is not None and before.outcome == "finished" and result.outcome != "finished"
        ):  # the process died: what was finished stays so
            return before.model_copy(
                update={"faults": (*before.faults, result.error.model_copy(update={"phase": phases[0]}))}
            )
        if result.error is not None and result.error.phase != "evaluate" and before.outcome != "finished":
            return before.model_copy(update={"error": result.error.model_copy(update={"phase": "evaluate"})})
        return result

    def _ask(self, command: Command, cell: Cell, folder: Path, on_event: Callable[[Event], None]) -> CellResult:
        from lorabench.engine.events import read_event
        from lorabench.record.result import CellResult

        started = time.time()
        last_event: Event | None = None
        if self._process.poll() is not None:
            self._start()
        limit = cell.training.time_limit
        patience = Patience(
            limit and limit * (1 + len(command.get("pack", ()))), self._silent, starting=not self._ready
        )
        counted = counters(self._process.pid)
        kills_before = kills(counted)
        command["cell"], command["folder"] = cell.model_dump(mode="json"), str(folder.resolve())
        with suppress(BrokenPipeError):  # of this pipe alone: the process is dead, and its replies end
            self._send(command)
        for reply in self._replies(patience):
            if reply.get("last"):  # this process takes no further cell
                self._process.wait()
            if "event" in reply:
                last_event = read_event(reply["event"])
                on_event(last_event)
            elif "result" in reply:
                return CellResult.model_validate(reply["result"])
            elif "fault" in reply:
                kind, words = reply["fault"]["kind"], reply["fault"]["message"]
                return failed(cell, folder, started, last_event, kind, words)
        if patience.ended is not None:
            kind, words = patience.ended
            words = f"the worker process {words} and was killed{phase_words(last_event)}{ADVICE[kind]}"
            return failed(cell, folder, started, last_event, kind, words)
        code = self._process.wait()
        if code in (-signal.SIGTERM, -signal.SIGINT):
            time.sleep(
                0.5
            )  # the whole group was signalled, most likely: let the runner's own handler stop the study first
        if code == -signal.SIGKILL and (kills(counted) or 0) > (kills_before or 0):
            words = f"the operating system ran out of memory and ended the worker process{phase_words(last_event)}"
            return failed(cell, folder, started, last_event, "OutOfMemoryError", words)
        hint = "; the operating system may have run out of memory" if code == -signal.SIGKILL else ""
        return failed(
            cell,
            folder,
            started,
            last_event,
            end_kind(code),
            f"the worker process {end_words(code)}{phase_words(last_event)}{hint}",
        )

    def close(self) -> None:
        """Ends the process at once, in the middle of a cell if need be."""
        with self._lock:
            self._closed = True
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                raise errors.LorabenchError("this worker is closed; open another")
            (commands, to), (back, replies) = os.pipe(), os.pipe()
            self._to, self._from = open(to, "wb", buffering=0), open(back, "rb", buffering=0)  # noqa: SIM115  (closed with the worker)
            self._ready = False
            self._early = tempfile.TemporaryFile()  # noqa: SIM115  (what is printed outside of cells; lives as long as the process)
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "lorabench.runner.worker",
                    str(commands),
                    str(replies),
                    self._engine,
                    self._predictor,
                ],
                pass_fds=(commands, replies),
                stdin=subprocess.DEVNULL,
                stdout=self._early,
                stderr=self._early,
                env=_environment(self._threads),
            )
            os.close(commands)
            os.close(replies)

    def _send(self, message: Command) -> None:
        rest = memoryview((json.dumps(message) + "\n").encode())
        while rest:
            rest = rest[self._to.write(rest) or 0 :]

    def _replies(self, patience: Patience) -> Iterator[Reply]:
        """Replies until the process is dead, or killed for want of patience. Its end is asked for, too: a grandchild
        may hold the pipe open."""
        unfinished = b""
        while True:
            dead = self._process.poll() is not None  # before looking, so that nothing it wrote last is missed
            heard = bool(select.select([self._from], [], [], 0 if dead else LOOK_SECONDS)[0])
            patience.look(heard=heard)
            if patience.ended is not None and not dead:
                self._process.kill()
                self._process.wait()
                return
            if not heard:
                if dead:
                    return
                continue
            data = self._from.read(1 << 16) or b""
            if not data:
                return
            *lines, unfinished = (unfinished + data).split(b"\n")
            for reply in map(json.loads, lines):
                if "ready" in reply:
                    self._ready = True
                    patience.begin()
                yield reply

    def _last_line(self) -> str:
        self._early.seek(0)
        text = self._early.read().decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith(FRAMES)]
        last = lines[-1] if lines else ""
        if any(words in text for words in NO_MEMORY):
            last = f"{last.rstrip('.:')}; free memory, or raise its limit (ulimit -v): PyTorch takes 1.1 GB to begin"
        return f": {last}" if last else ""


def _environment(threads: int | None) -> dict[str, str]:
    # PYTHONSAFEPATH: -m would put the working directory first, where a user's datasets.py hides the library
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), here) if p)
    # TORCHDYNAMO_DISABLE: nothing here is compiled, and bitsandbytes would import the compiler (~2 s)
    own = {
        "TORCHDYNAMO_DISABLE": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": path,
    }
    return {**os.environ, **own, **(thread_variables(threads, os.environ) if threads else {})}
