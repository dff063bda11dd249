"""Finds fault with rank 64, tells of a missing model at rank 63, breaks at rank 62, dies at rank 61."""

from __future__ import annotations

import os

from lorabench.engine.events import Problem
from lorabench.errors import ModelError


def check_cells(cells, tell=None):
    print("a library greets", flush=True)
    for cell in cells:
        if cell.method.rank == 63:
            raise ModelError("there is no such model; point to a local copy")
        if cell.method.rank == 62:
            raise ValueError("a fault of the check itself")
        if cell.method.rank == 61:
            os.write(2, b"cannot go on\n")
            os._exit(7)
    return tuple(Problem(c.id, "method.rank", "rank 64 is above 48") for c in cells if c.method.rank == 64)
