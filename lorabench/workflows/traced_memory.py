"""Advice's MemoryOracle, answered from traced training steps. Sees both arms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lorabench.advice.types import Candidate, Needs, Workload
from lorabench.config.gpus import Gpu
from lorabench.config.settings import TrainingSpec
from lorabench.config.validity import is_paged
from lorabench.memory.calibration import calibrate
from lorabench.memory.card_planner import CardPlanner
from lorabench.memory.train_config import TrainConfig

CALIBRATED = 4  # stored conditions that tell this machine's speed: each is traced, in ~0.4 s


@dataclass(frozen=True)
class TracedMemory:
    """What candidates need on a card, by traces of the base setting with each candidate's changes."""

    planner: CardPlanner
    workload: Workload
    base: TrainConfig

    @property
    def memory_bytes(self) -> int:
        """The card's usable memory."""
        return self.planner.gpu.memory_bytes

    def needs(self, candidate: Candidate) -> Needs:
        """Bytes, and seconds where they are predicted: what paging takes is not."""
        need = self.planner.need(self._setting(candidate))
        seconds = None if is_paged(candidate.optimizer) else need.seconds
        return Needs(
            need.step.trainable_parameters,
            need.peak_bytes,
            need.low_bytes,
            need.high_bytes,
            None if seconds is None else (seconds.least, seconds.most),
        )

    def is_too_large(self, candidate: Candidate) -> bool:
        """Whether the traces of a candidate that accumulates show that it does not fit."""
        return self.planner.beyond(self._setting(candidate))

    def prefetch(self, candidates: Sequence[Candidate]) -> None:
        """Traces candidates side by side, so that `needs` answers at once."""
        self.planner.prefetch([self._setting(c) for c in candidates])

    def longest_sequence(self, candidate: Candidate) -> int:
        """The longest sequence at which a candidate fits, in tokens; 0 where none does."""
        return self.planner.longest(self._setting(candidate), self.workload.sequence_length)

    def _setting(self, candidate: Candidate) -> TrainConfig:
        return setting_of(candidate, self.workload, self.base)


@contextmanager
def traced_memory(
    card: Gpu, workload: Workload, base: TrainConfig, timings: Sequence[str | Path] = ()
) -> Iterator[TracedMemory]:
    """The oracle for a card, whose tracing processes end with the block; `timings` as for recommend."""
    calibration = calibrate(card, *(timings if card.kind == "cpu" else ()), most=CALIBRATED)
    with closing(CardPlanner(card, calibration)) as planner:
        yield TracedMemory(planner, workload, base)


def setting_of(candidate: Candidate, workload: Workload, base: TrainConfig) -> TrainConfig:
    """What memory is predicted for: alpha takes none, so candidates that differ in it share a trace."""
    training = TrainingSpec(
        batch_size=candidate.micro_batch_size,
        sequence_length=workload.sequence_length,
        optimizer=candidate.optimizer,
        gradient_checkpointing=candidate.gradient_checkpointing,
        gradient_accumulation=candidate.gradient_accumulation,
    )
    model = base.model if candidate.dtype == "auto" else base.model.model_copy(update={"dtype": candidate.dtype})
    alpha = None if candidate.method.alpha is None else 16
    return replace(
        base,
        model=model,
        method=candidate.method.model_copy(update={"alpha": alpha}),
        quantization=candidate.quantization,
        training=training,
    )
