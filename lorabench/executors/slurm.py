"""a SLURM cluster: array jobs by submitit, whose elements take one cell after another

An element is a worker: it waits in SLURM's queue once, not once a cell. Workers that start within GATHER_SECONDS are
one array; an element that is lost (its node, a preemption, its time limit) is submitted again and its cell goes on from
its checkpoint. Partition, account, time limit and the like are sbatch's own environment variables (SBATCH_PARTITION,
SBATCH_ACCOUNT, SBATCH_TIMELIMIT), which stand before what is said here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lorabench import __version__
from lorabench.errors import LorabenchError
from lorabench.executors.local import ENGINE, PREDICTOR
from lorabench.runner.cluster import ClusterOptions, MachineFull, MachineLost, Room, missing
from lorabench.runner.remote_worker import RemoteWorker
from lorabench.runner.served_folder import COMMANDS, LOCK, REPLIES, lines, serve
from lorabench.runner.threads import COUNTS

if TYPE_CHECKING:
    from lorabench.record.card_need import CardNeed
    from lorabench.runner.messages import Command, Reply

WORKERS = 16  # elements where the user names no number: SLURM starts those that it has room for, the others wait
THREADS = 4  # cores of an element where OMP_NUM_THREADS is not set
MINUTES = 240  # time limit of an element where SBATCH_TIMELIMIT is not set; a cell that meets it goes on in another
GATHER_SECONDS = 2.0  # in which workers that start make one array


def open_worker(threads: int | None = None) -> RemoteWorker:
    """A worker in this machine's SLURM cluster."""
    return open_cluster(ClusterOptions()).open_worker()


def open_cluster(
    options: ClusterOptions, *, submitter: str = "slurm", engine: str = ENGINE, predictor: str = PREDICTOR
) -> SlurmCluster:
    """The cluster that this machine submits to; LorabenchError where submitit or SLURM is not there. submitter:
    submitit's name of it (local: processes of this machine)."""
    if importlib.util.find_spec("submitit") is None:
        raise missing("slurm", "submitit")
    if submitter == "slurm" and shutil.which("sbatch") is None:
        raise LorabenchError("this machine cannot submit to SLURM (there is no sbatch); run lorabench on a login node")
    if options.address is not None:
        raise LorabenchError("--address is of a Ray cluster; SLURM's is the one that sbatch of this machine submits to")
    cards = options.cards_per_cell
    if cards is not None and cards < 1:
        raise LorabenchError(f"SLURM gives whole GPUs, not {cards:g} of one; give --gpus-per-cell 1 or more, or auto")
    return SlurmCluster(options, submitter, engine, predictor)


class SlurmCluster:
    """The elements of a run, submitted as they are asked for."""

    def __init__(self, options: ClusterOptions, submitter: str, engine: str, predictor: str) -> None:
        self._options, self._submitter, self._engine, self._predictor = options, submitter, engine, predictor
        self._folder = Path.home() / ".cache" / "lorabench" / "slurm" / uuid.uuid4().hex[:12]
        self._lock = threading.Lock()
        self._gathered: dict[Room, list[SlurmPlace]] = {}
        self._needs: dict[str, CardNeed] = {}
        self._cards: float | None = options.cards_per_cell
        self._threads = next((int(os.environ[name]) for name in COUNTS if name in os.environ), THREADS)

    @property
    def workers(self) -> int:
        """Elements at a time."""
        return self._options.workers or WORKERS

    def open_worker(self) -> RemoteWorker:
        """A worker that runs cells in an element."""
        return RemoteWorker(self)

    def first_room(self) -> Room:
        """As of a cell."""
        return self.room("", 1)

    def room(self, condition: str, cells: int) -> Room:
        """A whole GPU where the cluster has some, as many as the user says, or as a condition needs."""
        if self._cards is None:
            self._cards = 1.0 if _has_gpus() else 0.0
        need = self._needs.get(condition)
        several = need.cards if need is not None and self._options.cards_per_cell is None else 1
        return Room(self._threads, max(self._cards, several if self._cards else 0))

    def learn(self, needs: dict[str, CardNeed]) -> None:
        """Takes what conditions need of a card."""
        self._needs |= needs

    def whole(self, room: Room) -> Room:
        """The same: nobody shares an element's GPU."""
        return room

    def open(self, room: Room) -> SlurmPlace:
        """An element, submitted with those that are asked for within GATHER_SECONDS."""
        with self._lock:
            place = SlurmPlace(self._folder / uuid.uuid4().hex[:12])
            if room not in self._gathered:
                threading.Timer(GATHER_SECONDS, self._submit, (room,)).start()
            self._gathered.setdefault(room, []).append(place)
        return place

    def close(self) -> None:
        """Takes away the folder that the elements were spoken to in."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _submit(self, room: Room) -> None:
        with self._lock:
            places = self._gathered.pop(room)
        try:
            for place, job in zip(places, self._array(room, [p.folder for p in places]), strict=True):
                place.start(job)
        except Exception as e:  # whatever sbatch or submitit says
            for place in places:
                place.refuse(f"SLURM takes no job ({' '.join(str(e).split())}); see its message and sbatch's options")

    def _array(self, room: Room, folders: Sequence[Path]) -> list[Any]:
        """One array job with an element for each folder."""
        import submitit

        executor = submitit.AutoExecutor(self._folder / "submitit", cluster=self._submitter)
        cards = {"gpus_per_node": int(room.cards)} if room.cards else {}
        executor.update_parameters(
            name="lorabench", timeout_min=MINUTES, nodes=1, tasks_per_node=1, cpus_per_task=room.threads, **cards
        )
        count = len(folders)
        rooms = [[room.threads] * count, [self._engine] * count, [self._predictor] * count]
        return executor.map_array(serve, [str(f) for f in folders], *rooms)


class SlurmPlace:
    """An element of an array and the files that it is spoken to through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for name in (COMMANDS, REPLIES):
            (folder / name).touch()
        self._lock = FileLock(folder / LOCK, thread_local=False)  # close() comes from another thread
        with suppress(OSError, NotImplementedError):
            self._lock.acquire(timeout=0)
        self._replies = lines(folder / REPLIES)
        self._started = threading.Event()
        self._job: Any = None
        self._refused: str | None = None
        self._closed = False
        self._calls = 0
        self._machine = "an element"

    def start(self, job: Any) -> None:
        """Takes the job that was submitted for it."""
        self._job = job
        self._started.set()
        if self._closed:
            job.cancel(check=False)

    def refuse(self, reason: str) -> None:
        """Takes that there is no job."""
        self._refused = reason
        self._started.set()

    def greet(self) -> str:
        """The node's name, once SLURM has started the element."""
        (greeting,) = self._call("greet")
        if greeting["version"] != __version__:
            raise LorabenchError(
                f"{greeting['machine']} has lorabench {greeting['version']}, this machine {__version__}; run from an"
                " environment on the shared file system"
            )
        self._machine = str(greeting["machine"])
        return self._machine

    def sees(self, path: str, text: str) -> bool:
        """True; LorabenchError where the results directory is not on a shared file system."""
        if next(self._call("sees", path, text)):
            return True
        raise LorabenchError(
            f"{Path(path).parent.parent} is not seen from {self._machine}; choose a results directory on the shared"
            " file system with --out DIR"
        )

    def send(self, chunk: bytes) -> None:
        """Nothing is sent: every node sees the files."""

    def ask(self, command: Command, shared: bool) -> Iterator[Reply]:
        """The replies to a command."""
        return self._call("serve", command, shared)

    def close(self) -> None:
        """Cancels the element."""
        self._closed = True
        if self._job is not None:
            self._job.cancel(check=False)
        with suppress(OSError):
            self._lock.release()

    def _call(self, name: str, *arguments: object) -> Iterator[Any]:
        """Asks the element, and looks after it while it answers."""
        self._started.wait()
        if self._refused is not None:
            raise LorabenchError(self._refused)
        self._calls += 1
        with (self.folder / COMMANDS).open("a", encoding="utf-8") as commands:
            commands.write(json.dumps({"number": self._calls, "call": name, "arguments": arguments}) + "\n")
        ended = False
        for message in self._replies:
            if message is None:
                if ended or self._closed:
                    raise self._end()
                ended = self._job.done()  # what it wrote last is looked for once more
            elif message["number"] != self._calls:
                continue  # what follows the answer to the call before
            elif "reply" in message:
                yield message["reply"]
            elif "fault" in message:
                raise RuntimeError(f"a worker on {self._machine} broke: {message['fault']}")
            else:
                return

    def _end(self) -> Exception:
        """What its end is to the cell that it ran."""
        state, job = str(self._job.state), f"SLURM's job {self._job.job_id} on {self._machine}"
        if state.startswith("OUT_OF_ME"):
            return MachineFull(f"{job} took more memory than it was given")
        if state.startswith("CANCELLED") and not self._closed:
            return LorabenchError(
                f"{job} was cancelled; what has finished is kept, the same command continues from there"
            )
        return MachineLost(f"{job} ended ({state.lower().replace('_', ' ')})")


def _has_gpus() -> bool:
    """Whether some partition lists GPUs."""
    try:
        said = subprocess.run(["sinfo", "--noheader", "--format=%G"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "gpu" in said.stdout
