"""Runs a target on drawn inputs, each guarded; used by the tests and by benchmarks/fuzz.py."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from lorabench.errors import LorabenchError
from tests.fuzz.guard import guarded
from tests.fuzz.samples import OWNED
from tests.fuzz.targets import TARGETS


def hunt(name: str, folder: Path, inputs: int, number: int | None = None) -> int:
    """So many inputs of a target, the same ones each time (another `number`: others); how many were run.

    AssertionError, or what the code raised, with the input that made it and the least one that does.
    """
    target, ran = TARGETS[name], 0
    home = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    write, sys.dont_write_bytecode = sys.dont_write_bytecode, True

    def one(drawn: object) -> None:
        nonlocal ran
        ran += 1
        with guarded(folder) as seen, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(name, folder, drawn)
        assert not seen, seen
        assert not list(folder.rglob(OWNED)), "code from the input was run"

    test = given(target.strategy)(one)
    test = settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=number is None,
        print_blob=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(test)
    if number is not None:
        test = seed(number)(test)
    os.chdir(folder)
    scratch, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        warm(name, folder)
        test()
    finally:
        os.chdir(home)
        tempfile.tempdir = scratch
        sys.dont_write_bytecode = write
    return ran


def check(name: str, folder: Path, drawn: object) -> None:
    """One input: it may end in one sentence, and in nothing else."""
    try:
        TARGETS[name].run(folder, drawn)
    except LorabenchError as e:
        words = str(e)
        assert words.strip(), "an error without a word"
        assert "\n" not in words, words


def warm(name: str, folder: Path) -> None:
    """Imports what the target's code imports when first asked: imports may start programs (platform's uname)."""
    from hypothesis import find
    from hypothesis.errors import NoSuchExample

    tried = 0

    def some(drawn: object) -> bool:
        nonlocal tried
        tried += 1
        try:
            TARGETS[name].run(folder, drawn)
        except Exception:
            return tried > 5
        return tried > 5

    plain = settings(database=None, derandomize=True, deadline=None, phases=(Phase.generate,))
    with contextlib.suppress(NoSuchExample):
        find(TARGETS[name].strategy, some, settings=plain)
