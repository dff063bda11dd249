"""Studies whose decision is planted: losses and memory by condition, and one without any effect."""

from __future__ import annotations

from lorabench.record.result import CellResult, Reading
from tests.report.stores import STUDY

THREE = STUDY.replace("seeds: [0, 1]", "seeds: [0, 1, 2]")


def with_values(values: dict[tuple[str, int | None, str], tuple[float, float]], noise: float = 0.001):  # type: ignore[no-untyped-def]
    """Puts (eval_loss, train_peak_bytes) in place, by method, rank and quantization; small noise by cell."""

    def change(result: CellResult) -> CellResult:
        cell = result.cell
        key = (cell.method.name, cell.method.rank, cell.quantization.name)
        if key not in values:
            return result
        loss, memory = values[key]
        wobble = noise * (((cell.seed + 1) * ((cell.method.rank or 7) + 3 * len(key[2]))) % 5 - 2)
        kept = tuple(r for r in result.readings if r.metric not in ("eval_loss", "train_peak_bytes"))
        return result.model_copy(
            update={
                "readings": (
                    *kept,
                    Reading(metric="eval_loss", value=loss + wobble),
                    Reading(metric="train_peak_bytes", value=memory),
                )
            }
        )

    return change


PLANTED = {
    ("lora", 1, "none"): (2.9, 1e6), ("lora", 4, "none"): (2.5, 2e6), ("lora", 16, "none"): (2.2, 3e6),
    ("lora", 1, "nf4"): (3.1, 1.5e6), ("lora", 4, "nf4"): (2.5005, 2.1e6), ("lora", 16, "nf4"): (2.19, 2.9e6),
    ("full", None, "none"): (2.1, 9e6),
}  # fmt: skip


ZERO = """
schema: 1
name: zero
question: Does alpha matter?
model: lorabench/tiny-300k
task: {name: python-docs}
method: {name: lora, rank: 4}
training: {steps: 40, batch_size: 4, sequence_length: 64, learning_rate: 3e-3}
grid: {method.alpha: [8, 16, 32, 64]}
seeds: SEEDS
reference: {method.alpha: 8}
evaluation: {lm_eval: [], forgetting: none}
comparison: {loss_margin: 0.001}
"""
