"""What a model is by its configuration alone: made once from a ModelSpec, and handed on with every setting of that
model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lorabench.config import precision
from lorabench.config.settings import ModelSpec
from lorabench.engine.adapt import language_model, linear_modules
from lorabench.engine.experts import unreached
from lorabench.engine.positions import positions
from lorabench.memory.meta_model import any_model, build, configuration, has_tower, with_layers

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from lorabench.record.unreached import Unreached


@dataclass(frozen=True)
class ModelShape:
    """A model's configuration and what follows from it; each part is worked out when it is first asked for, and kept.

    Two shapes of one ModelSpec are equal. ModelError, at the first look, where the configuration cannot be had.
    """

    spec: ModelSpec

    @cached_property
    def config(self) -> PretrainedConfig:
        """transformers' configuration, not to be changed."""
        return configuration(self.spec)

    @cached_property
    def positions(self) -> int | None:
        """The longest sequence in tokens that it takes; None where it has no end."""
        return positions(self.config)

    @property
    def model(self) -> PreTrainedModel:
        """The whole model on the meta device, of any kind, to be counted; built anew each time."""
        return any_model(self.config, self.spec.trust_remote_code)

    @cached_property
    def parameters(self) -> int:
        """Number of parameters of the whole model."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def is_large(self) -> bool:
        """Whether it is large by config.precision; one layer and the embeddings tell most models apart, and 80 layers
        take 0.3 s to build."""
        import torch

        return any(
            precision.is_large(
                sum(p.numel() for p in build(part, torch.bfloat16, self.spec.trust_remote_code).parameters())
            )
            for part in (with_layers(self.config, 1), self.config)
        )

    @cached_property
    def first_layer_linear(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the adaptable linear layers of its first layer, by name."""
        return linear_modules(any_model(with_layers(self.config, 1), self.spec.trust_remote_code))

    @cached_property
    def tower_parameters(self) -> int:
        """Of an image tower and of what joins it to the language model; 0 where there is none."""
        if not has_tower(self.config):
            return 0
        model = any_model(with_layers(self.config, 1), self.spec.trust_remote_code)
        beside = set(model.parameters()) - set(language_model(model).parameters())
        head = model.get_output_embeddings()
        return sum(p.numel() for p in beside - (set(head.parameters()) if head is not None else set()))

    def unreached(self, dtype: torch.dtype) -> Unreached | None:
        """Stacks of experts and the like, which neither quantization nor adapters reach, in weights of a dtype."""
        return unreached(build(self.config, dtype, self.spec.trust_remote_code))
