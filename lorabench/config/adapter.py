"""One adapter to be trained without a study, in a study file's words."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError, field_validator

from lorabench.config.explain import sentence
from lorabench.config.frozen import Frozen, Seed
from lorabench.config.settings import MethodSpec, TrainingSpec, Tune
from lorabench.errors import LorabenchError


class AdapterSetting(Frozen):
    """An adapter with its training, as a study file's `method` and `training` say them; LorabenchError for what they
    do not allow.

    Example:
        >>> import lorabench as lb
        >>> lb.AdapterSetting(method={"rank": 4}, training={"learning_rate": 1e-3}).method.rank
        4
    """

    method: MethodSpec = MethodSpec()
    """how the base is adapted: name, rank, alpha, dropout, target_modules"""
    training: TrainingSpec = TrainingSpec()
    """steps, batch size, learning rate and the rest; a learning rate is one number"""
    seed: Seed = 0
    """of the adapter's first values, its dropout and the order of the rows"""

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as e:
            raise LorabenchError(sentence(e, type(self))[1]) from None

    @field_validator("method")
    @classmethod
    def _is_adapter(cls, method: MethodSpec) -> MethodSpec:
        if method.name in ("base", "full"):
            raise ValueError(f"method {method.name} makes no adapter; allowed: dora, lora, pissa, rslora")
        return method

    @field_validator("training")
    @classmethod
    def _has_one_rate(cls, training: TrainingSpec) -> TrainingSpec:
        if isinstance(training.learning_rate, Tune):
            raise ValueError("learning_rate is one number here; give an adapter for each rate to be tried")
        return training
