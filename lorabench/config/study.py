"""A study, its conditions and its cells: frozen models of the study file.

Fields that a method or a quantization does not use are set to None (or False) when a condition is made,
so that `full` is one condition however many ranks a grid has.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, field_validator
from pydantic.json_schema import SkipJsonSchema

from lorabench import plugins
from lorabench.config.elsewhere import unknown_choice
from lorabench.config.frozen import Frozen, Seed, Whole
from lorabench.config.imported import Imported, ImportedStudy
from lorabench.config.paths import IMPORTED
from lorabench.config.settings import (
    AnalysisSpec,
    ComparisonSpec,
    EvaluationSpec,
    MethodSpec,
    ModelSpec,
    QuantizationSpec,
    SaveSpec,
    TaskSpec,
    TrainingSpec,
    Tune,
)
from lorabench.config.validity import dtype_fault, quantized_base_fault, target_parameters_fault
from lorabench.errors import LorabenchError, unknown


def _task_options(data: object, info: ValidationInfo) -> object:
    """The task plug-in's own Options, so that its fields are checked like all others."""
    if isinstance(data, TaskSpec):
        return data
    data = {"name": data} if isinstance(data, str) else data
    if info.context is IMPORTED:
        return TaskSpec.model_validate(data)
    if not isinstance(data, dict) or "name" not in data:
        raise ValueError(f"a task needs a name; allowed: {', '.join(plugins.names('tasks'))}")
    name = data["name"]
    if name not in plugins.names("tasks"):
        raise ValueError(unknown_choice("task", name, plugins.names("tasks")))
    options = plugins.load("tasks", name).Options
    odd = next((key for key in data if key not in options.model_fields), None)
    if odd is not None:
        raise ValueError(unknown(f"option of {name}", odd, list(options.model_fields)))
    return options.model_validate(data, context=info.context)


AnyTask = Annotated[SerializeAsAny[TaskSpec], BeforeValidator(_task_options)]


class Condition(Frozen):
    """A cell without its seed: the unit that is reported."""

    model: ModelSpec
    quantization: QuantizationSpec = QuantizationSpec()
    method: MethodSpec = MethodSpec()
    task: AnyTask
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    analysis: AnalysisSpec = AnalysisSpec()
    save: SaveSpec = SaveSpec()
    imported: SkipJsonSchema[Imported | None] = None
    """absent where lorabench runs it; no study file can set it"""

    def normalised(self) -> Condition:
        """The same condition with the fields that its method and quantization do not use emptied."""
        method, quantization = (
            plugins.load("methods", self.method.name),
            plugins.load("quantizations", self.quantization.name),
        )
        unused = {f: None for f in ("rank", "alpha", "dropout", "target_modules") if f not in method.FIELDS}
        for field in method.FIELDS:
            if getattr(self.method, field) is None:
                raise LorabenchError(f"method {self.method.name} needs a value for method.{field}, not null")
        if not method.FIELDS:
            unused["target_parameters"] = None
        changes: dict[str, object] = {"method": self.method.model_copy(update=unused)}
        if not quantization.DOUBLE_QUANT:
            changes["quantization"] = self.quantization.model_copy(
                update={"double_quant": False, "compute_dtype": "auto"}
            )
        if not method.TRAINS:
            changes["training"] = TrainingSpec(
                steps=0, sequence_length=self.training.sequence_length, time_limit=self.training.time_limit
            )
            changes["analysis"] = AnalysisSpec(spectra=self.analysis.spectra)
        elif not self.analysis.truncation:
            changes["analysis"] = AnalysisSpec(
                spectra=self.analysis.spectra
            )  # nothing is cut, so there is nothing to spread
        if fault := quantized_base_fault(self.method.name, self.quantization.name):
            raise LorabenchError(fault)
        if method.FIELDS and (fault := target_parameters_fault(self.method, self.analysis.truncation)):
            raise LorabenchError(fault)
        if fault := dtype_fault(self.method.name, self.model.dtype):
            raise LorabenchError(fault)
        return self.model_copy(update=changes)


class Fingerprints(Frozen):
    """Hashes of what a cell reads, so that the same names over other bytes are another cell."""

    model: str
    """of configuration, tokenizer and weights, or hub id @ commit"""
    data: str
    """of all that the task and the evaluation read"""
    large: bool = False
    """whether the model may have FLOAT32_BELOW parameters or more, so that `auto` may mean two dtypes; a hub model may
    (fingerprint.may_be_large)"""


class Cell(Condition):
    """One point of the grid with its seed: the unit that is run and stored.

    Example:
        >>> import lorabench as lb
        >>> cell = lb.expand(lb.load_study("studies/quickstart.yaml"))[0]
        >>> len(cell.id) > 6
        True
    """

    seed: int
    fingerprints: Fingerprints
    tuned_over: tuple[float, ...] = ()
    """the grid that its condition chooses the learning rate from; empty where the learning rate was given"""

    @property
    def condition(self) -> Condition:
        """As the study declares it, with the grid of learning rates in place of the cell's own."""
        declared = Condition(**{name: getattr(self, name) for name in Condition.model_fields})
        if not self.tuned_over:
            return declared
        return declared.model_copy(
            update={"training": self.training.model_copy(update={"learning_rate": Tune(tune=self.tuned_over)})}
        )

    # hashing takes ~100 microseconds, and a report asks for an id again and again
    @cached_property
    def id(self) -> str:
        """12 hex digits over all that affects the outcome; see config.fingerprint."""
        from lorabench.config.fingerprint import digest

        return digest({**self.identity[0], "seed": self.seed})

    @property
    def condition_id(self) -> str:
        """The same without the seed."""
        return self.identity[1]

    @property
    def measured_as(self) -> str:
        """Equal for cells that take the same memory on a CPU, to the byte: those of a condition, but over int8, whose
        products compute outlier columns apart, as many as activations have."""
        return self.id if self.quantization.name == "int8" else self.condition_id

    @cached_property
    def identity(self) -> tuple[dict[str, object], str]:
        """What its id is made of but the seed, and its condition's id; one value of all seeds that were made by
        model_copy."""
        from lorabench.config.fingerprint import identity

        return identity(self)

    def model_copy(self, *, update: Mapping[str, object] | None = None, deep: bool = False) -> Self:
        """A copy, which is another cell and has ids of its own."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("id", None)
        if set(update or ()) - {"seed"}:
            copied.__dict__.pop("identity", None)
        return copied


class PublishedValue(Frozen):
    """One number of a paper's table."""

    at: dict[str, object] = Field(min_length=1)
    """the conditions that it stands beside: all that agree with the given fields"""
    value: Annotated[str, BeforeValidator(str)] = Field(min_length=1, max_length=40)
    """as printed, quoted where the last digit is a zero"""


class PublishedSpec(Frozen):
    """A column of a paper's table, to stand beside ours."""

    label: str = Field(min_length=1, max_length=60)
    """what was measured there and on what, such as WikiSQL %, GPT-3 175B"""
    source: str = Field(min_length=1, max_length=200)
    """paper and table"""
    rows: tuple[PublishedValue, ...] = Field(min_length=1)


class Study(Frozen):
    """A question, a base setting, a grid, seeds and a reference: the study file.

    Example:
        >>> import lorabench as lb
        >>> lb.load_study("studies/quickstart.yaml").name
        'quickstart'
    """

    schema_version: Literal[1] = Field(alias="schema")
    """version of this format"""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """letters, digits, '.', '_' and '-': also the name of the results directory"""
    question: str = Field("", max_length=1000)
    """what the study is to answer, one sentence"""
    model: ModelSpec | None = None
    quantization: QuantizationSpec = QuantizationSpec()
    method: MethodSpec = MethodSpec()
    task: AnyTask | None = None
    training: TrainingSpec = TrainingSpec()
    grid: dict[str, Annotated[tuple[object, ...], Field(min_length=1)]] = Field(default_factory=dict, min_length=1)
    """axes: a dotted path such as method.rank, and its values; left out where nothing varies"""
    include: tuple[dict[str, object], ...] = ()
    """conditions beside the product: changes to the base setting, and a grid of their own where they need one"""
    exclude: tuple[dict[str, object], ...] = ()
    """conditions of the product that are left out: all that agree with the given fields"""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """one replicate of every condition for each"""
    tuning_seeds: Annotated[Whole, Field(ge=1)] | None = None
    """how many of the seeds choose a learning rate that is tuned; the others run at the chosen one alone; absent: all
    choose"""
    reference: dict[str, object] | None = None
    """the condition that others are compared with; absent: full fine-tuning where the study has it"""
    evaluation: EvaluationSpec = EvaluationSpec()
    analysis: AnalysisSpec = AnalysisSpec()
    save: SaveSpec = SaveSpec()
    comparison: ComparisonSpec = ComparisonSpec()
    published: tuple[PublishedSpec, ...] = ()
    """columns of published tables, shown beside the conditions they belong to"""
    imported: SkipJsonSchema[ImportedStudy | None] = None
    """where it was imported from: such a study cannot run"""

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if twice := [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]:
            raise ValueError(
                f"seed {twice[0]} appears {seeds.count(twice[0])} times, but each seed is one replicate; write it once"
            )
        return seeds
