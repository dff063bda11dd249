"""One setting under every trainer: what each needs, and why they differ. Sees both arms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from lorabench.config.gpus import Gpu
from lorabench.config.trainer import ATTENTIONS, LOSSES, Trainer, find_trainer, trainers
from lorabench.errors import LorabenchError, unknown
from lorabench.formatting import size
from lorabench.workflows.estimate import settled

if TYPE_CHECKING:
    import pandas as pd

    from lorabench.memory.estimate import Estimate
    from lorabench.memory.sharding import Sharding
    from lorabench.memory.train_config import TrainConfig
    from lorabench.memory.trainer_differences import Difference


@dataclass(frozen=True)
class TrainerEstimate:
    """What one trainer needs, or why it does not train this."""

    trainer: Trainer
    estimate: Estimate | None
    differences: tuple[Difference, ...] = ()
    refused: str = ""
    note: str | None = None
    """that it would checkpoint, where the prediction is without it"""

    def to_dict(self) -> dict[str, object]:
        """A row of `lorabench estimate --trainer all --json`."""
        trainer, one = self.trainer, self.estimate
        columns = trainer.to_dict()
        plain: dict[str, object] = {"trainer": columns.pop("name"), **columns}
        if one is not None:
            plain |= {
                "peak_bytes": one.peak_bytes,
                "low_bytes": one.low_bytes,
                "high_bytes": one.high_bytes,
                "bytes": one.bytes,
                "peak_at": one.step.peak_at,
                "fits": one.fits,
                "largest_batch_size": one.largest_batch_size,
                "differences": [d.sentence for d in self.differences],
                "note": self.note,
            }
        plain["refused"] = self.refused or None
        return {k: v for k, v in plain.items() if v is not None}


@dataclass(frozen=True)
class TrainerEstimates:
    """A setting under every trainer, the least peak first, those that do not train it last; `frame()`, `to_dict()`."""

    setting: TrainConfig
    """under lorabench's own loop"""
    gpu: Gpu | None
    rows: tuple[TrainerEstimate, ...]

    def frame(self) -> pd.DataFrame:
        """A row per trainer: peak, range, fit, largest micro-batch, loss; absent for those that do not train it."""
        import pandas as pd

        left_out = ("versions", "differences", "bytes", "installed", "note")
        rows = [{k: v for k, v in row.to_dict().items() if k not in left_out} for row in self.rows]
        return pd.DataFrame(rows).set_index("trainer")

    def to_dict(self) -> dict[str, object]:
        """What `lorabench estimate --trainer all --json` prints."""
        card = {"gpu": self.gpu.name, "gpu_memory_bytes": self.gpu.memory_bytes} if self.gpu else {}
        return {**card, "trainers": [row.to_dict() for row in self.rows]}

    def __repr__(self) -> str:
        able = [row for row in self.rows if row.estimate]
        lines = [f"TrainerEstimates of {self.setting.model.name}: {len(able)} of {len(self.rows)} trainers"]
        for row in able:
            assert row.estimate is not None
            lines.append(f"  {row.trainer.name}: {size(row.estimate.peak_bytes)}")
        return "\n".join(lines)


def chosen(
    trainer: str | Trainer,
    loss: str | None = None,
    attention: str | None = None,
    kbit_preparation: bool | None = None,
    packing: bool = False,
) -> Trainer:
    """A trainer, or one by name, with the loss, attention, preparation and packing that are asked for;
    LorabenchError where it is none that is known, or has them not."""
    trainer = find_trainer(trainer) if isinstance(trainer, str) else trainer
    if loss is not None and loss not in LOSSES:
        raise LorabenchError(unknown("loss", loss, LOSSES))
    if attention is not None and attention not in ATTENTIONS:
        raise LorabenchError(unknown("attention", attention, ATTENTIONS))
    if kbit_preparation and trainer.name not in ("transformers", "trl"):
        raise LorabenchError(
            f"{trainer.title} has a preparation of quantized bases of its own, or none; --kbit-preparation is for"
            " transformers and trl, whose users call PEFT's prepare_model_for_kbit_training themselves"
        )
    return trainer.with_options(loss, attention, kbit_preparation, packing)  # type: ignore[arg-type]  # both are checked above


def sharding_of(gpus: int = 1, strategy: str | None = None) -> Sharding | None:
    """Several GPUs by number and strategy, ddp where none is named; None for one. LorabenchError for a strategy that is
    not known, or that a single GPU cannot have."""
    if gpus == 1 and strategy is None:
        return None
    from lorabench.memory.sharding import STRATEGIES, Sharding, Strategy

    if strategy is not None and strategy not in get_args(Strategy):
        raise LorabenchError(unknown("strategy", strategy, STRATEGIES))
    if gpus < 2:
        raise LorabenchError(f"strategy {strategy} is for several GPUs, but {gpus} is asked for; add --gpus 2 or more")
    return Sharding(strategy or "ddp", gpus)  # type: ignore[arg-type]  # checked above


def compare_trainers(
    settings: dict[str, Any],
    gpu: str | Gpu | None = None,
    loss: str | None = None,
    attention: str | None = None,
    kbit_preparation: bool | None = None,
    packing: bool = False,
) -> TrainerEstimates:
    """The memory of a setting under every trainer. LorabenchError where the setting itself cannot be."""
    if loss is not None and loss not in LOSSES:
        raise LorabenchError(unknown("loss", loss, LOSSES))
    own = chosen("lorabench", None, attention)
    card, setting = settled(settings, gpu, own)
    options = (loss, attention, kbit_preparation, packing)
    rows = [_row(setting, card, trainer, options) for trainer in trainers()]
    rows.sort(key=lambda row: row.estimate.peak_bytes if row.estimate else float("inf"))
    return TrainerEstimates(setting, card, tuple(rows))


def _row(
    setting: TrainConfig, card: Gpu | None, trainer: Trainer, options: tuple[str | None, str | None, bool | None, bool]
) -> TrainerEstimate:
    from lorabench.memory.estimate import largest_batch_size, predicted
    from lorabench.memory.interpolate import Reuse
    from lorabench.memory.train_config import on_card
    from lorabench.memory.trainer_differences import differences
    from lorabench.memory.validate import check

    try:
        trainer = chosen(trainer, *options)
        setting = on_card(replace(setting, trainer=trainer), card)
        check(setting)
    except LorabenchError as e:
        return TrainerEstimate(trainer, None, (), str(e))
    steps = Reuse()
    steps.extend(setting)
    one = predicted(setting, steps)
    if card is not None:
        fits, most = one.high_bytes <= card.memory_bytes, largest_batch_size(setting, card, one, steps)
        one = replace(one, fits=fits, largest_batch_size=most)
    note = trainer.checkpointing_note(setting.training.gradient_checkpointing)
    return TrainerEstimate(trainer, one, differences(setting), note=note)
