"""lorabench: which LoRA rank, method and quantization to take, by what each gains and what it needs.

    import lorabench as lb
    results = lb.run(lb.load_study("studies/quickstart.yaml"))
    results.frame()

Names are imported when they are first used, so that `import lorabench` takes milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorabench.api import (
        StudyResults,
        compare_trainers,
        estimate,
        evidence,
        import_results,
        merge,
        open_results,
        parameters,
        plan,
        probe,
        quantization_error,
        recommend,
        run,
        spectrum,
        train_adapters,
        truncate,
    )
    from lorabench.config import Cell, Study, expand, load_study
    from lorabench.config.adapter import AdapterSetting
    from lorabench.errors import LorabenchError
    from lorabench.workflows.adapter_training import TrainedAdapter

__version__ = "0.2.0"

_HOMES = {
    "load_study": "lorabench.config",
    "expand": "lorabench.config",
    "Study": "lorabench.config",
    "Cell": "lorabench.config",
    "AdapterSetting": "lorabench.config.adapter",
    "TrainedAdapter": "lorabench.workflows.adapter_training",
    "run": "lorabench.api",
    "open_results": "lorabench.api",
    **dict.fromkeys(
        (
            "estimate",
            "evidence",
            "compare_trainers",
            "plan",
            "probe",
            "recommend",
            "parameters",
            "spectrum",
            "train_adapters",
            "truncate",
            "quantization_error",
            "import_results",
            "merge",
        ),
        "lorabench.api",
    ),
    "StudyResults": "lorabench.api",
    "LorabenchError": "lorabench.errors",
}

__all__ = [
    "AdapterSetting",
    "Cell",
    "LorabenchError",
    "Study",
    "StudyResults",
    "TrainedAdapter",
    "__version__",
    "compare_trainers",
    "estimate",
    "evidence",
    "expand",
    "import_results",
    "load_study",
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
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'lorabench' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
