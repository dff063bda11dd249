"""What a condition is made of: the parts of a study file, one line of meaning under each field, and every default."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from lorabench import plugins
from lorabench.config.elsewhere import unknown_choice
from lorabench.config.frozen import Frozen, NamedSetting, Number, Whole
from lorabench.config.paths import IMPORTED, DataFile, find_model, with_gguf_file

GROUPS = ("all-linear", "attention", "mlp")  # of target modules
EXPERTS = "experts"  # of target parameters
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class ModelSpec(NamedSetting):
    """Which pretrained model is adapted."""

    revision: str | None = None
    """commit, tag or branch of a hub id"""
    name: str = Field(min_length=1)
    """shipped name (lorabench/tiny-1m), local directory, hub id, or a GGUF file: its path, or
    owner/repository/file.gguf; its weights are dequantized as they load"""
    gguf_file: str | None = None
    """a GGUF file in a directory or hub repository that the name gives; joined to it"""
    dtype: Dtype = "auto"
    """precision of unquantized weights; auto: float32 below 100M parameters and on CPUs without bfloat16, else that"""
    trust_remote_code: bool = False
    """run code that the model's repository brings: only on the user's explicit word"""

    @model_validator(mode="before")
    @classmethod
    def _join(cls, data: object) -> object:
        return with_gguf_file(data) if isinstance(data, dict) else data

    @field_validator("name")
    @classmethod
    def _find(cls, name: str, info: ValidationInfo) -> str:
        return find_model(name, info.context, info.data.get("revision"))


class QuantizationSpec(NamedSetting):
    """How frozen base weights are stored."""

    name: str = "none"
    """none (as the checkpoint stores them), int8, fp4, nf4"""
    double_quant: bool = False
    """quantize the 4-bit block constants too (QLoRA section 3)"""
    compute_dtype: Dtype = "auto"
    """precision of the dequantized products; auto is the model's dtype"""

    @field_validator("name")
    @classmethod
    def _is_plugin(cls, name: str, info: ValidationInfo) -> str:
        return _plugin("quantizations", name, info)


class MethodSpec(NamedSetting):
    """How the base is adapted."""

    LATER = frozenset({"target_parameters"})
    name: str = "lora"
    """base, full, lora, rslora, dora, pissa"""
    rank: Annotated[Whole, Field(ge=1)] | None = 8
    """r, the inner dimension of B @ A"""
    alpha: Annotated[Number, Field(gt=0)] | None = 16
    """scaling is alpha / rank (alpha / sqrt(rank) for rslora)"""
    dropout: Annotated[Number, Field(ge=0, lt=1)] | None = 0.0
    """probability of zeroing an adapter's input"""
    target_modules: str | tuple[str, ...] | None = "all-linear"
    """all-linear, attention, mlp, or module names"""
    target_parameters: Literal["experts"] | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """experts, or names of parameters that are stacks of experts, which no module reaches; adapted beside modules"""

    @field_validator("name")
    @classmethod
    def _is_plugin(cls, name: str, info: ValidationInfo) -> str:
        return _plugin("methods", name, info)

    @field_validator("target_parameters", mode="before")
    @classmethod
    def _canonical_parameters(cls, names: object) -> object:
        names = (names,) if isinstance(names, str) else names
        return names if not isinstance(names, list | tuple) else EXPERTS if [*names] == [EXPERTS] else sorted({*names})

    @field_validator("target_modules", mode="before")
    @classmethod
    def _nonempty(cls, modules: object) -> object:
        if isinstance(modules, list | tuple) and not modules:
            raise ValueError("the list is empty; name at least one module, or write all-linear")
        return modules

    @field_validator("target_modules")
    @classmethod
    def _canonical_modules(cls, modules: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """One way to write a set of modules, so that the same ones are one condition."""
        if modules is None or isinstance(modules, str):
            return modules if modules in (None, *GROUPS) else (modules,)
        group = next((w for w in modules if w in GROUPS), None)
        if group is None:
            return tuple(sorted(set(modules)))
        if len(modules) == 1:
            return group
        raise ValueError(
            f"{group} stands for many modules and cannot be combined with other names; write target_modules: {group},"
            " or module names alone"
        )


Rate = Annotated[Number, Field(gt=0)]


class Tune(Frozen):
    """Learning rates that each condition chooses from: by the loss on the validation split, the same for all its
    seeds."""

    tune: tuple[Rate, ...]
    """one cell for each learning rate and seed; what is reported comes from the test split, at the chosen one"""

    @field_validator("tune")
    @classmethod
    def _rising(cls, learning_rates: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(learning_rates)) < 2:
            raise ValueError(
                "there is nothing to choose from; give two or more different learning rates, or one alone in place of"
                " the grid"
            )
        return tuple(sorted(set(learning_rates)))


def _learning_rate_kind(value: object) -> str:
    return "Tune" if isinstance(value, dict | Tune) else "float"


class TrainingSpec(Frozen):
    """How an adapter is trained."""

    LATER = frozenset({"epochs", "loss", "padding_free"})
    ASIDE = frozenset({"checkpoint_every", "time_limit"})
    steps: Whole = Field(200, ge=0, le=10**9)
    """optimizer steps"""
    epochs: Annotated[Number, Field(gt=0, le=10**6)] | None = None
    """passes over the training rows, in place of steps: ceil(epochs * ceil(ceil(rows / batch_size) /
    gradient_accumulation)) steps, as transformers' Trainer counts"""
    batch_size: Whole = Field(8, ge=1, le=10**6)
    """sequences of one forward pass (the micro-batch; on the command line --micro-batch-size): those of an
    optimizer step (--global-batch-size) divided by gradient_accumulation"""
    gradient_accumulation: Whole = Field(1, ge=1, le=10**6)
    """forward passes per optimizer step"""
    sequence_length: Whole = Field(256, ge=2, le=10**7)
    """tokens of a training sequence at most"""
    learning_rate: Annotated[
        Annotated[Rate, Tag("float")] | Annotated[Tune, Tag("Tune")], Discriminator(_learning_rate_kind)
    ] = 2e-4
    """peak of the schedule; {tune: [1e-4, 1e-3]} tries each and keeps the one with the lowest validation loss"""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """course of the learning rate after warm-up; cosine and linear end at zero"""
    warmup: Number = Field(0.05, ge=0, lt=1)
    """share of the steps in which the learning rate rises from zero"""
    optimizer: Literal["adamw", "adamw-8bit", "paged-adamw", "paged-adamw-8bit", "sgd"] = "adamw"
    """8-bit and paged ones are bitsandbytes' own"""
    weight_decay: Number = Field(0.0, ge=0)
    """decoupled, on matrices only"""
    max_grad_norm: Number = Field(1.0, gt=0)
    """gradients are clipped to this norm"""
    gradient_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, more time"""
    autocast: Literal["auto", "none", "bfloat16"] = "auto"
    """mixed precision; auto is bfloat16 on GPUs that have it, and on CPUs that do for models of 100M parameters on"""
    loss: Literal["labelled", "chunked", "full"] = "labelled"
    """what goes through the head: positions that predict a label, these a thousand at a time with logits made again in
    the backward pass (less memory, more time), or all; the loss is the same to rounding"""
    padding_free: Literal["auto", "never"] = "auto"
    """rows laid end to end without padding: the same steps to rounding; auto: on a CPU, where it costs less, the method
    has no dropout and the model keeps such rows apart"""
    checkpoint_every: Literal["auto", "never"] | Annotated[Whole, Field(ge=1)] = "auto"
    """optimizer steps between two checkpoints, from which a killed run goes on; auto: about five minutes; each takes
    the disk of what is trained three times over (full fine-tuning: 6 bytes a parameter), twice while it is replaced"""
    time_limit: Annotated[Number, Field(gt=0)] | None = None
    """seconds of a cell, all its phases together; one that takes longer is killed and recorded as failed"""

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> TrainingSpec:
        if self.epochs is not None and self.steps != type(self).model_fields["steps"].default:
            raise ValueError(f"steps {self.steps} and epochs {self.epochs:g} are both given; keep one of the two")
        return self

    def over(self, rows: int) -> TrainingSpec:
        """The same with its steps for so many training rows where epochs were given; as many as Trainer takes
        (transformers 5, set_initial_training_values), whose batches end with an epoch where these run on."""
        if self.epochs is None:
            return self
        each = max(1, math.ceil(math.ceil(rows / self.batch_size) / self.gradient_accumulation))
        return self.model_copy(update={"steps": math.ceil(self.epochs * each), "epochs": None})

    @property
    def fixed_learning_rate(self) -> float:
        """The learning rate of a cell, which is one number: `expand` makes a cell for each of a grid."""
        assert not isinstance(self.learning_rate, Tune)
        return self.learning_rate


class EvaluationSpec(Frozen):
    """What is measured after training, on data that was not trained on."""

    lm_eval: tuple[str, ...] | None = None
    """lm-eval task names, the task's own or installed ones; absent: all that the task brings"""
    limit: Annotated[Whole, Field(ge=1)] | None = None
    """items of each lm-eval task at most"""
    num_fewshot: Annotated[Whole, Field(ge=0)] | None = None
    """worked examples before each lm-eval item; absent: the task's own default"""
    include_path: DataFile | None = None
    """folder of further lm-eval task files"""
    max_sequences: Whole = Field(256, ge=1)
    """test rows (of running text: blocks) at most, the same for the loss, the accuracy and generated answers"""
    batch_size: Whole = Field(16, ge=1)
    """sequences of one evaluation pass"""
    forgetting: Literal["self", "none"] | DataFile = "self"
    """self: text sampled from the base; none; or a text file of the base's domain"""

    @field_validator("forgetting")
    @classmethod
    def _one_file(cls, value: str) -> str:
        if Path(value).is_dir():
            raise ValueError(f"{value} is a folder; give a text file, self or none")
        return value

    @field_validator("include_path")
    @classmethod
    def _one_folder(cls, value: str | None) -> str | None:
        if value is not None and Path(value).is_file():
            raise ValueError(f"{value} is a file; give the folder that holds the lm-eval task files")
        return value

    @field_validator("forgetting", mode="before")
    @classmethod
    def _none_as_word(cls, value: object) -> object:
        return "none" if value is None or value is False else value


class AnalysisSpec(Frozen):
    """What is asked of a cell beyond its own evaluation."""

    ASIDE = frozenset({"spectra"})
    spectra: Literal["full", "values", "none"] = "full"
    """what is kept of each learned change: singular values, directions and what they are beside the base; values
    alone; or nothing"""
    truncation: tuple[Annotated[Whole, Field(ge=1)], ...] = ()
    """ranks to which the learned changes are cut by SVD and evaluated again, without training"""
    per_module: bool = False
    """evaluate each cut a second time with as many parameters spread over the modules by energy"""

    @field_validator("truncation")
    @classmethod
    def _rising(cls, ranks: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(ranks)))


class SaveSpec(Frozen):
    """Which weights stay on disk after a cell; no outcome depends on it."""

    full: Literal["none", "best", "all"] = "none"
    """whole models of full fine-tuning: none, of each condition's best cell, or all"""
    adapter: Literal["none", "best", "all"] = "all"
    """adapters, in PEFT's format: none, of each condition's best cell, or all"""


class ComparisonSpec(Frozen):
    """What counts as a difference, for everything that the report concludes; no cell's outcome depends on it."""

    metric: str = Field("auto", min_length=1)
    """what the answer is about; auto: the task's own (accuracy of classify, exact_match where instruct measures it,
    else eval_loss); or any metric by its name, such as python-docs-cloze/acc"""
    loss_margin: Number = Field(0.02, gt=0)
    """difference of a loss, in nats, that does not matter: 2 % of perplexity"""
    accuracy_margin: Number = Field(0.01, gt=0, lt=1)
    """difference of an accuracy that does not matter: 0.01 is one point"""


class TaskSpec(NamedSetting):
    """What is learned; each task plug-in adds its own options to this."""

    name: str = Field(min_length=1)
    """text, instruct, classify, python-docs, planted, facts"""

    @property
    def decided_by(self) -> str:
        """The metric that answers a study of this task where the study names none."""
        return "eval_loss"


def _plugin(kind: str, name: str, info: ValidationInfo) -> str:
    if info.context is not IMPORTED and name not in plugins.names(kind):
        raise ValueError(unknown_choice(kind.removesuffix("s"), name, plugins.names(kind)))
    return name
