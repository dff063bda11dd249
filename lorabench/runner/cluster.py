"""A cluster as a run sees it: what a user says of it, what a cell asks a machine for, and places where cells run.

Executors for clusters (executors/ray.py, executors/slurm.py) bring `open_cluster(options)`, which gives a Cluster;
runner.remote_worker runs cells in its places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lorabench.errors import LorabenchError

if TYPE_CHECKING:
    from lorabench.record.card_need import CardNeed
    from lorabench.runner.messages import Command, Reply
    from lorabench.runner.worker_pool import Worker


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster, and how much of it a cell gets."""

    address: str | None = None
    """of a Ray cluster: auto (the one of this machine) or HOST:PORT; absent: the one of this machine, or a new one of
    this machine alone"""
    cards_per_cell: float | None = None
    """1, a number of whole cards, or a fraction such as 0.25; absent: what the memory model predicts"""
    workers: int | None = None
    """cells at a time; absent: as many as the cluster has room for"""


@dataclass(frozen=True)
class Room:
    """What a cell asks a machine for."""

    threads: int
    """CPU threads, each of a core of its own"""
    cards: float = 0.0
    """a share of one, or whole ones"""
    available: int | None = None
    """bytes of a shared card that are the cell's, where they are known"""
    alone: bool = True
    """whether no other cell is on its card, or without cards on its machine"""


class MachineLost(Exception):
    """A machine or its worker went away under a cell: no fault of the cell."""


class MachineFull(Exception):
    """A machine's memory was full and its cluster ended the worker."""


class Place(Protocol):
    """A process on another machine that serves commands, one after another. MachineLost, MachineFull from any of its
    functions."""

    def greet(self) -> str:
        """The machine's name, once there is room for the place; LorabenchError where lorabench cannot run there."""

    def sees(self, path: str, text: str) -> bool:
        """Whether a file with this text is at this path there, too."""

    def send(self, chunk: bytes) -> None:
        """Bytes of a tar file of what the next cell finds in its folder, where the machine does not see it."""

    def ask(self, command: Command, shared: bool) -> Iterator[Reply]:
        """The replies to a command."""

    def close(self) -> None:
        """Ends it at once; called from any thread."""


class Cluster(Protocol):
    """Machines that give places."""

    @property
    def workers(self) -> int:
        """Cells that have room at a time."""

    def open_worker(self) -> Worker:
        """A worker that runs cells in this cluster."""

    def first_room(self) -> Room:
        """For the check before the first cell: the largest device that one cell may get."""

    def room(self, condition: str, cells: int) -> Room:
        """For so many cells of a condition that train at once."""

    def learn(self, needs: dict[str, CardNeed]) -> None:
        """Takes what conditions need."""

    def whole(self, room: Room) -> Room:
        """The same with nobody beside it."""

    def open(self, room: Room) -> Place:
        """A place of such room, at once: waiting for the room is its greet()'s. LorabenchError where no machine of the
        cluster has as much."""

    def close(self) -> None:
        """Leaves the cluster."""


def missing(executor: str, package: str) -> LorabenchError:
    """The sentence for an executor whose package is not installed."""
    return LorabenchError(
        f"the executor {executor} needs the package {package}, which is not installed; install it with: pip install"
        f" 'lorabench[{executor}]'"
    )
