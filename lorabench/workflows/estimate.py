"""The memory that one training step needs, and what makes it fit a card. Sees both arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorabench.config import hub
from lorabench.config.checkpoint import stored_quantization
from lorabench.config.gpus import find_gpu
from lorabench.config.trainer import OWN, Trainer, find_trainer
from lorabench.errors import LorabenchError
from lorabench.formatting import size

if TYPE_CHECKING:
    import pandas as pd

    from lorabench.config.gpus import Gpu
    from lorabench.memory.estimate import Estimate
    from lorabench.memory.remedies import Remedies, Remedy
    from lorabench.memory.sharding import Sharding
    from lorabench.memory.train_config import TrainConfig
    from lorabench.memory.trainer_differences import Difference
    from lorabench.record.unreached import Unreached

FLASH_FROM = 8
"""compute capability that FlashAttention-2 needs (its README: Ampere, Ada, Hopper)"""


@dataclass(frozen=True)
class MemoryEstimate:
    """What one training step of a setting needs, in bytes; `frame()`, `to_dict()`."""

    setting: TrainConfig
    estimate: Estimate
    gpu: Gpu | None
    """the card it is held against, where one was named"""
    remedies: Remedies | None
    """what makes it fit, where it does not"""
    unreached: Unreached | None
    """weights that are neither quantized nor adapted"""
    differences: tuple[Difference, ...] = ()
    """what the trainer does otherwise than lorabench's own loop, as far as it touches this setting"""
    sharding: Sharding | None = None
    """several GPUs, of which the bytes are the fullest one's; None for a single one"""

    @property
    def peak_bytes(self) -> int:
        """The predicted peak of the training step."""
        return self.estimate.peak_bytes

    @property
    def fits(self) -> bool | None:
        """Whether the high end of the prediction fits the card; None without one."""
        return self.estimate.fits

    def frame(self) -> pd.DataFrame:
        """The bytes of the peak by category: a row each, which add up to `peak_bytes`."""
        import pandas as pd

        return pd.DataFrame({"bytes": self.estimate.bytes}).rename_axis("category")

    def to_dict(self) -> dict[str, object]:
        """What `lorabench estimate --json` prints: bytes as whole numbers, absent values left out."""
        estimate, card, mended = self.estimate, self.gpu, self.remedies
        step, quantization = estimate.step, self.setting.quantization
        least = mended.least if mended else None
        plain: dict[str, object] = {
            "quantization": quantization.name,
            "double_quant": quantization.double_quant,
            "stored_quantized": is_stored(self.setting),
            "total_parameters": step.total_parameters,
            "trainable_parameters": step.trainable_parameters,
            "trainable_percent": 100 * step.trainable_parameters / step.total_parameters,
            "adapter_bytes": step.adapter_bytes,
            "bytes": estimate.bytes,
            "peak_bytes": estimate.peak_bytes,
            "low_bytes": estimate.low_bytes,
            "high_bytes": estimate.high_bytes,
            "peak_at": step.peak_at,
            "gpu": card.name if card else None,
            "gpu_memory_bytes": card.memory_bytes if card else None,
            "fits": estimate.fits,
            "largest_batch_size": estimate.largest_batch_size,
            "largest_sequence_length": estimate.largest_sequence_length,
            "remedies": [remedy_dict(r) for r in mended.fitting] if mended else None,
            "least": {**remedy_dict(least), "smallest_gpu": mended.card, "largest_sequence_length": mended.length}
            if mended and least
            else None,
            "unreached": unreached_dict(self.unreached, self.setting),
        }
        plain |= trainer_dict(self.setting.trainer, self.differences)
        plain["note"] = self.setting.trainer.checkpointing_note(self.setting.training.gradient_checkpointing)
        if card is not None and card.measured is not None:
            plain["calibration"] = card.measured.words
        if self.sharding is not None:
            plain |= {"gpus": self.sharding.gpus, "strategy": self.sharding.strategy}
        return {k: v for k, v in plain.items() if v is not None}

    def __repr__(self) -> str:
        setting, estimate = self.setting, self.estimate
        rank = "" if setting.method.rank is None else f" rank {setting.method.rank}"
        lines = [
            f"MemoryEstimate of {setting.model.name}, {setting.method.name}{rank}, {setting.quantization.name}, "
            f"{setting.training.batch_size} x {setting.training.sequence_length} tokens",
            f"  peak {size(estimate.peak_bytes)}, between {size(estimate.low_bytes)} and {size(estimate.high_bytes)}",
        ]
        if setting.trainer.name != OWN:
            lines.insert(1, f"  trained by {setting.trainer.title} ({setting.trainer.released})")
        if self.gpu is not None:
            lines.append(f"  {'fits' if estimate.fits else 'may not fit'} on {self.gpu.name} ({self.gpu.capacity})")
        return "\n".join(lines)


def estimate(
    settings: dict[str, Any],
    gpu: str | Gpu | None = None,
    trainer: Trainer | None = None,
    sharding: Sharding | None = None,
) -> MemoryEstimate:
    """Of nested settings as a study has them, such as {"model": {"name": "llama-3.1-8b"}, "method": {"rank": 8}}.

    `trainer` is the program that trains, lorabench's own loop where it is absent; `sharding` names several GPUs.
    LorabenchError where a setting, the model or the card is none that is known.
    """
    card, setting = settled(settings, gpu, trainer)
    from lorabench.memory.card_planner import CardPlanner
    from lorabench.memory.estimate import estimate as predict
    from lorabench.memory.interpolate import Reuse
    from lorabench.memory.parameters import unreached_of
    from lorabench.memory.remedies import remedies
    from lorabench.memory.shares import shares_of
    from lorabench.memory.train_config import on_card
    from lorabench.memory.trainer_differences import differences

    steps = Reuse()
    shares = shares_of(setting, sharding) if sharding else None
    prediction = predict(setting, card, setting.shape.positions, steps, shares)
    mended = None
    if card and not prediction.fits and not sharding:
        mended = remedies(setting, CardPlanner(card, traced=steps.traced), prediction.largest_sequence_length)
    return MemoryEstimate(
        setting, prediction, card, mended, unreached_of(setting), differences(on_card(setting, card)), sharding
    )


def settled(
    settings: dict[str, Any], gpu: str | Gpu | None, trainer: Trainer | None = None
) -> tuple[Gpu | None, TrainConfig]:
    """The card, where one is named, and the setting; LorabenchError as of estimate."""
    card = find_gpu(gpu) if gpu else None  # before the slow imports, so that a typing error is told at once
    require_attention(card, trainer)
    hub.require_named(settings["model"]["name"])
    from lorabench.memory.validate import setting_from

    return card, setting_from(settings, card.kind if card else "cuda", trainer)


def require_attention(card: Gpu | None, trainer: Trainer | None) -> None:
    """LorabenchError for flash attention on a card that FlashAttention-2 does not run on."""
    if card and trainer and trainer.attention == "flash" and (card.kind == "cpu" or card.capability < FLASH_FROM):
        raise LorabenchError(
            f"flash attention needs a GPU of compute capability {FLASH_FROM} or more, and {card.name} is none; take"
            " --attention sdpa"
        )


def trainer_dict(trainer: Trainer, differences: Sequence[Difference] = ()) -> dict[str, object]:
    """The trainer as `--json` has it; nothing of lorabench's own loop as it is."""
    if trainer == find_trainer(OWN):
        return {}
    described = {"differences": [d.sentence for d in differences]} if differences else {}
    return {"trainer": {**trainer.to_dict(), **described}}


def is_stored(setting: TrainConfig) -> bool:
    """Whether the quantization of a setting is its checkpoint's own."""
    stored = stored_quantization(setting.model.name, setting.model.revision)
    return setting.quantization.name != "none" and stored is not None


def unreached_dict(left: Unreached | None, setting: TrainConfig) -> dict[str, object] | None:
    """What is neither quantized nor adapted; None where that is nothing."""
    if left is None:
        return None
    return {
        "parameters": left.parameters,
        "bytes": left.bytes,
        "names": list(left.names),
        "quantized": False if setting.quantization.name != "none" else None,
        "adapted": setting.method.target_parameters is not None,
    }


def remedy_dict(one: Remedy) -> dict[str, object]:
    """A change as options, as keys of a study, and what it needs."""
    return {
        "flags": one.flags,
        "set": one.changes,
        "peak_bytes": one.peak_bytes,
        "high_bytes": one.high_bytes,
        "headroom_bytes": one.headroom_bytes,
    }
