"""What to run: the study file, its grid, and the identity of each cell. Imports nothing heavy."""

from lorabench.spec.grid import expand
from lorabench.spec.load import load_study
from lorabench.spec.settings import EvaluationSpec, MethodSpec, ModelSpec, QuantizationSpec, TaskSpec, TrainingSpec
from lorabench.spec.study import Cell, Condition, Study

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
