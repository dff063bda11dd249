"""What is told before a run although nothing is wrong: what a checkpoint brings, what stays as it is in a model
whatever is asked for, and what this machine is slow at.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorabench.config.paths import gguf_sentence, model_label
from lorabench.config.settings import ModelSpec
from lorabench.config.study import Cell
from lorabench.config.validity import leaves_experts
from lorabench.engine.events import Problem
from lorabench.engine.experts import unreached
from lorabench.engine.model import computes_in_bfloat16, device, meta_model, stored_form


def notices(cells: Sequence[Cell]) -> tuple[Problem, ...]:
    """Once a model, and once for all."""
    first: dict[ModelSpec, list[Cell]] = {}
    for cell in cells:
        first.setdefault(cell.model, []).append(cell)
    sentences = []
    for spec, own in first.items():
        name, stored, left = model_label(spec.name), stored_form(spec), unreached(meta_model(spec))
        if stored is not None:
            sentences.append(f"{name} is stored in {stored.words} and stays so; nothing is quantized again")
        if words_of_file := gguf_sentence(spec.name):
            sentences.append(words_of_file)
        if left is not None:
            words = left.words(
                quantized=any(c.quantization.name != "none" for c in own),
                adapted=any(leaves_experts(c.method) for c in own),
            )
            sentences += [f"{name}: {words}"] if words else []
    if asked := _emulated(cells):
        sentences.append(
            f"this CPU has no instructions for bfloat16 and emulates {' and '.join(asked)}: bfloat16 in 2 to 5 times "
            "the time of auto, which is float32 here"
        )
    return tuple(Problem(cells[0].id, "model", words, fatal=False) for words in sentences)


def _emulated(cells: Sequence[Cell]) -> list[str]:
    """The settings by which cells ask for bfloat16 on a CPU that has none."""
    if (where := device()).type != "cpu" or computes_in_bfloat16(where):
        return []
    asked = {
        "model.dtype": any(c.model.dtype == "bfloat16" for c in cells),
        "training.autocast": any(c.training.autocast == "bfloat16" for c in cells),
    }
    return [name for name, is_asked in asked.items() if is_asked]
