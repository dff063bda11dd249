"""Ray for real: clusters of nodes on this machine, one of which is killed; only where the extra `ray` is installed.

Ray does not ask whether a GPU is there: nodes that say they have some let shares of cards be tested on a CPU.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra: pip install 'lorabench[ray]'")

import lorabench as lb
from lorabench.executors import ray as executor
from lorabench.runner.cluster import ClusterOptions
from lorabench.runner.run import run
from lorabench.runner.worker_pool import WorkerPool
from tests.runner.conftest import ENGINE, study_of

pytestmark = pytest.mark.slow
STORE = 80 * 2**20  # bytes: the least that Ray takes is 75 MB
REAL = """
schema: 1
name: on-ray
model: lorabench/tiny-300k
task: python-docs
method: {name: lora, rank: 4}
training: {steps: 6, batch_size: 2, sequence_length: 48, learning_rate: 3e-3}
grid: {method.rank: [2, 8]}
seeds: [0, 1]
evaluation: {lm_eval: [], max_sequences: 8}
"""


@pytest.fixture
def cluster(begun, monkeypatch):
    """A function that starts a cluster of nodes, by their resources."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    started = []

    def start(*nodes):
        head, *others = ({"object_store_memory": STORE, **n} for n in nodes)
        started.append(Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **head}))
        started[0].others = [started[0].add_node(**n) for n in others]
        return started[0]

    yield start
    for one in started:
        one.shutdown()


@pytest.fixture
def odd(monkeypatch):
    """The executor over the odd engine."""
    real = functools.partial(executor.open_cluster, engine=ENGINE, predictor=f"{ENGINE}.predict_cell")
    monkeypatch.setattr(executor, "open_cluster", real)


def wait_for_cores(address, cores):
    """Until so many of a cluster's cores are there, three minutes at most: a node of a busy machine takes its time."""
    import ray

    ray.init(address=address, log_to_driver=False)
    until = time.monotonic() + 180
    while ray.cluster_resources().get("CPU", 0) < cores and time.monotonic() < until:
        time.sleep(0.5)
    ray.shutdown()


class Words:
    """A Progress that keeps what it is told."""

    def __init__(self, on_step=lambda event: None):
        self.notes, self.on_step, self.workers = [], on_step, None

    def begin(self, plan, workers=1):
        self.workers = workers

    def event(self, event):
        self.notes += [w for w in (event.note, event.warning) if w]
        if event.step:
            self.on_step(event)

    def __getattr__(self, name):
        return lambda *_: None


def test_a_node_that_is_killed_costs_its_cells_a_second_try_and_every_cell_is_there_once(cluster, odd, begun, tmp_path):
    two = cluster({"num_cpus": 1}, {"num_cpus": 1})
    study, killed = study_of(0, 220, 221, 1, 100, 159, 2), threading.Event()
    trained: set[str] = set()

    def kill(event):
        if event.step <= 20:  # of a short cell
            return
        trained.add(event.cell)
        if len(trained) == 2 and not killed.is_set():  # both nodes are in the middle of a long cell
            killed.set()
            two.remove_node(two.others[0], allow_graceful=False)

    progress = Words(kill)
    progress.end = lambda cell, *_: trained.discard(cell.id)
    pool = WorkerPool("ray", None, ClusterOptions(two.address))
    plan = run(study, tmp_path / "out", pool=pool, progress=progress, pack=1)  # mates would wait on one node
    assert killed.is_set() and progress.workers == 2
    outcomes = {r.cell.seed: r.outcome for r in plan.store.results()}
    assert outcomes == {
        **dict.fromkeys((0, 220, 221, 1, 2), "finished"), 100: "failed", 159: "out_of_memory",
    }  # fmt: skip
    twice = [seed for seed in outcomes if begun().count(seed) == 2]
    assert len(twice) == 1 and twice[0] >= 200 and len(begun()) == len(outcomes) + 1  # nothing else ran again
    assert sum("starts again, try 2 of 3" in note for note in progress.notes) == 1
    names = sorted(p.name for p in plan.store.cells_folder.iterdir())
    assert names == sorted(c.id for c in plan.cells)


def test_cells_share_a_card_as_the_memory_model_says_and_one_that_runs_out_of_memory_is_moved_to_its_own(
    cluster, odd, begun, tmp_path
):
    """24 GB, of which a cell needs 7: three at a time. Unpacked: a pack of two asks for 9 GB, half of the card."""
    one = cluster({"num_cpus": 3, "num_gpus": 1})
    progress = Words()
    pool = WorkerPool("ray", None, ClusterOptions(one.address))
    plan = run(study_of(0, 1, 158, 159), tmp_path / "out", pool=pool, progress=progress, pack=1)
    assert progress.workers == 3
    assert {r.cell.seed: r.outcome for r in plan.store.results()} == {
        0: "finished", 1: "finished", 158: "finished", 159: "out_of_memory",
    }  # fmt: skip
    assert sorted(begun()) == [0, 1, 158, 158, 159, 159]
    assert sum(", 0.333 of a card" in note for note in progress.notes) == 4
    assert sum(", 1 card" in note for note in progress.notes) == 2


@pytest.mark.parametrize(("cards", "words"), [(0.25, ", 0.25 of a card"), (1.0, ", 1 card")])
def test_the_user_s_share_of_a_card_stands(cluster, odd, begun, tmp_path, cards, words):
    one = cluster({"num_cpus": 4, "num_gpus": 1})
    progress, options = Words(), ClusterOptions(one.address, cards)
    run(study_of(0), tmp_path / "out", pool=WorkerPool("ray", None, options), progress=progress)
    assert sum(words in note for note in progress.notes) == 1


def test_more_cards_than_a_node_has_are_refused_in_a_sentence(cluster, odd, begun, tmp_path):
    one = cluster({"num_cpus": 2, "num_gpus": 1})
    with pytest.raises(lb.LorabenchError, match=r"asks for 4 GPUs .* \(GPUs of the largest: 1\)"):
        run(study_of(0), tmp_path / "out", pool=WorkerPool("ray", None, ClusterOptions(one.address, 4.0)))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="hides a folder from a node: needs root")
def test_a_node_that_does_not_see_the_results_directory_sends_its_files(cluster, odd, begun, tmp_path):
    head = cluster({"num_cpus": 0})
    out = tmp_path / "out"
    out.mkdir()
    ray_command = str(Path(sys.executable).with_name("ray"))
    hidden = f"mount -t tmpfs none {out} && exec {ray_command} start --address={head.address} --num-cpus=1 --block"
    node = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"{hidden} --object-store-memory={STORE}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for_cores(head.address, 1)
        plan = run(study_of(102), out, pool=WorkerPool("ray", None, ClusterOptions(head.address)), progress=Words())
        (result,) = plan.store.results()
        assert result.outcome == "finished"
        folder = plan.store.cells_folder / result.cell.id
        assert (folder / "curve.csv").read_text() == "step,loss\n1,2.0\n"
        assert b"from a child of ours" in (folder / "log.txt").read_bytes()
    finally:
        os.killpg(node.pid, 15)
        node.wait()


def test_packs_on_ray_have_the_results_of_one_machine(cluster, tmp_path, monkeypatch):
    """Real cells: the pack of each seed's two ranks stays on its actor."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = cluster({"num_cpus": 1})
    (tmp_path / "study.yaml").write_text(REAL)
    there = lb.run(
        tmp_path / "study.yaml", tmp_path / "ray", executor="ray", cluster=ClusterOptions(one.address), pack=2
    )
    here = lb.run(tmp_path / "study.yaml", tmp_path / "here", pack=2)
    ours, theirs = ({r.cell.id: r for r in results.results} for results in (there, here))
    assert ours.keys() == theirs.keys() and len(ours) == 4
    for cell, result in ours.items():
        assert result.outcome == "finished" and result.value("pack_cells") == 2
        for metric in ("eval_loss", "train_loss", "forgetting", "train_tokens"):
            assert result.value(metric) == theirs[cell].value(metric)
        left = [sorted(os.listdir(r.store.cells_folder / cell)) for r in (there, here)]
        assert left[0] == left[1]


def test_a_cluster_that_another_program_started_for_itself_is_not_joined(odd, begun, tmp_path):
    """It ends with that program: two runs beside each other, of which the first ends."""
    own = "import ray; ray.init(address='local', include_dashboard=False, num_cpus=1); print('up', flush=True); input()"
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    other = subprocess.Popen([sys.executable, "-c", own], stdin=subprocess.PIPE, **quiet)
    assert any("up" in line for line in other.stdout)

    def end_the_other(event):
        if event.step > 10 and other.poll() is None:
            other.communicate()

    plan = run(
        study_of(204), tmp_path / "out", pool=WorkerPool("ray", 1, ClusterOptions()), progress=Words(end_the_other)
    )
    assert other.poll() is not None
    assert [r.outcome for r in plan.store.results()] == ["finished"] and begun() == [204]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("auto", r"no Ray cluster answers at this machine .*ray start --head"),
        ("127.0.0.1:9", r"no Ray cluster answers at 127.0.0.1:9 \(.*refused\).*ray start --head"),
        ("127.0.0.1:99999", r"no Ray cluster answers at 127.0.0.1:99999 "),
        ("nowhere.invalid:6379", r"no Ray cluster answers at nowhere.invalid:6379 "),
        ("nowhere", r"no Ray cluster answers at nowhere "),
    ],
)
def test_an_address_where_nobody_answers_is_a_sentence_within_seconds(odd, begun, tmp_path, address, words):
    began = time.monotonic()
    with pytest.raises(lb.LorabenchError, match=words):
        run(study_of(0), tmp_path / "out", pool=WorkerPool("ray", None, ClusterOptions(address)))
    assert time.monotonic() - began < 60


def test_an_address_that_ray_start_left_behind_is_no_cluster(odd, begun, tmp_path, monkeypatch):
    """Its machine was switched off, say: a cluster of this machine alone is started, at once."""
    import ray._private.utils

    monkeypatch.setattr(ray._private.utils, "read_ray_address", lambda *_: "127.0.0.1:9")
    plan = run(study_of(0), tmp_path / "out", pool=WorkerPool("ray", 1, ClusterOptions()), progress=Words())
    assert [r.outcome for r in plan.store.results()] == ["finished"]
