"""What parameters tells: trainable parameters by rank; and the tables of the literature."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lorabench import startup
from lorabench.config import hub
from lorabench.config.checkpoint import stored_quantization
from lorabench.formatting import aligned, size

if TYPE_CHECKING:
    from lorabench.config.source import Source
    from lorabench.report.table_model import Table


def parameters(model: str, ranks: list[int], target_modules: Any, method: str, as_json: bool) -> str:
    """Trainable parameters by rank."""
    hub.require_named(model)
    with startup.lean_imports():
        from lorabench.engine.experts import unreached
        from lorabench.memory.meta_model import any_model, configuration
        from lorabench.memory.parameters import count_parameters
        from lorabench.memory.validate import model_from

    spec = model_from(model)
    rows, stored, left = (
        count_parameters(spec, ranks, target_modules, method),
        stored_quantization(spec.name),
        unreached(any_model(configuration(spec))),
    )
    half = 2 * left.parameters if left else None  # in 16 bits: no precision was asked for
    if as_json:
        found = [
            {
                "rank": r.rank,
                "trainable_parameters": r.trainable_parameters,
                "trainable_percent": r.trainable_percent,
                "adapter_bytes": r.adapter_bytes(),
            }
            for r in rows
        ]
        plain: dict[str, Any] = {"model": model, "base_parameters": rows[0].base_parameters}
        plain |= {"stored_quantized": stored.words, "readable": stored.readable} if stored else {}
        plain |= (
            {
                "unreached": {
                    "parameters": left.parameters,
                    "bytes_in_16_bit": half,
                    "names": list(left.names),
                    "adapted": False,
                }
            }
            if left
            else {}
        )
        return json.dumps({**plain, "ranks": found}, indent=2)
    lines = [("rank", "trainable", "of all", "adapter (float32)", "(16 bit)")]
    for r in rows:
        lines.append(
            (
                str(r.rank),
                f"{r.trainable_parameters:,}",
                f"{r.trainable_percent:.3g} %",
                size(r.adapter_bytes()),
                size(r.adapter_bytes(2)),
            )
        )
    form = (
        f", stored in {stored.words}" + ("" if stored.readable else ", which lorabench cannot train on")
        if stored
        else ""
    )
    note = ["", f"note: {left.words(quantised=False, adapted=True, size=size(2 * left.parameters))}"] if left else []
    return "\n".join([f"{model}: {rows[0].base_parameters:,} parameters{form}", "", *aligned(lines), *note])


def paper(source: Source) -> Table:
    """A table of the literature, computed."""
    from lorabench.config.published_tables import read_paper

    declared = read_paper(source)  # before the slow imports
    with startup.lean_imports():
        from lorabench.memory.published_quantities import reproduce
        from lorabench.report.paper import paper_table

    return paper_table(declared, reproduce(declared))
