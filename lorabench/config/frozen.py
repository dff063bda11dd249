"""What study files and records are built on: immutable models, and numbers that are not truth values."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]


def _on_one_line(schema: JsonDict) -> None:
    """Sentences of the JSON Schema without the line breaks of the source; paragraphs and examples stay."""
    properties = schema.get("properties")
    for part in (schema, *(properties.values() if isinstance(properties, dict) else ())):
        if isinstance(part, dict) and isinstance(text := part.get("description"), str) and "\n\n" not in text:
            part["description"] = " ".join(text.split())


class Frozen(BaseModel):
    """Immutable, and closed: an unknown key is an error."""

    LATER: ClassVar[frozenset[str]] = frozenset()
    """fields that came after there were stored cells: at their default they do not count in a cell's id"""
    ASIDE: ClassVar[frozenset[str]] = frozenset()
    """fields that no outcome depends on: they never count in a cell's id"""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        populate_by_name=True,
        json_schema_extra=_on_one_line,
    )


class NamedSetting(Frozen):
    """A setting that may be written as its name alone: `quantization: nf4`."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: object) -> object:
        return {"name": data} if isinstance(data, str) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(core)]}
