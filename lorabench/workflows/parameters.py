"""Trainable parameters by rank, counted without training. Sees both arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorabench.config import hub
from lorabench.config.checkpoint import stored_quantization
from lorabench.formatting import count

if TYPE_CHECKING:
    import pandas as pd

    from lorabench.config.checkpoint import CheckpointQuantization
    from lorabench.memory.parameters import Count
    from lorabench.record.unreached import Unreached


@dataclass(frozen=True)
class ParameterCounts:
    """Trainable parameters of a model by rank; `frame()`, `to_dict()`."""

    model: str
    counts: tuple[Count, ...]
    """one a rank"""
    stored: CheckpointQuantization | None
    """how its checkpoint is quantized, where it is"""
    unreached: Unreached | None
    """weights that are not adapted"""

    @property
    def base_parameters(self) -> int:
        """Parameters of the model itself."""
        return self.counts[0].base_parameters

    def frame(self) -> pd.DataFrame:
        """A row per rank: trainable parameters, their percentage of all, bytes of the adapter in float32."""
        import pandas as pd

        return pd.DataFrame(self._ranks()).set_index("rank")

    def to_dict(self) -> dict[str, object]:
        """What `lorabench parameters --json` prints."""
        plain: dict[str, object] = {"model": self.model, "base_parameters": self.base_parameters}
        if self.stored:
            plain |= {"stored_quantized": self.stored.words, "readable": self.stored.readable}
        if left := self.unreached:
            plain["unreached"] = {
                "parameters": left.parameters,
                "bytes_in_16_bit": 2 * left.parameters,  # no precision was asked for
                "names": list(left.names),
                "adapted": False,
            }
        return {**plain, "ranks": self._ranks()}

    def _ranks(self) -> list[dict[str, object]]:
        return [
            {
                "rank": c.rank,
                "trainable_parameters": c.trainable_parameters,
                "trainable_percent": c.trainable_percent,
                "adapter_bytes": c.adapter_bytes(),
            }
            for c in self.counts
        ]

    def __repr__(self) -> str:
        ranks = ", ".join(f"{c.rank}: {count(c.trainable_parameters)}" for c in self.counts)
        return f"ParameterCounts of {self.model}, {count(self.base_parameters)} parameters\n  by rank {ranks}"


def parameters(
    model: str,
    ranks: Sequence[int],
    target_modules: str | tuple[str, ...] = "all-linear",
    method: str = "lora",
    target_parameters: str | Sequence[str] | None = None,
) -> ParameterCounts:
    """LorabenchError where the model, the method or a module is none that is known, or a rank is not possible."""
    hub.require_named(model)
    from lorabench.engine.experts import unreached
    from lorabench.memory.model_shape import ModelShape
    from lorabench.memory.parameters import count_parameters
    from lorabench.memory.validate import model_from

    shape = ModelShape(model_from(model))
    counts = count_parameters(shape, ranks, target_modules, method, target_parameters)
    left = unreached(shape.model) if target_parameters is None else None
    return ParameterCounts(model, counts, stored_quantization(shape.spec.name), left)
