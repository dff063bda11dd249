"""What makes a short command short: torch and transformers are 7,000 modules, whose objects the garbage collector would walk again and again."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


@contextmanager
def imports() -> Iterator[None]:
    """Imports within are not interrupted by garbage collection (~20 % of their time), and what they made is left out of later ones."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def lean_imports() -> Iterator[None]:
    """The same, and transformers does not take scipy.optimize (~0.5 s) for the matching of its detection losses: for commands that predict and end."""
    with imports():
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
