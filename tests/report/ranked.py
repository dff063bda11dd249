"""A study of ranks and quantization whose surface is known, and the blocks that a section shows of it."""

from __future__ import annotations

import json

from lorabench.report.blocks import Block, Figure, Section

STUDY = """
schema: 1
name: ranks
question: What do rank and 4-bit weights cost?
model: lorabench/tiny-300k
task: {name: python-docs}
method: {name: lora, alpha: 16}
training: {steps: 4, learning_rate: 3e-3}
grid:
  method.rank: [1, 2, 8, 32]
  quantization: [none, nf4]
include:
  - {method: {name: full}, quantization: none, training.learning_rate: 1e-3}
  - {method: {name: base}, quantization: none}
  - {method: {name: base}, quantization: nf4}
seeds: [0, 1, 2]
evaluation: {lm_eval: [python-docs-cloze], limit: 200}
comparison: {loss_margin: 0.15}
"""


def blocks(section: Section | None, kind: type) -> list[Block]:
    assert section is not None
    return [b for b in section.blocks if isinstance(b, kind)]


def plotted(figure: Figure) -> dict:  # type: ignore[type-arg]
    return json.loads(figure.plot.to_json())  # type: ignore[no-any-return]
