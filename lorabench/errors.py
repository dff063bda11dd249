"""What can go wrong for a user, each as one sentence: what was seen, what is allowed, what to do.

The CLI prints the sentence and ends with exit code 2; a traceback is for faults of lorabench itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LorabenchError(Exception):
    """Base of all errors that a user can mend; str() is the one sentence.

    Example:
        >>> import lorabench as lb
        >>> try:
        ...     lb.estimate("lorabench/tiny-300k", gpu="no-such-card")
        ... except lb.LorabenchError as error:
        ...     print("no-such-card" in str(error))
        True
    """


class StudyError(LorabenchError):
    """A study file says something that cannot be run; the sentence opens with file and line."""


class ModelError(LorabenchError):
    """A model cannot be found, loaded or adapted as asked."""


class UnpredictableError(ModelError):
    """A model is known, and its training step cannot be predicted."""


class DataError(LorabenchError):
    """A data file is missing, unreadable, or has not the columns that a template names."""


class StoreError(LorabenchError):
    """A results directory is missing, or holds what this version cannot read."""


class DamagedRecordError(StoreError):
    """A cell's stored result, or a file beside it, is not what was written."""


class DeviceError(LorabenchError):
    """This machine lacks what a cell asks for (a CUDA-only optimizer, say)."""


def unknown(what: str, value: object, allowed: Iterable[object]) -> str:
    """ "unknown method 'lroa'; did you mean 'lora'? allowed: dora, full, lora"."""
    names = [str(a) for a in allowed]
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near and near[0] != str(value) else ";"
    return f"unknown {what} '{value}'{hint} allowed: {', '.join(names) or 'none'}"
