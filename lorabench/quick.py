"""What makes a short command short: torch and transformers are 7,000 modules, whose objects the garbage collector would walk again and again."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def imports() -> Iterator[None]:
    """Imports within are not interrupted by garbage collection (~20 % of their time), and what they made is left out of later ones."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def leave(code: int) -> NoReturn:
    """Ends the process; where torch was loaded without waiting for it to be taken apart (~1 s)."""
    if "torch" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
