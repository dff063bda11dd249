"""What estimate tells: the memory of one training step as text or JSON, and what makes it fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lorabench.commands import trainer_text
from lorabench.commands.output import columns
from lorabench.config.architectures import find_architecture
from lorabench.config.paths import gguf_sentence
from lorabench.config.trainer import OWN, find_trainer
from lorabench.formatting import count, plural, size

if TYPE_CHECKING:
    from lorabench.config.gpus import Gpu
    from lorabench.config.trainer import Trainer
    from lorabench.memory.estimate import Estimate
    from lorabench.memory.remedies import Remedies
    from lorabench.memory.sharding import Sharding
    from lorabench.memory.train_config import TrainConfig
    from lorabench.record.unreached import Unreached
    from lorabench.workflows.estimate import MemoryEstimate

_MEANING = {
    "weights": "base weights as they are held",
    "quantization_state": "block constants of quantized weights",
    "adapters": "adapter weights",
    "gradients": "of the trained weights",
    "optimizer": "its state",
    "activations": "kept for the backward pass, and what the peak's operator holds",
    "logits": "rows x vocabulary, their float32 copy and gradient",
    "workspace": "scratch of kernels: dequantized copies",
    "communication": "gathered and reduced between GPUs",
    "framework": "CUDA context, cuBLAS, allocator",
}


def estimate(
    words: dict[str, dict[str, object]],
    gpu: str | Gpu | None,
    as_json: bool,
    trainer: Trainer | None = None,
    sharding: Sharding | None = None,
) -> str:
    """The memory of one training step."""
    from lorabench.workflows.estimate import estimate as predict

    result = predict(words, gpu, trainer, sharding)
    return json.dumps(result.to_dict(), indent=2) if as_json else as_text(result)


def as_text(result: MemoryEstimate) -> str:
    """The estimate as a small table with bars."""
    from lorabench.workflows.estimate import is_stored

    setting, memory, card = result.setting, result.estimate, result.gpu
    step, method = memory.step, setting.method
    rank = f" rank {method.rank}" if method.rank is not None else ""
    kind = (
        setting.quantization.name
        + (", double quantized" if setting.quantization.double_quant else "")
        + (" as its checkpoint stores it" if is_stored(setting) else "")
    )
    share = 100 * step.trainable_parameters / step.total_parameters
    lines = [
        (
            f"{setting.model.name}, {method.name}{rank}, {kind}, {setting.training.batch_size} x"
            f" {setting.training.sequence_length} tokens, {setting.training.optimizer}"
        ),
        (
            f"{count(step.trainable_parameters)} of {count(step.total_parameters)} parameters are trained ({share:.3g}"
            f" %); saved: {size(step.adapter_bytes)}"
        ),
        *(
            []
            if setting.trainer == find_trainer(OWN)
            else [trainer_text.named(setting.trainer, setting.quantization.name != "none")]
        ),
        *([] if result.sharding is None else [sharding_text(result.sharding, setting)]),
        "",
    ]
    widest = max(memory.bytes.values())
    for name, value in memory.bytes.items():
        if value:
            bar = "#" * round(24 * value / widest)
            lines.append(f"  {name.replace('_', ' '):<19}{size(value):>9}  {bar:<24}  {_MEANING[name]}")
    lines += [
        "",
        (
            f"  {'peak':<19}{size(memory.peak_bytes):>9}  between {size(memory.low_bytes)} and"
            f" {size(memory.high_bytes)}, reached in: {step.peak_at}"
        ),
    ]
    if card is not None:
        lines += ["", _verdict(memory, card), *(_remedy_lines(result.remedies, setting) if result.remedies else ())]
        lines += card.measured.sentences(setting.trainer.name == OWN) if card.measured else []
    lines += trainer_text.trainer_lines(setting.trainer, result.differences, setting.training.gradient_checkpointing)
    sentences = (
        gguf_sentence(setting.model.name),
        unreached_text(result.unreached, setting),
        tower_text(setting),
        preset_text(setting),
        result.gpu.precision_note(setting.trainer.name) if result.gpu is not None else None,
    )
    if any(sentences):
        lines += ["", *(f"note: {sentence}" for sentence in sentences if sentence)]
    return "\n".join(lines)


def tower_text(setting: TrainConfig) -> str:
    """What was done with an image tower; empty where there is none."""
    tower, kind = setting.shape.tower_parameters, setting.quantization.name
    if not tower:
        return ""
    full = setting.method.target_modules is None
    trained = "counts as trained, though only images give it gradients" if full else "is in memory and has no adapters"
    stored = "" if kind == "none" else f", its linear layers in {kind},"
    left = f"the image tower ({count(tower)} parameters){stored} {trained}"
    return f"the step is that of the language model on text alone; {left}"


def preset_text(setting: TrainConfig) -> str:
    """What a preset's figures leave out, and whether its shape is from memory."""
    preset = find_architecture(setting.model.name)
    return f"{preset.name} is {'; '.join(preset.remarks)}" if preset and preset.remarks else ""


def sharding_text(by: Sharding, setting: TrainConfig) -> str:
    """How several GPUs share a step, and what that is worth."""
    own = "; lorabench run itself trains on one GPU" if setting.trainer.name == OWN else ""
    return f"bytes of one of {by.gpus} GPUs under {by.strategy}, each with its own micro-batch: not measured{own}"


def unreached_text(left: Unreached | None, setting: TrainConfig) -> str:
    """The sentence on weights that are neither quantized nor adapted; empty where there are none."""
    return (
        left.words(
            quantized=setting.quantization.name != "none",
            adapted=setting.method.target_parameters is None,
            size=size(left.bytes or 0),
        )
        if left
        else ""
    )


def _verdict(memory: Estimate, card: Gpu) -> str:
    card_text = f"{card.name} ({card.capacity})"
    if memory.fits:
        most = (
            f"up to micro-batch size {memory.largest_batch_size:,} at this length, or"
            f" {memory.largest_sequence_length:,} tokens at this micro-batch size"
        )
        return f"fits on {card_text}; {most}"
    if memory.peak_bytes <= card.memory_bytes:
        return f"may not fit on {card_text}: the high end is above it"
    smaller = [f"micro-batch size {memory.largest_batch_size:,} at this length"] if memory.largest_batch_size else []
    if memory.largest_sequence_length:
        smaller.append(f"{memory.largest_sequence_length:,} tokens at this micro-batch size")
    would = f"; {' or '.join(smaller)} would fit" if smaller else ""
    return f"does not fit on {card_text}{would}"


def _remedy_lines(mended: Remedies, setting: TrainConfig) -> list[str]:
    """What makes it fit, a line each, to be pasted behind the command."""
    if mended.fitting:
        several = len(mended.fitting) > 1
        lines = [f"to make it fit, add {'one of these' if several else 'this'}:"]
        lines += columns(
            [(r.flags, f"{size(r.high_bytes)} at most", f"{size(r.headroom_bytes)} to spare") for r in mended.fitting],
            indent=2,
        )
        if any("training.gradient_accumulation" in r.changes for r in mended.fitting):
            total = setting.training.batch_size * setting.training.gradient_accumulation
            lines.append(
                f"a smaller batch with gradient accumulation keeps the optimizer step at {plural(total, 'sequence')}"
            )
        if mended.least is not None:
            lines.append(kept_method(mended, setting, mended.least.flags))
        return lines
    assert mended.least is not None
    lines = [
        f"nothing that was tried makes it fit; the smallest needs {size(mended.least.high_bytes)} at most, with:"
        f" {mended.least.flags or 'the setting as it is'}"
    ]
    lines.append(
        f"the smallest known card that holds that is {mended.card}" if mended.card else "no known card holds that"
    )
    if mended.length:
        lines.append(f"with these and --sequence-length {mended.length} it would fit here")
    return lines


def kept_method(remedies: Remedies, setting: TrainConfig, changes: str) -> str:
    """What the method itself would need, where only another one fits."""
    assert remedies.least is not None
    method = "full fine-tuning" if setting.method.name == "full" else setting.method.name
    return (
        f"{method} needs {size(remedies.least.high_bytes)} at least{f', with {changes}' if changes else ''}:"
        f" {f'a larger card ({remedies.card})' if remedies.card else 'no known card holds that'}"
    )
