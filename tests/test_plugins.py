"""A module elsewhere becomes a plug-in by its name, which nobody else has."""

from __future__ import annotations

import pytest

from lorabench import plugins
from lorabench.errors import LorabenchError


def test_a_name_that_is_taken_is_refused_with_what_to_do():
    before = plugins.load("methods", "lora")
    with pytest.raises(LorabenchError) as refused:
        plugins.register("methods", "lora", "tests.synthetic")
    assert str(refused.value) == "there is already a method 'lora'; choose another name"
    assert plugins.load("methods", "lora") is before
