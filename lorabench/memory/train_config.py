"""What a prediction is made for: a condition without its task, and the kind of device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lorabench.config.gpus import Gpu, MeasuredCard
from lorabench.config.precision import DeviceKind
from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.config.study import Condition
from lorabench.config.trainer import OWN, Trainer, find_trainer
from lorabench.memory.model_shape import ModelShape

TELLING = (
    "batch_size",
    "gradient_accumulation",
    "sequence_length",
    "optimizer",
    "weight_decay",
    "gradient_checkpointing",
    "autocast",
)


@dataclass(frozen=True)
class TrainConfig:
    """All that decides how many bytes a training step takes."""

    model: ModelSpec
    quantization: QuantizationSpec
    method: MethodSpec
    training: TrainingSpec
    device: DeviceKind
    bf16: bool = True
    """whether the device computes in bfloat16: mixed precision is off by default where it does not, and attention takes
    another kernel"""
    capability: int = 8
    """the card's major compute capability, which cuBLAS's workspaces follow"""
    context_bytes: int | None = field(default=None, compare=False)
    """the CUDA context where it was measured on the card"""
    trainer: Trainer = field(default_factory=lambda: find_trainer(OWN))
    """the program that is predicted"""
    labels: int | None = None
    """labels of a micro-batch, where the loss leaves out positions that predict none; None: every position has one"""
    evaluates: bool = False
    """a micro-batch of the evaluation between steps, in the place of one"""
    shape: ModelShape = field(default=None, repr=False, compare=False)  # type: ignore[assignment]  # made below
    """of the model: handed on to every setting that this one is changed to"""

    def __post_init__(self) -> None:
        if self.shape is None or self.shape.spec != self.model:
            object.__setattr__(self, "shape", ModelShape(self.model))

    def trained(self, **changes: object) -> TrainConfig:
        """The same with other fields of its training."""
        return replace(self, training=self.training.model_copy(update=changes))


def on_card(setting: TrainConfig, gpu: Gpu | None) -> TrainConfig:
    """The setting on a card, with what was measured there; on none that is named a card with bfloat16 is meant."""
    if gpu is None:
        return setting
    return calibrated(replace(setting, bf16=gpu.bf16, capability=gpu.capability), gpu.measured)


def calibrated(setting: TrainConfig, measured: MeasuredCard | None) -> TrainConfig:
    """The setting with the context and the errors that were measured on its card; as it is where nothing was."""
    if measured is None:
        return setting
    errors = measured.errors if setting.trainer.name == OWN else None
    trainer = replace(setting.trainer, errors=errors) if errors else setting.trainer
    return replace(setting, context_bytes=measured.context_bytes, trainer=trainer)


def traced_as(setting: TrainConfig) -> TrainConfig:
    """The setting whose trace tells this one's: more micro-batches than two only repeat the second."""
    return setting if setting.training.gradient_accumulation <= 2 else setting.trained(gradient_accumulation=2)


def setting_of(
    condition: Condition,
    device: DeviceKind,
    sequence_length: int | None = None,
    trainer: Trainer | None = None,
    labels: int | None = None,
) -> TrainConfig:
    """The setting of a condition; sequence_length is that of its longest batch and labels are that batch's where they
    are known, the trainer lorabench's own loop where it is absent.

    What takes no memory (rates, schedules, alpha) has its default, so that conditions which differ in it share a
    setting.
    """
    fields = {f: getattr(condition.training, f) for f in TELLING}
    if sequence_length is not None:
        fields["sequence_length"] = sequence_length
    alpha = None if condition.method.alpha is None else MethodSpec().alpha
    return TrainConfig(
        condition.model,
        condition.quantization,
        condition.method.model_copy(update={"alpha": alpha}),
        TrainingSpec(**fields),
        device,
        trainer=trainer or _own(condition.training),
        labels=labels,
    )


def _own(training: TrainingSpec) -> Trainer:
    """lorabench's own loop with a condition's loss."""
    own = find_trainer(OWN)
    return own if training.loss == own.loss_in_force else replace(own, loss=training.loss)
