"""Cells are handed out together only to a worker that packs, and those that it does not pack go back to the queue."""

import json
import threading

import pytest

from lorabench.engine.events import Event
from lorabench.runner.packs import KEPT, only_packed, remove_packs
from lorabench.runner.run import run
from lorabench.runner.worker_pool import WorkerPool
from tests import synthetic
from tests.runner.conftest import study_of

SEEDS = (0, 1, 2, 3, 4)


class Packing(synthetic.Worker):
    """Notes what it was given together; tells of a pack of as many as it takes."""

    packs = True

    def __init__(self, most, given):
        self.most, self.given = most, given

    def run(self, cell, folder, on_event, skip_infeasible=False, calibrations=None, pack=(), gaining=False):
        self.given.append((cell.seed, [c.seed for c in pack], gaining))
        if self.most > 1 and pack:
            on_event(Event(cell.id, "train", pack=(cell.id, *(c.id for c in pack[: self.most - 1]))))
        return super().run(cell, folder, on_event, skip_infeasible, calibrations)


def given(tmp_path, most, **options):
    seen = []
    run(study_of(*SEEDS), tmp_path, pool=WorkerPool(lambda threads: Packing(most, seen)), **options)
    assert sorted(seed for seed, *_ in seen) == list(SEEDS), "each cell once"
    return seen


def test_mates_come_with_their_first_cell_and_after_it(tmp_path):
    assert given(tmp_path, 5) == [(0, [1, 2, 3, 4], True)] + [(n, list(range(n + 1, 5)), True) for n in (1, 2, 3, 4)]


def test_those_that_do_not_train_with_it_are_free_for_any_worker(tmp_path):
    assert given(tmp_path, 1)[0] == (0, [1, 2, 3, 4], True)
    seen = given(tmp_path / "two", 2)
    assert [others for _, others, _ in seen] == [[1, 2, 3, 4], [], [3, 4], [], []]


def test_they_are_free_as_soon_as_the_first_trains_alone(tmp_path):
    by_another = threading.Event()

    class Alone(Packing):
        def run(self, cell, folder, on_event, *args, **kwargs):
            if cell.seed == 0:
                on_event(Event(cell.id, "train", step=1, steps=10))
                assert by_another.wait(60), "its mate waits for it to end"
            elif cell.seed == 1:
                by_another.set()
            return super().run(cell, folder, on_event, *args, **kwargs)

    seen = []
    run(study_of(0, 1, 2), tmp_path, pool=WorkerPool(lambda threads: Alone(1, seen), 2))
    assert (0, [1]) in [(seed, mates) for seed, mates, _ in seen], "they came together"
    assert sorted(seed for seed, *_ in seen) == [0, 1, 2]


@pytest.mark.parametrize(("pack", "first"), [(1, ([], False)), (3, ([1, 2], False)), (None, ([1, 2, 3, 4], True))])
def test_a_size_of_ones_own_is_kept_to(tmp_path, pack, first):
    assert given(tmp_path, 1, pack=pack)[0] == (0, *first)


def test_a_cell_whose_training_is_there_or_under_way_goes_on_alone(tmp_path):
    from lorabench.record.store import CHECKPOINT, Store
    from lorabench.runner.plan import make_plan

    cells = make_plan(study_of(*SEEDS), tmp_path).cells
    partial = Store(tmp_path).partial(cells[2].id)
    partial.mkdir(parents=True)
    (partial / CHECKPOINT).write_bytes(b"")
    seen = given(tmp_path, 5)
    assert seen[0] == (0, [1, 3, 4], True) and (2, [], False) in seen


def test_the_cells_of_a_killed_pack_come_together_again(tmp_path):
    """What is kept of a pack is of just these cells; four that are left would be two packs of two."""
    from lorabench.runner.plan import make_plan

    def pool(seen):
        return WorkerPool(lambda threads: Packing(8, seen), 2)

    run(study_of(*range(4)), tmp_path, pool=pool([]))
    ids = {c.seed: c.id for c in make_plan(study_of(*range(8)), tmp_path).cells}
    (tmp_path / KEPT).mkdir(exist_ok=True)
    (tmp_path / KEPT / f"{ids[4]}.json").write_text(json.dumps([ids[seed] for seed in (4, 5, 6, 7)]))
    seen = []
    run(study_of(*range(8)), tmp_path, pool=pool(seen))
    assert (4, [5, 6, 7]) in [(seed, mates) for seed, mates, _ in seen]


@pytest.mark.parametrize("packed", [(), (1,), (1, 2)])
def test_another_try_takes_no_mates_but_those_that_train_with_the_cell(tmp_path, packed):
    from lorabench.runner.plan import make_plan

    first, *mates = make_plan(study_of(0, 1, 2), tmp_path).cells
    command, told = {"pack": [c.model_dump(mode="json") for c in mates]}, []
    on_event = only_packed(command, mates, told.append)
    on_event(Event(first.id, "load"))
    assert len(command["pack"]) == 2, "nothing is known yet"
    on_event(Event(first.id, "train", pack=tuple(c.id for c in (first, *mates) if c.seed in (0, *packed))))
    on_event(Event(first.id, "train", step=1, steps=2))
    assert [c["seed"] for c in command["pack"]] == list(packed) and len(told) == 3


def test_what_is_kept_of_a_pack_goes_when_its_last_cell_has_a_result(tmp_path):
    (folder := tmp_path / KEPT).mkdir()
    for name, cells in (("a", ["a", "b"]), ("c", ["c", "d"])):
        (folder / f"{name}.json").write_text(json.dumps(cells))
        (folder / f"{name}.pt").write_text("")
    remove_packs(tmp_path, {"a", "b", "c"}.__contains__)
    assert sorted(p.name for p in folder.iterdir()) == ["c.json", "c.pt"]
    remove_packs(tmp_path, lambda cell: True)
    assert not folder.exists()
    remove_packs(tmp_path, lambda cell: True)


@pytest.mark.parametrize("text", ['["a", "b', "", "5", "[" * 100_000, b"\xff"])
def test_a_list_of_a_pack_that_is_damaged_goes_with_its_first_cell(tmp_path, text):
    (folder := tmp_path / KEPT).mkdir()
    for name in ("a", "c"):
        (folder / f"{name}.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        (folder / f"{name}.pt").write_text("")
    (folder / "gone.json").symlink_to(folder / "nowhere")  # as when another runner removes it in between
    remove_packs(tmp_path, {"a"}.__contains__)
    assert sorted(p.name for p in folder.iterdir()) == ["c.json", "c.pt", "gone.json"]
