"""What makes a short command short: 7,000 modules of torch and transformers, or 10,000 results, are objects that the garbage collector would walk again and again."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


@contextmanager
def uncollected() -> Iterator[None]:
    """What is made within lasts: it is not interrupted by garbage collection (~20 % of its time), and left out of later ones."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collected:
            gc.enable()


@contextmanager
def lean_imports() -> Iterator[None]:
    """The same, and transformers does not take scipy.optimize (~0.5 s) for the matching of its detection losses: for commands that predict and end."""
    with uncollected():
        import transformers.utils as shown
        from transformers.utils import import_utils

        own = import_utils.is_scipy_available
        places: tuple[Any, ...] = (shown, import_utils)
        for place in places:
            place.is_scipy_available = lambda: False
        try:
            yield
        finally:
            for place in places:
                place.is_scipy_available = own


def leave(code: int) -> NoReturn:
    """Ends the process; where torch was loaded without waiting for it to be taken apart (~1 s)."""
    if "torch" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
