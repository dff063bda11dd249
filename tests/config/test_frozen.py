"""What all settings are built on: descriptions of the JSON Schema, closed and immutable models, numbers."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from lorabench.config.frozen import Frozen, Number, _on_one_line


class Setting(Frozen):
    """A sentence that the source breaks
    over two lines.
    """

    plain: int = 1
    """a field's sentence,
    broken as well"""
    undescribed: int = 2
    value: Number = 0.5


class WithExample(Frozen):
    """What it is.

    Example:
        >>> WithExample()
        WithExample()
    """


def test_sentences_of_the_schema_stand_on_one_line():
    schema = Setting.model_json_schema()
    assert schema["description"] == "A sentence that the source breaks over two lines."
    assert schema["properties"]["plain"]["description"] == "a field's sentence, broken as well"
    assert "description" not in schema["properties"]["undescribed"]


def test_paragraphs_and_examples_of_the_schema_keep_their_lines():
    assert WithExample.model_json_schema()["description"] == (
        "What it is.\n\nExample:\n    >>> WithExample()\n    WithExample()"
    )


def test_a_schema_without_descriptions_or_properties_stays_as_it_is():
    for schema in ({}, {"type": "object"}, {"properties": {"a": {"type": "integer"}, "b": True}}):
        before = dict(schema)
        _on_one_line(schema)
        assert schema == before


def test_a_truth_value_is_no_number():
    with pytest.raises(ValidationError, match="a number is needed, not true or false"):
        Setting(value=True)
