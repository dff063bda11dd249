"""The queue of a run gives what looking through all of it would give, without looking."""

import heapq
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


@pytest.mark.parametrize("drawn", range(20))
def test_a_worker_keeps_to_its_condition_and_leaves_those_of_others(drawn):
    chance, waiting = random.Random(drawn), list(cells(5))
    chance.shuffle(waiting)
    queue = WaitingCells(waiting)
    for _ in range(len(waiting)):
        last = chance.choice(waiting).condition_id if chance.random() < 0.7 else None
        others = {c.condition_id for c in chance.sample(waiting, min(len(waiting), chance.randrange(4)))}
        others.discard(last)
        ranked = sorted(waiting, key=lambda c: (c.condition_id != last, c.condition_id in others))  # a stable sort
        found = queue.take(last, others)
        assert found is ranked[0]
        waiting.remove(found)
        if chance.random() < 0.2:  # another runner has it
            queue.add(found)
            waiting.append(found)
    assert len(queue) == len(waiting)


def shared(planned, workers, keeps):
    """(worker, condition) of each cell, played with workers that take a little longer or shorter for each."""
    chance, queue, now, runs = random.Random(workers), WaitingCells(planned), {}, []
    free = [(0.0, n) for n in range(workers)]
    while len(queue):
        at, worker = heapq.heappop(free)
        last = now.pop(worker, None)
        cell = queue.take(last, set(now.values())) if keeps else queue.take()
        now[worker] = cell.condition_id
        runs.append((worker, cell.condition_id))
        heapq.heappush(free, (at + chance.uniform(1, 1.3), worker))
    return runs


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_few_workers_share_a_condition(workers, seeds):
    planned = cells(seeds)
    conditions = len({c.condition_id for c in planned})
    kept, in_order = (shared(planned, workers, keeps) for keeps in (True, False))
    assert len(kept) == len(in_order) == len(planned)
    assert len(set(kept)) <= conditions + workers * (workers - 1) / 2
    assert len(set(kept)) < len(set(in_order))


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
