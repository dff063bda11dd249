"""Which setting to take for a model on a card: predicted, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench.api.predictions import card_named, modules

if TYPE_CHECKING:
    from lorabench.advice.types import Priority, Recommendation


def recommend(
    model: str,
    *,
    gpu: str,
    sequence_length: int | None = None,
    global_batch_size: int = 16,
    examples: int | None = None,
    tokens: int | None = None,
    studies: Sequence[str | Path] = (),
    task: str | None = None,
    priority: Priority = "accuracy",
    tolerated_loss: float | None = None,
    target_parameters: str | Sequence[str] | None = None,
    trainer: str = "lorabench",
    loss: str | None = None,
    attention: str | None = None,
    kbit_preparation: bool | None = None,
    packing: bool = False,
    calibrations: str | Path | None = None,
) -> Recommendation:
    """Which rank, method and quantization to take for a model on a card, with the evidence for it.

    Args:
        model: as for estimate.
        gpu: as for plan.
        sequence_length: tokens of a training sequence at most; absent: a study's default, which a note says.
        global_batch_size: sequences of an optimizer step, over all micro-batches.
        examples: training examples.
        tokens: training tokens of one epoch.
        studies: results directories to learn from; quality is from the literature where there is none.
        task: kind of task, as studies name it.
        priority: accuracy, memory or speed.
        tolerated_loss: how much worse than the best still counts as good, as the answer shows its quality: points
            (percent) of a score, measured or published, nats of a loss; the least rank within it is taken.
        target_parameters: as for estimate.
        trainer: as for estimate.
        loss: as for estimate.
        attention: as for estimate.
        kbit_preparation: as for estimate.
        packing: as for estimate.
        calibrations: as for estimate.
    Returns:
        Recommendation: ranked recommendations with memory, time and evidence, and what is ruled out.
    Raises:
        LorabenchError: a value is none that is allowed.
    Example:
        >>> import lorabench as lb
        >>> answer = lb.recommend("lorabench/tiny-300k", gpu="24GB", sequence_length=64, global_batch_size=2)
        >>> bool(answer.frame().high_bytes.max() < 24e9)
        True
    """
    from lorabench.workflows import recommend as workflow
    from lorabench.workflows.trainers import chosen

    return workflow.recommend(
        model,
        card_named(gpu, calibrations) or gpu,
        sequence_length,
        batch_size=global_batch_size,
        examples=examples,
        tokens=tokens,
        studies=studies,
        priority=priority,
        tolerated_loss=tolerated_loss,
        task=task,
        target_parameters=modules(target_parameters),
        timings=studies,
        trainer=chosen(trainer, loss, attention, kbit_preparation, packing),
    )
