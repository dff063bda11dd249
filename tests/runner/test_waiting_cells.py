"""The queue of a run gives what looking through all of it would give, without looking."""

import random

import pytest

from lorabench.config import expand
from lorabench.config.packs import pack_key
from lorabench.runner import waiting_cells
from lorabench.runner.waiting_cells import WaitingCells
from tests.runner.conftest import study_of

GRID = "grid: {method.rank: [1, 2], training.sequence_length: [8, 16]}\ninclude: [{method: {name: full}}]\n"


def cells(seeds):
    return expand(study_of(*range(seeds), more=GRID))


def looked_through(waiting, first, most):
    """The mates of a cell by definition: the first in the order that have its key."""
    alike = [c for c in waiting if pack_key(first) is not None and pack_key(c) == pack_key(first)]
    return alike[: most - 1]


def test_cells_come_in_order_each_once_with_their_mates():
    drawn, waiting = random.Random(0), list(cells(8))
    queue, out = WaitingCells(waiting), []
    while waiting:
        first, most = waiting.pop(0), drawn.choice([1, 2, 3, 8])
        assert queue.take() is first
        mates = queue.take_mates(first, most, 1)
        assert mates == looked_through(waiting, first, most)
        waiting = [c for c in waiting if c not in mates]
        fate = drawn.choice(["ran", "alone", "elsewhere"])
        if fate == "alone":  # no pack came of it: they are the next ones again
            queue.put_first(mates)
            waiting = mates + waiting
        if fate == "elsewhere" and len(waiting) > 3:  # another runner has it
            queue.add(first)
            waiting.append(first)
        else:
            out.append(first)
        out += mates if fate != "alone" else []
        assert len(queue) == len(waiting)
    assert queue.take() is None
    assert sorted(c.id for c in out) == sorted(c.id for c in cells(8))


def test_what_a_cell_costs_the_queue_does_not_grow_with_the_cells_that_wait(monkeypatch):
    looks = {"key": 0, "new": 0}

    def key(cell):
        looks["key"] += 1
        return pack_key(cell)

    def is_new(cell):
        looks["new"] += 1
        return True

    monkeypatch.setattr(waiting_cells, "pack_key", key)
    drawn = cells(200)
    queue = WaitingCells(drawn)
    while (first := queue.take()) is not None:
        queue.put_first(queue.take_mates(first, 8, 2, is_new))
    assert looks["key"] == len({c.condition_id for c in drawn}) == 5
    assert looks["new"] <= 8 * len(drawn)


@pytest.mark.parametrize(
    ("seeds", "workers", "packs"),
    [(8, 2, [4, 4]), (7, 2, [4, 3]), (20, 2, [5, 5, 5, 5]), (32, 2, [8, 8, 8, 8]), (5, 1, [5]), (3, 4, [1, 1, 1])],
)
def test_workers_take_equal_packs_as_few_times_as_there_are_to_be(seeds, workers, packs):
    waiting = WaitingCells(expand(study_of(*range(seeds))))
    taken = []
    while (first := waiting.take()) is not None:
        taken.append(1 + len(waiting.take_mates(first, 8, workers)))
    assert taken == packs
