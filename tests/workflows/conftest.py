"""The recommendation command and function are tested over the same folders as advice itself."""

from tests.advice.conftest import formula, nothing_at_hand

__all__ = ["formula", "nothing_at_hand"]
