"""Cells in places of a cluster: real hosts and worker processes without a network between, over an engine that
misbehaves; a machine is lost by killing what hosts it."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest

from lorabench.config.grid import expand
from lorabench.record.store import CHECKPOINT, Store
from lorabench.runner import remote_worker
from lorabench.runner.cluster import ClusterOptions, MachineFull, MachineLost, Room
from lorabench.runner.remote_host import RemoteHost
from lorabench.runner.remote_worker import RemoteWorker
from lorabench.runner.run import run
from tests.runner.conftest import ENGINE, study_of


class Machines:
    """A cluster of hosts in this process. `shared`: they see the runner's folders. `lose`: how many of the next cells
    lose their machine after their second reply, or with `full` its memory."""

    def __init__(self, shared=True, lose=0, full=False, cards=0.0):
        self.shared, self.lose, self.full, self.cards = shared, lose, full, cards
        self.rooms, self.needs = [], {}
        self.workers = 1

    def open_worker(self):
        return RemoteWorker(self)

    def first_room(self):
        return Room(1, float(bool(self.cards)))

    def room(self, condition, cells):
        return Room(1, self.cards, alone=self.cards in (0.0, 1.0))

    def whole(self, room):
        return replace(room, cards=1.0, alone=True)

    def learn(self, needs):
        self.needs |= needs

    def open(self, room):
        self.rooms.append(room)
        return Place(self, f"machine {len(self.rooms)}")

    def close(self):
        pass


class Place:
    def __init__(self, machines, name):
        self.machines, self.name = machines, name
        self.host = RemoteHost(1, ENGINE, f"{ENGINE}.predict_cell")

    def greet(self):
        return self.name

    def sees(self, path, text):
        return self.machines.shared and self.host.sees(path, text)

    def send(self, chunk):
        self.host.receive(chunk)

    def ask(self, command, shared):
        for number, reply in enumerate(self.host.serve(command, shared)):
            yield reply
            if command["do"] == "run" and number == 1 and self.machines.lose:
                self.machines.lose -= 1
                self.close()
                raise (MachineFull if self.machines.full else MachineLost)(f"{self.name} is gone")

    def close(self):
        self.host._worker.close()


def cell_of(seed):
    (cell,) = expand(study_of(seed))
    return cell


def tried(machines, seed, tmp_path, left=None):
    """A cell's result, its events' words, and its folder."""
    cell, store = cell_of(seed), Store(tmp_path)
    folder = store.emptied(cell.id)
    if left is not None:
        (folder / CHECKPOINT).write_text(left)
    events, worker = [], machines.open_worker()
    result = worker.run(cell, folder, events.append)
    worker.close()
    return result, [e.note or e.warning for e in events if e.note or e.warning], folder


def test_a_lost_machine_costs_a_try_and_no_result(begun, tmp_path):
    result, words, folder = tried(Machines(lose=2), 1, tmp_path, left="step 400")
    assert result.outcome == "finished"
    assert begun() == [1, 1, 1]
    assert words == [
        "on machine 1",
        "machine 1 is gone; starts again, try 2 of 3",
        "on machine 2",
        "machine 2 is gone; starts again, try 3 of 3",
        "on machine 3",
    ]
    assert (folder / CHECKPOINT).read_text() == "step 400"  # which every try found in its folder
    assert sorted(p.name for p in folder.iterdir()) == sorted([CHECKPOINT, "curve.csv", "log.txt"])
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.slow
def test_a_cell_that_loses_every_machine_is_a_failed_one(begun, tmp_path):
    result, _, _ = tried(Machines(lose=99), 1, tmp_path)
    assert (result.outcome, result.error.kind) == ("failed", "MachineLost")
    assert result.error.message == "3 machines in turn were lost while it ran: machine 3 is gone"


@pytest.mark.parametrize(
    ("seed", "outcome"),
    [(100, "failed"), pytest.param(105, "failed", marks=pytest.mark.slow), (159, "out_of_memory")],
)
def test_what_a_cell_does_itself_is_never_tried_again(begun, tmp_path, seed, outcome):
    machines = Machines()
    result, _, _ = tried(machines, seed, tmp_path)
    assert (result.outcome, begun(), len(machines.rooms)) == (outcome, [seed], 1)


@pytest.mark.parametrize(("seed", "outcome"), [(158, "finished"), (159, "out_of_memory")])
def test_out_of_memory_on_a_shared_card_is_tried_once_more_alone(begun, tmp_path, seed, outcome):
    machines = Machines(cards=0.25)
    result, words, _ = tried(machines, seed, tmp_path)
    assert (result.outcome, begun()) == (outcome, [seed, seed])
    assert [room.cards for room in machines.rooms] == [0.25, 1.0]
    assert words[0] == "on machine 1, 0.25 of a card"
    assert words[1] == "out of memory beside other cells; it is tried once more alone"


def test_a_machine_whose_memory_was_full_is_the_cell_s_result_where_it_was_alone(begun, tmp_path):
    result, _, _ = tried(Machines(lose=1, full=True), 1, tmp_path)
    assert (result.outcome, result.error.message) == ("out_of_memory", "machine 1 is gone")


@pytest.mark.parametrize("shared", [True, False])
def test_files_reach_the_runner_s_folder_whether_machines_see_it_or_not(begun, tmp_path, shared):
    result, _, folder = tried(Machines(shared), 102, tmp_path, left="step 3")
    assert result.outcome == "finished"
    assert (folder / "curve.csv").read_text() == "step,loss\n1,2.0\n"
    assert b"from a child of ours" in (folder / "log.txt").read_bytes()
    assert (folder / CHECKPOINT).read_text() == "step 3"
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.slow
def test_a_study_on_machines_that_share_nothing_is_the_study_of_one_machine(begun, tmp_path, open_odd):
    from lorabench.runner.worker_pool import WorkerPool

    machines = Machines(shared=False, lose=1)
    there = run(study_of(0, 1, 100), tmp_path / "there", pool=WorkerPool(lambda threads: machines.open_worker()))
    here = run(study_of(0, 1, 100), tmp_path / "here", pool=WorkerPool(open_odd))
    stores = [
        {
            r.cell.id: (
                r.outcome,
                r.error and r.error.kind,
                r.readings,
                sorted(os.listdir(p.store.cells_folder / r.cell.id)),
            )
            for r in p.store.results()
        }
        for p in (there, here)
    ]
    assert stores[0] == stores[1] and len(stores[0]) == 3


def test_the_check_tells_the_cluster_what_conditions_need(begun, tmp_path):
    machines, cell = Machines(cards=0.25), cell_of(0)
    worker = machines.open_worker()
    assert worker.check((cell,)) == ()
    worker.close()
    assert machines.needs[cell.condition_id].share() == pytest.approx(1 / 3, abs=1e-4)


def test_close_ends_a_cell_in_its_middle(begun, tmp_path):
    machines, cell = Machines(), cell_of(260)
    worker, ended = machines.open_worker(), []
    folder = Store(tmp_path).emptied(cell.id)
    thread = threading.Thread(target=lambda: ended.append(worker.run(cell, folder, lambda e: None)), daemon=True)
    thread.start()
    while not begun():
        thread.join(0.05)
    worker.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_cluster_s_options_are_refused_by_an_executor_that_is_none():
    from lorabench.errors import LorabenchError
    from lorabench.runner.worker_pool import WorkerPool

    with pytest.raises(LorabenchError, match="the executor local is none; executors that are: ray"):
        WorkerPool("local", None, ClusterOptions("auto"))


def test_tries_are_few():
    assert remote_worker.TRIES == 3


def test_of_ray_s_message_on_a_lost_worker_its_first_sentence_is_told():
    from lorabench.executors.ray import _reason

    said = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: RemoteHost\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail:"
        " Worker unexpectedly exits with a connection error code 2. End of file."
    )
    assert _reason(RuntimeError(said)) == "The actor is dead because its worker process has died"
