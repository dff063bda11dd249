"""Traces side by side: a trace is half a second of Python on one core.

Each worker is a fresh interpreter (`python -m lorabench.memory.trace_workers`), which takes pickled settings from its
standard input and answers with pickled courses. It is neither forked (torch's threads do not survive that) nor started
by multiprocessing (which runs a script without a main guard again). While workers import torch, the process that asks
traces by itself; whoever is free takes the next.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from lorabench.memory.step_profile import Course, course
from lorabench.memory.train_config import TrainConfig

MODULE = "lorabench.memory.trace_workers"
READY = b"+"  # a worker has its imports


class TraceWorkers:
    """Processes that trace, until `close`."""

    def __init__(self, count: int) -> None:
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), package) if p)
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        self._waiting: SimpleQueue[TrainConfig | None] = SimpleQueue()
        self._traced: SimpleQueue[tuple[TrainConfig, Course | None]] = SimpleQueue()
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            for _ in range(count)
        ]
        for process in self._processes:
            Thread(target=self._serve, args=(process,), daemon=True).start()

    def trace(
        self, settings: Sequence[TrainConfig], here: Callable[[TrainConfig], Course]
    ) -> dict[TrainConfig, Course]:
        """The course of each; this process takes its share by `here`, and what a worker could not do."""
        for setting in settings:
            self._waiting.put(setting)
        courses: dict[TrainConfig, Course] = {}
        while True:
            try:
                own = self._waiting.get_nowait()
            except Empty:
                break
            assert own is not None
            courses[own] = here(own)
        while len(courses) < len(settings):
            setting, answer = self._traced.get()
            courses[setting] = here(setting) if answer is None else answer
        return courses

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            self._waiting.put(None)
            process.kill()
            process.wait()

    def _serve(self, process: subprocess.Popen[bytes]) -> None:
        """Hands a worker one setting after another; a worker that fails takes no more."""
        assert process.stdin is not None and process.stdout is not None
        with process.stdin, process.stdout:
            if process.stdout.read(1) != READY:
                return
            while (setting := self._waiting.get()) is not None:
                try:
                    pickle.dump(setting, process.stdin)
                    process.stdin.flush()
                    answer = pickle.load(process.stdout)
                except (OSError, EOFError, ValueError, pickle.PickleError):  # the worker has died
                    self._traced.put((setting, None))
                    return
                self._traced.put((setting, answer))


def main() -> None:
    """A worker: settings in, courses out, until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    answers.write(READY)
    answers.flush()
    while True:
        try:
            setting = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(course(setting), answers)
        answers.flush()


if __name__ == "__main__":
    main()
