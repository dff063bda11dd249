"""Predicts that a cell of seed 106 will not fit and one of seed 107 may not; of others it says nothing."""

from lorabench.record.foresight import Foresight


def foresee(cell):
    low, high = {106: (30, 40), 107: (15, 25)}.get(cell.seed, (None, None))
    return None if low is None else Foresight(10 * 10**9, low * 10**9, high * 10**9, 20 * 10**9)
