"""What to run: the study file, its grid, and the identity of each cell. Imports nothing heavy."""

from lorabench.spec.grid import expand
from lorabench.spec.load import load_study
from lorabench.spec.study import Cell, Condition, EvaluationSpec, MethodSpec, ModelSpec, QuantizationSpec, Study, TaskSpec, TrainingSpec

__all__ = [
    "Cell",
    "Condition",
    "EvaluationSpec",
    "MethodSpec",
    "ModelSpec",
    "QuantizationSpec",
    "Study",
    "TaskSpec",
    "TrainingSpec",
    "expand",
    "load_study",
]
