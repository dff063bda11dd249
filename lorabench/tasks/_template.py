"""Templates such as "Q: {question}\\nA: ": text with names of columns in braces, {{ and }} for braces.

A name is looked up in the row and nowhere else: no attribute, index, conversion or format, so that a
template from a study file cannot reach into Python.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

from lorabench.errors import DataError, unknown


def parse(template: str) -> list[tuple[str, str | None]]:
    """(literal text, column after it) pairs; ValueError where a field is more than a name."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as e:
        raise ValueError(f"template {template!r}: {e}; write {{{{ and }}}} for braces") from None
    parsed = []
    for literal, field, spec, conversion in pieces:
        if field is not None and (not field.strip() or spec or conversion or set(field) & set(".[]{}")):
            raise ValueError(
                f"template {template!r}: a field is only a column's name, such as {{question}}, not an attribute,"
                " index or format; write {{ and }} for braces"
            )
        parsed.append((literal, field))
    return parsed


def fill(template: str, fields: Mapping[str, str], where: str) -> str:
    """The template with a row's values; DataError naming the columns where one is missing."""
    text = []
    for literal, field in parse(template):
        text.append(literal)
        if field is not None:
            if field not in fields:
                raise DataError(
                    f"{where}: {unknown('column', field, fields)}; name one of them in the template {template!r}"
                )
            text.append(fields[field])
    return "".join(text)


def _checked(template: str) -> str:
    parse(template)
    return template


Template = Annotated[str, AfterValidator(_checked)]
