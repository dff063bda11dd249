"""The Python API, a file per theme. No call changes its caller's process or reads a study that the caller did not
name."""

from lorabench.api.adapters import train_adapters
from lorabench.api.imports import import_results
from lorabench.api.merging import merge
from lorabench.api.predictions import compare_trainers, estimate, parameters, plan
from lorabench.api.probes import probe
from lorabench.api.recommendation import recommend
from lorabench.api.results import RunAnalysis, StudyResults, cells_frame, open_results, run, write_outputs, write_report
from lorabench.api.weights import quantization_error, spectrum, truncate
from lorabench.evidence.listing import evidence

__all__ = [
    "RunAnalysis",
    "StudyResults",
    "cells_frame",
    "compare_trainers",
    "estimate",
    "evidence",
    "import_results",
    "merge",
    "open_results",
    "parameters",
    "plan",
    "probe",
    "quantization_error",
    "recommend",
    "run",
    "spectrum",
    "train_adapters",
    "truncate",
    "write_outputs",
    "write_report",
]
