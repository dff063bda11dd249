"""a Ray cluster: packs and cells are an actor's tasks, with the share of a GPU that the memory model predicts

An actor hosts a local worker (runner.remote_host) and lives as long as cells ask for its room; it is never restarted by
Ray, since what was lost is the runner's to say (runner.remote_worker). Ray's own messages are switched off, its usage
statistics, which it would send over the network, too.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lorabench import __version__
from lorabench.errors import LorabenchError
from lorabench.executors.local import ENGINE, PREDICTOR
from lorabench.runner.cluster import ClusterOptions, MachineFull, MachineLost, Room, missing
from lorabench.runner.remote_worker import RemoteWorker
from lorabench.runner.threads import COUNTS

if TYPE_CHECKING:
    from lorabench.record.card_need import CardNeed
    from lorabench.runner.messages import Command, Reply

OBJECT_STORE = 256 * 2**20  # of a cluster that is started for one machine: messages are small
LOCAL = "local"  # Ray's word for a new cluster of this machine
ANSWER_SECONDS = 10.0  # that the head of a cluster has to take a connection
INSTALL = f"pip install 'lorabench[ray]=={__version__}'"


def open_worker(threads: int | None = None) -> RemoteWorker:
    """A worker on the Ray cluster of this machine; how many threads a cell gets is the cluster's to say."""
    return open_cluster(ClusterOptions()).open_worker()


def open_cluster(options: ClusterOptions, *, engine: str = ENGINE, predictor: str = PREDICTOR) -> RayCluster:
    """The cluster that options name, joined when something is first asked of it; LorabenchError where Ray is not
    installed."""
    if importlib.util.find_spec("ray") is None:
        raise missing("ray", "ray")
    if options.address is not None and options.address.startswith("ray://"):
        raise LorabenchError(
            f"{options.address} is an address of the Ray Client, which has no streams; run lorabench on a machine of"
            " the cluster with --address auto, or give HOST:PORT of its head"
        )
    return RayCluster(options, engine, predictor)


class RayCluster:
    """Machines that Ray knows, and what conditions need of their cards."""

    def __init__(self, options: ClusterOptions, engine: str, predictor: str) -> None:
        self._options, self._engine, self._predictor = options, engine, predictor
        self._lock = threading.RLock()
        self._joined = False
        self._needs: dict[str, CardNeed] = {}

    @property
    def workers(self) -> int:
        """Cells at a time: as the user says, else the cards in the shares that conditions need, or a cell a machine."""
        if self._options.workers is not None:
            return self._options.workers
        machines = self._machines()
        cards = sum(int(m.get("GPU", 0)) for m in machines)
        if not cards:
            return len(machines)
        shares = [self._share(need, 1) for need in self._needs.values()] or [self._options.cards_per_cell or 1.0]
        cores = sum(int(m.get("CPU", 0)) for m in machines if m.get("GPU"))
        return max(1, min(int(cards / min(shares) + 1e-6), cores))

    def open_worker(self) -> RemoteWorker:
        """A worker that runs cells in this cluster."""
        return RemoteWorker(self)

    def first_room(self) -> Room:
        """A whole card, or a machine's cores."""
        return self._room(1.0 if any(m.get("GPU") for m in self._machines()) else 0.0)

    def room(self, condition: str, cells: int) -> Room:
        """By what the condition needs; a whole card where that is not known."""
        if not any(m.get("GPU") for m in self._machines()):
            return self._room(0.0)
        need = self._needs.get(condition)
        share = self._share(need, cells)
        if share >= 1 or need is None:
            return self._room(share)
        return replace(self._room(share), available=need.available(share))

    def learn(self, needs: dict[str, CardNeed]) -> None:
        """Takes what conditions need of a card."""
        self._needs |= needs

    def whole(self, room: Room) -> Room:
        """A card of its own; without cards a machine of its own."""
        if room.cards:
            return self._room(max(1.0, room.cards))
        return Room(min(int(m.get("CPU", 1)) for m in self._machines()))

    def open(self, room: Room) -> RayPlace:
        """An actor with such resources; LorabenchError where no machine has them."""
        import ray

        machines = self._machines()
        if not any(m.get("CPU", 0) >= room.threads and m.get("GPU", 0) >= room.cards for m in machines):
            most = max((int(m.get("GPU", 0)) for m in machines), default=0)
            raise LorabenchError(
                f"a cell asks for {room.cards:g} GPUs and {room.threads} CPU cores on one machine, but no machine of"
                f" the Ray cluster has them (GPUs of the largest: {most}); give a smaller --gpus-per-cell or"
                " more --workers"
            )
        from lorabench.runner.remote_host import RemoteHost

        host = ray.remote(RemoteHost).options(
            num_cpus=room.threads, num_gpus=room.cards, max_restarts=0, scheduling_strategy="SPREAD"
        )
        return RayPlace(host.remote(room.threads, self._engine, self._predictor))

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        with self._lock:
            if self._joined:
                import ray

                ray.shutdown()
            self._joined = False

    def _share(self, need: CardNeed | None, cells: int) -> float:
        """Of a card, by the user's word before the prediction."""
        if self._options.cards_per_cell is not None:
            return self._options.cards_per_cell
        return 1.0 if need is None else need.share(cells)

    def _room(self, cards: float) -> Room:
        """With the threads that belong to its share of a machine."""
        own = next((os.environ[name] for name in COUNTS if name in os.environ), None)
        machines = self._machines()
        if cards:
            cores = min(int(m["CPU"] * min(cards, m["GPU"]) / m["GPU"]) for m in machines if m.get("GPU"))
            return Room(max(1, min(cores, int(own)) if own else cores), cards, alone=cards >= 1)
        cores = min(int(m.get("CPU", 1)) for m in machines)
        if own:
            threads = min(cores, int(own))
        elif self._options.workers is None:
            threads = cores
        else:
            threads = min(cores, sum(int(m.get("CPU", 1)) for m in machines) // self._options.workers)
        return Room(max(1, threads), alone=threads >= cores)

    def _machines(self) -> list[dict[str, float]]:
        """The resources of each machine that can run something."""
        self._join()
        import ray

        machines = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) >= 1]
        if not machines:
            raise LorabenchError("the Ray cluster has no machine with a CPU core to run cells on; add one: ray start")
        return machines

    def _join(self) -> None:
        with self._lock:
            if self._joined:
                return
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            from ray._private.utils import read_ray_address  # "auto" would also join what another program started

            before = signal.getsignal(signal.SIGTERM)
            named = self._options.address or os.environ.get("RAY_ADDRESS")
            try:
                try:
                    known = read_ray_address()
                    _init(named if named and named != "auto" else known or named or LOCAL)
                except (OSError, OverflowError):
                    if named:
                        raise
                    _init(LOCAL)  # what `ray start` wrote down is gone
            except (OSError, OverflowError, RuntimeError, ValueError) as e:
                where = "this machine" if named in (None, "", "auto") else named
                reason = next(iter(str(e).strip().splitlines()), type(e).__name__)
                raise LorabenchError(
                    f"no Ray cluster answers at {where} ({reason}); start one with `ray start --head`, or leave"
                    " --address out to use this machine alone"
                ) from None
            if threading.current_thread() is threading.main_thread() and before is not None:
                signal.signal(signal.SIGTERM, before)  # which ray.init takes for itself
            self._joined = True


def _init(address: str) -> None:
    """Joins a cluster, or starts one of this machine alone, which ends with this process."""
    import ray

    host, _, port = address.rpartition(":")
    if host and port.isdecimal():  # Ray itself would wait seven minutes for one that is not there
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE} if address == LOCAL else {}
    ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **own)


class RayPlace:
    """An actor that hosts a worker."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._machine = "a machine"

    def greet(self) -> str:
        """The machine's name, once Ray has found room; LorabenchError where lorabench cannot run there."""
        greeting = self._get(self._actor.greet.remote())
        self._machine = greeting["machine"]
        if greeting["version"] != __version__:
            raise LorabenchError(
                f"{self._machine} has lorabench {greeting['version']}, this machine {__version__}; install one version"
                f" on all: {INSTALL}"
            )
        return self._machine

    def sees(self, path: str, text: str) -> bool:
        """Whether a file with this text is at this path there, too."""
        return bool(self._get(self._actor.sees.remote(path, text)))

    def send(self, chunk: bytes) -> None:
        """Bytes of a tar file of what the next cell finds in its folder."""
        self._get(self._actor.receive.remote(chunk))

    def ask(self, command: Command, shared: bool) -> Iterator[Reply]:
        """The replies to a command."""
        for reference in self._actor.serve.options(num_returns="streaming").remote(command, shared):
            yield self._get(reference)

    def close(self) -> None:
        """Kills the actor; its worker's process ends with it."""
        import ray

        if ray.is_initialized():
            ray.kill(self._actor)

    def _get(self, reference: Any) -> Any:
        import ray
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        try:
            return ray.get(reference)
        except RayTaskError as e:
            raise RuntimeError(f"a worker on {self._machine} broke: {e}") from None
        except OutOfMemoryError as e:
            raise MachineFull(
                f"the memory of {self._machine} was full and Ray ended its worker: {_reason(e)}"
            ) from None
        except RayError as e:
            if "creation task" in str(e):
                raise LorabenchError(
                    f"a worker cannot start on the Ray cluster ({_last_line(e)}); each of its machines needs lorabench:"
                    f" {INSTALL}"
                ) from None
            raise MachineLost(f"{self._machine} was lost ({_reason(e)})") from None


def _reason(error: Exception) -> str:
    """The sentence of a message of Ray that says why; advice on what may cause it follows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "because" in line or "unavailable" in line or "node" in line.lower()]
    return (telling or lines or [type(error).__name__])[0].partition(". ")[0].rstrip(".")


def _last_line(error: Exception) -> str:
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1]
