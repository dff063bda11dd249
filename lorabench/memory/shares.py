"""What one of several GPUs keeps of a traced step: memory.sharding on the whole adapted model, and the words that a
user names strategies with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lorabench.memory.meta_model import TRACING, adapted, with_layers
from lorabench.memory.sharding import Sharding, sharded
from lorabench.memory.step_dtypes import resolve_compute_dtype, resolve_dtype
from lorabench.memory.trace import layers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lorabench.memory.step_profile import StepProfile
    from lorabench.memory.train_config import TrainConfig


@dataclass(frozen=True)
class Shares:
    """A model that several GPUs train together."""

    by: Sharding
    model: PreTrainedModel

    def of(self, step: StepProfile) -> StepProfile:
        """The step of the fullest GPU; that its peak is reached where one GPU's is, is taken for granted."""
        parts = sharded(step.parts, self.model, layers_of(self.model), self.by)
        return replace(step, parts=parts, peak_bytes=sum(parts.values()))


def shares_of(setting: TrainConfig, by: Sharding) -> Shares:
    """For a setting; its model is built whole, on the meta device. ModelError where it cannot be built."""
    layers = setting.shape.config.get_text_config().num_hidden_layers
    with TRACING:
        whole = with_layers(setting.shape.config, layers)
        model = adapted(setting, whole, resolve_dtype(setting), resolve_compute_dtype(setting))
    return Shares(by, model)
