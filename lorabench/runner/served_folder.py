"""A host (runner.remote_host) that is spoken to through files of a shared file system: what an element of a SLURM array
runs.

    FOLDER/commands.jsonl   the runner's, a line for each call: {"number": 3, "call": "serve", "arguments": [...]}
    FOLDER/replies.jsonl    its replies, {"number": 3, "reply": ...} each, then {"number": 3, "end": true}; or a fault
    FOLDER/runner.lock      held by the runner for as long as it lives: an element that gets it has nobody to work for

Both files are there before the element starts and are opened anew at each look: on a network file system an open asks
the server, while names that were absent may stay so for half a minute (nfs(5): acdirmin, close-to-open consistency).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

COMMANDS, REPLIES, LOCK = "commands.jsonl", "replies.jsonl", "runner.lock"
LOOK_SECONDS = 0.2  # between two looks at a file: a call's delay, small beside a cell's load
LIVES_SECONDS = 2.0  # between two looks at the lock


def serve(folder: str, threads: int, engine: str, predictor: str) -> None:
    """Answers calls until the runner is gone; a cluster's scheduler ends it before."""
    from lorabench.runner.remote_host import RemoteHost

    threading.Thread(target=_end_with_runner, args=(Path(folder),), daemon=True).start()
    host = RemoteHost(threads, engine, predictor)
    with (Path(folder) / REPLIES).open("a", encoding="utf-8") as replies:

        def tell(message: dict[str, Any]) -> None:
            replies.write(json.dumps(message) + "\n")
            replies.flush()
            os.fsync(replies.fileno())

        for message in lines(Path(folder) / COMMANDS):
            if message is None:
                continue
            number = {"number": message["number"]}
            try:
                answer = getattr(host, message["call"])(*message["arguments"])
                for reply in answer if isinstance(answer, Iterator) else [answer]:
                    tell({**number, "reply": reply})
                tell({**number, "end": True})
            except Exception as e:
                tell({**number, "fault": f"{type(e).__name__}: {e}"})


def lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """The JSON lines of a file as they are written, without end; None whenever there was nothing new for a while."""
    place, unfinished = 0, b""
    while True:
        with path.open("rb") as stream:
            stream.seek(place)
            new = stream.read()
        place += len(new)
        *whole, unfinished = (unfinished + new).split(b"\n")
        yield from (json.loads(line) for line in whole)
        if not whole:
            yield None
            time.sleep(LOOK_SECONDS)


def _end_with_runner(folder: Path) -> None:
    """Ends this process once nobody holds the runner's lock."""
    lock = FileLock(folder / LOCK)
    while True:
        time.sleep(LIVES_SECONDS)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        except (OSError, NotImplementedError):  # a file system without locks: the scheduler's time limit ends it
            return
        os._exit(0)
