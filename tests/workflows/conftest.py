"""The recommendation command and function are tested over the same traces and folders as advice itself."""

from tests.advice.conftest import formula, nothing_at_hand, traces

__all__ = ["formula", "nothing_at_hand", "traces"]
