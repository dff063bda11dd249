"""Does a training fit a card, in one word for scripts: fits, does not fit, or cannot be told. Sees both arms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lorabench.config.gpus import Gpu, find_gpu
from lorabench.config.trainer import OWN, find_trainer
from lorabench.errors import UnpredictableError
from lorabench.formatting import size
from lorabench.workflows.estimate import settled, trainer_dict

if TYPE_CHECKING:
    from lorabench.config.trainer import Trainer
    from lorabench.memory.estimate import Estimate
    from lorabench.memory.sharding import Sharding
    from lorabench.memory.train_config import TrainConfig

Word = Literal["fits", "does not fit", "cannot be told"]
EXIT_CODES: dict[Word, int] = {"fits": 0, "does not fit": 1, "cannot be told": 3}


@dataclass(frozen=True)
class FitVerdict:
    """Whether a setting fits a card, and the bytes that say so; `to_dict()`."""

    word: Word
    gpu: Gpu
    trainer: Trainer
    estimate: Estimate | None
    """None where the model's step cannot be predicted"""
    reason: str = ""
    """why not"""
    sharding: Sharding | None = None
    note: str | None = None
    """that the trainer would checkpoint, where the prediction is without it"""

    @property
    def exit_code(self) -> int:
        """0 fits, 1 does not, 3 cannot be told."""
        return EXIT_CODES[self.word]

    @property
    def sentence(self) -> str:
        """The line that `lorabench check` prints."""
        one = self.estimate
        if one is None:
            return f"{self.word}: {self.reason}"
        each = "" if self.sharding is None else f" on each of {self.sharding.gpus} GPUs ({self.sharding.strategy})"
        unsure = "" if self.trainer.measured and self.sharding is None else "; not measured"
        calibrated = self.gpu.measured.sentences(self.trainer.name == OWN) if self.gpu.measured else []
        sentence = (
            f"{self.word}: {self.trainer.title} needs {size(one.peak_bytes)}{each}, between {size(one.low_bytes)} and"
            f" {size(one.high_bytes)}; {self.gpu.name} has {size(self.gpu.memory_bytes)} usable{unsure}"
        )
        notes = filter(None, (self.gpu.precision_note(self.trainer.name), self.note))
        return "; ".join([sentence, *calibrated, *notes])

    def to_dict(self) -> dict[str, object]:
        """What `lorabench check --json` prints."""
        one = self.estimate
        plain: dict[str, object] = {
            "verdict": self.word,
            "exit_code": self.exit_code,
            "gpu": self.gpu.name,
            "gpu_memory_bytes": self.gpu.memory_bytes,
            "reason": self.reason or None,
            "note": self.note,
            "measured": bool(self.trainer.measured) and self.sharding is None,
        }
        if one is not None:
            plain |= {"peak_bytes": one.peak_bytes, "low_bytes": one.low_bytes, "high_bytes": one.high_bytes}
        if self.sharding is not None:
            plain |= {"gpus": self.sharding.gpus, "strategy": self.sharding.strategy}
        if self.gpu.measured is not None:
            plain["calibration"] = self.gpu.measured.words
        plain |= trainer_dict(self.trainer)
        return {k: v for k, v in plain.items() if v is not None}


def check_fit(
    settings: dict[str, Any], gpu: str | Gpu, trainer: Trainer | None = None, sharding: Sharding | None = None
) -> FitVerdict:
    """Of nested settings as for estimate: it fits where the high end does, and does not where the low end does not.

    LorabenchError where a setting, the model's name or the card is none that is known.
    """
    card = find_gpu(gpu)
    try:
        setting, one = _predicted(settings, card, trainer, sharding)
    except UnpredictableError as e:
        return FitVerdict("cannot be told", card, trainer or find_trainer(OWN), None, str(e), sharding)
    word: Word = (
        "fits"
        if one.high_bytes <= card.memory_bytes
        else "does not fit"
        if one.low_bytes > card.memory_bytes
        else "cannot be told"
    )
    note = setting.trainer.checkpointing_note(setting.training.gradient_checkpointing)
    return FitVerdict(word, card, setting.trainer, one, "", sharding, note)


def _predicted(
    settings: dict[str, Any], card: Gpu, trainer: Trainer | None, sharding: Sharding | None
) -> tuple[TrainConfig, Estimate]:
    setting = settled(settings, card, trainer)[1]
    from lorabench.memory.estimate import predicted
    from lorabench.memory.interpolate import Reuse
    from lorabench.memory.shares import shares_of
    from lorabench.memory.train_config import on_card

    setting = on_card(setting, card)
    return setting, predicted(setting, Reuse(), shares_of(setting, sharding) if sharding else None)
