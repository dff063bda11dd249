"""Predicts that a cell of seed 106 will not fit and one of seed 107 may not; of others it says nothing. Before the run:
rank 40 to 44 would not fit, 45 never could."""

import os

from lorabench.engine.events import Foretold, Problem
from lorabench.record.card_need import CardNeed
from lorabench.record.memory_prediction import MemoryPrediction


def predict_memory(cell):
    low, high = {106: (30, 40), 107: (15, 25)}.get(cell.seed, (None, None))
    return None if low is None else MemoryPrediction(10 * 10**9, low * 10**9, high * 10**9, 20 * 10**9)


def card_needs(cells):
    return {c.id: CardNeed(24 * 10**9, 10**9, 4 * 10**9, 2 * 10**9) for c in cells}


def foretell(cells):
    return Foretold(
        tuple(
            Problem(c.id, "training.batch_size", "a batch of 8 would not fit", c.method.rank == 45, about_cell=True)
            for c in cells
            if 40 <= c.method.rank <= 45
        ),
        int(os.environ.get("ODD_AT_ONCE", "1")),
    )
