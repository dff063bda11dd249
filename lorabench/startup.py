"""What lorabench sets in a process of its own, a command or a worker, before any library loads there, and what makes a
short command short.

Waiting. OpenMP's threads wait for each other at the end of every operator. By default they spin: beside another busy
process the one that is waited for does not run, and the others burn their time slice (5 to 20 times slower,
reports/LOG.md). A passive policy lets them sleep. What the user has set stands.

Messages that a library prints whenever it is imported, whatever the command, and that advise what lorabench has no use
for: dropped. What they mean on this machine is said once, by `lorabench doctor`.

Garbage. 7,000 modules of torch and transformers, or 10,000 results, are objects that the collector would walk again and
again.
"""

from __future__ import annotations

import gc
import importlib.abc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import NoReturn

POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPINS = "1000"
"""some microseconds, less than to be woken takes: with two threads a step of SST-2 on SmolLM2-135M takes 0.59 s on a
quiet machine and 1.43 beside a busy process, 1.0 in both with none, 8 beside several with 20,000"""
LONGER_SPINS = "20000"
"""under a millisecond, which bridges what lies between two operators: a quarter less time a step than with SPINS"""
THREADS = "LORABENCH_THREADS"
"""tells a worker the most threads that it may take (runner/threads.py); absent where the user has set a number"""
MESSAGES = {
    # on processors with AVX-512 BF16, whose 4-bit kernel lorabench switches off (engine/bitsandbytes_cpu.py)
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community",
}
"""the beginning of a message, by its logger"""


def settle() -> None:
    """Sets both; for processes that are lorabench's own, never for a caller's."""
    os.environ |= waiting(os.environ)
    for name in MESSAGES:
        logger = logging.getLogger(name)
        if not any(isinstance(f, _Dropped) for f in logger.filters):
            logger.addFilter(_Dropped())


def waiting(user: Mapping[str, str]) -> dict[str, str]:
    """The variables that let GNU's and LLVM's OpenMP threads sleep while they wait, GNU's after SPINS turns; none where
    the user has set a policy."""
    policy = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": SPINS, "KMP_BLOCKTIME": "0"}
    return {} if any(name in user for name in POLICIES) else policy


def spinning(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a worker that takes no more threads than there are free cores at any time
    (runner/threads.FreeThreads); none where the user has set a policy."""
    own = waiting({})
    theirs = {name: environment[name] for name in POLICIES if name in environment}
    return own | {"GOMP_SPINCOUNT": LONGER_SPINS} if theirs in ({}, own) else {}


class _Dropped(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(MESSAGES[record.name])


@contextmanager
def uncollected() -> Iterator[None]:
    """What is made within lasts: it is not interrupted by garbage collection (~20 % of its time), and left out of later
    ones."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collected:
            gc.enable()


@contextmanager
def predicting() -> Iterator[None]:
    """For a command that predicts and ends: `uncollected`, and two imports of libraries are left out.

    Nothing is compiled, so that bitsandbytes need not import torch's compiler (~2 s), and transformers does not take
    scipy.optimize (~0.5 s) for the matching of its detection losses. Both are settings of the whole process.
    """
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    finder = _LeanLosses()
    sys.meta_path.insert(0, finder)
    try:
        with uncollected():
            yield
    finally:
        sys.meta_path.remove(finder)
        finder.restore()


class _LeanLosses(importlib.abc.MetaPathFinder):
    """Finds nothing; tells transformers that there is no scipy once its losses are imported, when its utils are
    loaded."""

    def __init__(self) -> None:
        self.replaced: list[tuple[ModuleType, Callable[[], bool]]] = []

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if fullname.startswith("transformers.loss") and not self.replaced:
            for name in ("transformers.utils", "transformers.utils.import_utils"):
                module = sys.modules.get(name)
                if module is not None:
                    self.replaced.append((module, module.is_scipy_available))
                    module.__dict__["is_scipy_available"] = lambda: False

    def restore(self) -> None:
        for module, function in self.replaced:
            module.__dict__["is_scipy_available"] = function


def leave(code: int) -> NoReturn:
    """Ends the process; where torch was loaded without waiting for it to be taken apart (~1 s)."""
    if "torch" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
