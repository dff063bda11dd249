"""What to run: the study file, its grid, and the identity of each cell. Imports nothing heavy."""

from lorabench.config.grid import expand
from lorabench.config.load import load_study
from lorabench.config.settings import EvaluationSpec, MethodSpec, ModelSpec, QuantizationSpec, TaskSpec, TrainingSpec
from lorabench.config.study import Cell, Condition, Study

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
