"""Watches what a piece of code does to the machine, by the interpreter's own audit events (PEP 578).

While a guard is on, a violation is: a file that is opened for writing, made, moved, deleted or changed outside of its
folder (symbolic links resolved), any connection or look-up of a name, any program that is started, and a pickle that
asks for a function. A deed that takes longer than its seconds counts as a hang. Rust and C code that opens files
itself (safetensors) is not seen; it is only asked to read.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 20  # of the processor's time that one input may take: some hundred times what any needs
ASLEEP = 300  # of anybody's
_WRITES = {"os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1, "os.chmod": 1, "os.chown": 1,
           "os.rename": 2, "os.link": 2, "os.symlink": 2, "shutil.rmtree": 1, "shutil.move": 2}  # fmt: skip
_NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"}
_STARTS = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pty.spawn"}
_HARMLESS = ("collections", "numpy", "torch", "_codecs")  # what a pickle of arrays asks for
_state: dict[str, object] = {"folder": None, "seen": []}


class Hang(AssertionError):
    """The code has taken too long."""


@contextmanager
def guarded(folder: Path) -> Iterator[list[str]]:
    """The violations of what runs inside, one line each."""
    _install()
    seen: list[str] = []
    _state.update(folder=os.path.realpath(folder), seen=seen)
    before = {number: signal.signal(number, _alarm) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, ASLEEP)
    try:
        yield seen
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        _state["folder"] = None


def _alarm(number: int, frame: object) -> None:
    raise Hang(f"no answer within {SECONDS} s of work, or {ASLEEP} s")


def _install() -> None:
    if "installed" not in _state:  # a hook stays for the life of the process
        _state["installed"] = True
        sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    folder = _state["folder"]
    if folder is None:
        return
    seen = _state["seen"]
    assert isinstance(seen, list)
    if event == "open":
        path, mode, flags = arguments
        writes = bool(set(str(mode or "")) & set("wax+")) or (
            isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        )
        if writes and not _inside(path, str(folder)):
            seen.append(f"writes {path!r}")
    elif event in _WRITES:
        seen += [f"{event} {p!r}" for p in arguments[: _WRITES[event]] if not _inside(p, str(folder))]
    elif event in _NETWORK or event in _STARTS:
        seen.append(f"{event} {arguments[:2]!r}")
    elif event == "pickle.find_class" and not str(arguments[0]).startswith(_HARMLESS):
        seen.append(f"unpickles {arguments!r}")


def _inside(path: object, folder: str) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return True  # a handle, whose opening was seen
    real = os.path.realpath(os.fsdecode(path))
    return real == folder or real.startswith((folder + os.sep, "/dev/null"))
