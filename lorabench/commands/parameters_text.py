"""What parameters tells: trainable parameters by rank; and the tables of the literature."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lorabench.commands.output import columns
from lorabench.config.paths import find_model, gguf_sentence
from lorabench.formatting import size

if TYPE_CHECKING:
    from lorabench.config.source import Source
    from lorabench.report.table_model import Table


def parameters(
    model: str,
    ranks: list[int],
    target_modules: str | tuple[str, ...],
    method: str,
    target_parameters: str | tuple[str, ...] | None,
    as_json: bool,
) -> str:
    """Trainable parameters by rank."""
    from lorabench.workflows.parameters import parameters as count_them

    counts = count_them(model, ranks, target_modules, method, target_parameters)
    if as_json:
        return json.dumps(counts.to_dict(), indent=2)
    file = gguf_sentence(str(find_model(model, {})))
    rows, stored, left = counts.counts, counts.stored, counts.unreached
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
    note = ["", f"note: {left.words(quantized=False, adapted=True, size=size(2 * left.parameters))}"] if left else []
    note += ["", f"note: {file}"] if file else []
    return "\n".join([f"{model}: {rows[0].base_parameters:,} parameters{form}", "", *columns(lines), *note])


def paper(source: Source) -> Table:
    """A table of the literature, computed."""
    from lorabench.config.published_tables import read_paper

    declared = read_paper(source)  # before the slow imports
    from lorabench.memory.published_quantities import reproduce
    from lorabench.report.paper import paper_table

    return paper_table(declared, reproduce(declared))
