"""Published measurements of fine-tuning with LoRA and its relatives, as data: who measured what, where it is printed,
and what is wrong with it.

Importing any of its modules makes `lorabench.evidence` the package where the API's function of the same name was, so
the package answers for the function: it can be called, and its help is the function's (Python's data model,
"Customizing module attribute access").
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from lorabench.evidence.listing import PublishedEvidence
from lorabench.evidence.listing import evidence as _evidence


class _Package(ModuleType):
    def __call__(self, **asked: Any) -> PublishedEvidence:
        return _evidence(**asked)


__doc__ = str(_evidence.__doc__)
sys.modules[__name__].__class__ = _Package
