"""One sentence for what pydantic found: what was seen, what is allowed, what to do."""

from __future__ import annotations

import types
import typing

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lorabench import plugins
from lorabench.config.elsewhere import unknown_choice
from lorabench.config.source import Route
from lorabench.config.study import Condition, Study
from lorabench.errors import unknown

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "model_attributes": "a mapping",
}


def sentence(error: ValidationError, root: type[BaseModel] = Study) -> tuple[Route, str]:
    """(route of the fault, sentence without its place), of the most telling of an error's parts."""
    details = error.errors(include_url=False)
    first = (
        next((d for d in details if d["type"] == "extra_forbidden"), None) if details[0]["type"] == "missing" else None
    )
    first = first or details[0]  # a key that is misspelt is missing, too
    route = _fields_only(first["loc"])
    same = [d for d in details if _fields_only(d["loc"]) == route]
    # of a union's several complaints our own sentence tells most, then a list of allowed values
    best = min(same, key=lambda d: {"value_error": 0, "literal_error": 1}.get(d["type"], 2))
    return route, _sentence_for(best, route, root)


def _fields_only(location: tuple[str | int, ...]) -> Route:
    """pydantic puts union members ("constrained-str", "Literal[...]") into its routes; they are no keys of a file."""
    odd = ("function-", "constrained-", "literal[", "tuple[", "lax-or-strict")
    exact = {"str", "int", "float", "nullable", "Tune"}
    return tuple(p for p in location if not (isinstance(p, str) and (p in exact or p.lower().startswith(odd))))


def _sentence_for(detail: ErrorDetails, route: Route, root: type[BaseModel]) -> str:
    key = ".".join(str(p) for p in route)
    kind, value, context = detail["type"], detail.get("input"), detail.get("ctx") or {}
    if kind == "extra_forbidden":
        return unknown("key", key, _keys(root, route)).replace(f"'{key}'", f"'{key}'", 1)
    if kind == "missing":
        return f"'{key}' is missing; a study needs it"
    if kind == "value_error":
        return f"{key}: {context.get('error', detail['msg'])}" if key else str(context.get("error", detail["msg"]))
    if kind == "literal_error":
        allowed = str(context.get("expected", "")).replace(" or ", ", ").replace("'", "")
        names = [a.strip() for a in allowed.split(",")]
        part = next((str(p) for p in reversed(route) if isinstance(p, str)), "").rpartition(".")[2]
        named = part in ("optimizer", "schedule")
        return f"{key}: {unknown_choice(part, value, names) if named else unknown('value', value, names)}"
    bounds = {
        "greater_than_equal": ("ge", "at least"),
        "greater_than": ("gt", "above"),
        "less_than_equal": ("le", "at most"),
        "less_than": ("lt", "below"),
    }
    if kind in bounds:
        name, words = bounds[kind]
        return f"{key} is {value!r}; it must be {words} {context[name]}"
    if kind == "too_short":
        return f"{key} is empty; give at least one value, or leave it out where it may be absent"
    if kind == "string_too_short":
        return f"{key} is empty; give a name"
    if kind == "string_too_long":
        return f"{key} has {len(value)} characters; at most {context['max_length']} are allowed"
    if kind == "string_pattern_mismatch":
        return f"{key} is {value!r}; allowed: letters, digits, '.', '_' and '-', beginning with a letter or digit"
    if kind == "finite_number":
        return f"{key} is {value!r}; it must be a finite number"
    expected = next((words for prefix, words in _KINDS.items() if kind.startswith(prefix)), None)
    if expected:
        if expected == "a mapping" and route and route[-1] in ("model", "method", "quantization"):
            expected = "a name or a mapping"
        shown = (
            "empty"
            if value is None
            else (
                repr(value)
                if not isinstance(value, dict | list)
                else f"a {'mapping' if isinstance(value, dict) else 'list'}"
            )
        )
        return f"{key} is {shown}; it must be {expected}"
    return f"{key}: {detail['msg']}"


def _keys(root: type[BaseModel], route: Route) -> list[str]:
    """The keys that are allowed where the last part of a route stands, dotted like the route."""
    model: type[BaseModel] | None = root
    for part in route[:-1]:
        if part == "task":  # its options come from the plug-in, whose name the error does not carry
            every = {f for n in plugins.names("tasks") for f in plugins.load("tasks", n).Options.model_fields}
            return [".".join([*map(str, route[:-1]), f]) for f in sorted(every)]
        if model is None or str(part) not in model.model_fields:
            return []
        model = _model_in(model.model_fields[str(part)].annotation)
    fields = {} if model is None else model.model_fields
    return [".".join([*map(str, route[:-1]), f.alias or n]) for n, f in fields.items() if n != "imported"]


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return next((m for a in typing.get_args(annotation) if (m := _model_in(a))), None)
    return None


def paths_of(model: type[BaseModel] = Condition) -> list[str]:
    """All dotted paths that an axis may vary: "method.rank", "quantization", ..."""
    paths = []
    for name, field in model.model_fields.items():
        if name == "imported":  # what `lorabench import` writes, no setting
            continue
        paths.append(name)
        inner = _model_in(field.annotation)
        if inner is not None:
            paths.extend(f"{name}.{n}" for n in inner.model_fields)
    return paths
