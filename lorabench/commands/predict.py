"""What the CLI shows of predictions: estimate, plan, parameters, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lorabench.config.paths import model_label
from lorabench.formatting import DASH, count, plural, seconds, size

if TYPE_CHECKING:
    from lorabench.config.gpus import Gpu
    from lorabench.config.source import Source
    from lorabench.memory.estimate import Estimate
    from lorabench.memory.plan import Row
    from lorabench.memory.remedies import Remedies
    from lorabench.memory.roofline import Seconds
    from lorabench.memory.train_config import Setting
    from lorabench.record.unreached import Unreached
    from lorabench.report.table_model import Table

_MEANING = {
    "weights": "base weights as stored",
    "quantization_state": "block constants of quantised weights",
    "adapters": "adapter weights",
    "gradients": "of the trained weights",
    "optimizer": "its state",
    "activations": "kept for the backward pass, and what the peak's operator holds",
    "logits": "rows x vocabulary, their float32 copy and gradient",
    "workspace": "scratch of kernels: dequantised copies",
    "framework": "CUDA context, cuBLAS, allocator",
}


HERE = ("reports", "runs")
"""where the command line looks for stored studies"""


def estimate(words: dict[str, Any], gpu: str | None, as_json: bool) -> str:
    """The memory of one training step."""
    from lorabench.workflows.estimate import estimate as predict

    one = predict(words, gpu)
    if as_json:
        return json.dumps(one.to_dict(), indent=2)
    return as_text(one.setting, one.estimate, one.gpu, one.unreached, one.remedies)


def as_text(
    setting: Setting, made: Estimate, card: Gpu | None, left: Unreached | None = None, mended: Remedies | None = None
) -> str:
    """The estimate as a small table with bars."""
    from lorabench.workflows.estimate import is_stored

    step, method = made.step, setting.method
    rank = f" rank {method.rank}" if method.rank is not None else ""
    kind = (
        setting.quantization.name
        + (", double quantised" if setting.quantization.double_quant else "")
        + (" as its checkpoint stores it" if is_stored(setting) else "")
    )
    share = 100 * step.trainable_parameters / step.total_parameters
    lines = [
        f"{setting.model.name}, {method.name}{rank}, {kind}, {setting.training.batch_size} x {setting.training.sequence_length} tokens, {setting.training.optimizer}",
        f"{count(step.trainable_parameters)} of {count(step.total_parameters)} parameters are trained ({share:.3g} %); saved: {size(step.adapter_bytes)}",
        "",
    ]
    widest = max(made.bytes.values())
    for name, value in made.bytes.items():
        if value:
            bar = "#" * round(24 * value / widest)
            lines.append(f"  {name.replace('_', ' '):<19}{size(value):>9}  {bar:<24}  {_MEANING[name]}")
    lines += [
        "",
        f"  {'peak':<19}{size(made.peak_bytes):>9}  between {size(made.low_bytes)} and {size(made.high_bytes)}, reached in: {step.peak_at}",
    ]
    if card is not None:
        lines += ["", _verdict(made, card), *(_remedy_lines(mended, setting) if mended else ())]
    if told := _unreached_text(left, setting):
        lines += ["", f"note: {told}"]
    return "\n".join(lines)


def _unreached_text(left: Unreached | None, setting: Setting) -> str:
    return (
        left.words(quantised=setting.quantization.name != "none", adapted=True, size=size(left.bytes or 0))
        if left
        else ""
    )


def _verdict(made: Estimate, card: Gpu) -> str:
    room = f"{card.name} ({card.capacity})"
    if made.fits:
        most = f"up to batch size {made.largest_batch_size:,} at this length, or {made.largest_sequence_length:,} tokens at this batch size"
        return f"fits on {room}; {most}"
    if made.peak_bytes <= card.memory_bytes:
        return f"may not fit on {room}: the high end is above it"
    other = f"; batch size {made.largest_batch_size:,} would" if made.largest_batch_size else ""
    shorter = (
        f"{' or' if other else ';'} {made.largest_sequence_length:,} tokens at this batch size would"
        if made.largest_sequence_length
        else ""
    )
    return f"does not fit on {room}{other}{shorter}"


def _remedy_lines(mended: Remedies, setting: Setting) -> list[str]:
    """What makes it fit, a line each, to be pasted behind the command."""
    if mended.fitting:
        several = len(mended.fitting) > 1
        lines = [f"to make it fit, add {'one of these' if several else 'this'}:"]
        lines += [
            f"  {line}"
            for line in columns(
                [
                    (r.flags, f"{size(r.high_bytes)} at most", f"{size(r.headroom_bytes)} to spare")
                    for r in mended.fitting
                ]
            )
        ]
        if any("training.gradient_accumulation" in r.changes for r in mended.fitting):
            total = setting.training.batch_size * setting.training.gradient_accumulation
            lines.append(
                f"a smaller batch with gradient accumulation keeps the optimizer step at {plural(total, 'sequence')}"
            )
        if mended.least is not None:
            lines.append(_kept_method(mended, setting, mended.least.flags))
        return lines
    assert mended.least is not None
    lines = [
        f"nothing tried makes it fit; the least is {size(mended.least.high_bytes)} at most, with: {mended.least.flags or 'the setting as it is'}"
    ]
    lines.append(
        f"the smallest known card that holds that is {mended.card}" if mended.card else "no known card holds that"
    )
    if mended.length:
        lines.append(f"with these and --sequence-length {mended.length} it would fit here")
    return lines


def _kept_method(found: Remedies, setting: Setting, changes: str) -> str:
    """What the method itself would need, where only another one fits."""
    assert found.least is not None
    method = "full fine-tuning" if setting.method.name == "full" else setting.method.name
    return f"{method} needs {size(found.least.high_bytes)} at least{f', with {changes}' if changes else ''}: {f'a larger card ({found.card})' if found.card else 'no known card holds that'}"


def plan(source: Any, gpu: str, as_json: bool) -> str:
    """Each condition of a study on a card, and the sum."""
    from lorabench.config.load import read_study
    from lorabench.workflows.plan import FITS
    from lorabench.workflows.plan import plan as predict

    planned = predict(read_study(source), gpu, HERE, source)
    if as_json:
        return json.dumps(planned.to_dict(), indent=2)
    card, words, rows = planned.gpu, planned.names, planned.rows
    settings, left, mended = planned.settings, planned.unreached, planned.remedies
    lines = [("condition", "trainable", "peak", "at most", card.name, "time of a seed", "of it training")]
    for word, row in zip(words, rows, strict=True):
        if row.step is None or row.peak_bytes is None or row.high_bytes is None:
            lines.append((word, "0", DASH, DASH, DASH, _range(row.whole), DASH))
            continue
        lines.append(
            (
                word,
                count(row.step.trainable_parameters),
                size(row.peak_bytes),
                size(row.high_bytes),
                FITS[row.fits(card)],
                _range(row.whole),
                _range(row.seconds),
            )
        )
    counted = [r for r in rows if r.whole and r.fits(card) is not False]
    timed = [r.whole for r in counted if r.whole]
    n = planned.seeds
    total = (
        _total(n, timed, [r.seconds for r in counted if r.seconds], card)
        + (", without what does not fit" if any(r.fits(card) is False for r in rows) else "")
        if timed
        else ""
    )
    notes = dict.fromkeys(
        f"note: {model_label(s.model.name)}, {s.quantization.name}: {_unreached_text(one, s)}"
        for s, one in zip(settings, left, strict=True)
        if s is not None and one is not None
    )
    remedy = _plan_remedies(words, rows, settings, mended, card)
    return "\n".join(
        [
            *columns(lines),
            "",
            f"{card.name}: {card.capacity}",
            *remedy,
            *filter(None, (total, planned.time_basis)),
            *notes,
            "memory and time of training are predicted, none is measured; an evaluation with many sequences at once (evaluation.batch_size) may need more memory",
        ]
    )


def _plan_remedies(
    words: Sequence[str],
    rows: Sequence[Row],
    settings: Sequence[Setting | None],
    mended: dict[Setting, Remedies],
    card: Gpu,
) -> list[str]:
    """A line for each condition that does not surely fit: what to write into the study."""
    lines, more = [], 0
    for word, row, setting in zip(words, rows, settings, strict=True):
        if setting is None or row.fits(card):
            continue
        if setting not in mended:
            more += 1
            continue
        found = mended[setting]
        if found.fitting:
            one = found.fitting[0]
            kept = f"; {_kept_method(found, setting, found.least.keys)}" if found.least is not None else ""
            lines.append(f"  {word}: {one.keys} ({size(one.high_bytes)} at most){kept}")
        else:
            assert found.least is not None
            lines.append(
                f"  {word}: nothing tried; {size(found.least.high_bytes)} at least with {found.least.keys or 'the setting as it is'}; {f'the smallest known card for that is {found.card}' if found.card else 'no known card holds that'}"
            )
    more_line = [f"  and {plural(more, 'other condition')}: lorabench estimate says it of each"] if more else []
    return ["to make them fit, write into the study or give with --set:", *lines, *more_line] if lines else []


def _range(time: Seconds | None) -> str:
    return f"{seconds(time.least)} to {seconds(time.most)}" if time else DASH


def _total(seeds: int, whole: Sequence[Seconds], training: Sequence[Seconds], card: Gpu) -> str:
    """ "0.4 to 0.9 GPU hours for 3 seeds, about 70 % of it training; the rest is loading, evaluation and decomposition" """
    least, most = sum(t.least for t in whole), sum(t.most for t in whole)
    share = sum(t.least + t.most for t in training) / max(least + most, 1e-9)
    hours = "hours" if card.kind == "cpu" else "GPU hours"
    return f"{seeds * least / 3600:.2g} to {seeds * most / 3600:.2g} {hours} for {plural(seeds, 'seed')}, about {100 * share:.0f} % of it training, the rest loading, evaluation and decomposition"


def parameters(model: str, ranks: list[int], target_modules: Any, method: str, as_json: bool) -> str:
    """Trainable parameters by rank."""
    from lorabench.workflows.parameters import parameters as count_them

    counts = count_them(model, ranks, target_modules, method)
    if as_json:
        return json.dumps(counts.to_dict(), indent=2)
    lines = [("rank", "trainable", "of all", "adapter (float32)", "(16 bit)")]
    for r in counts.counts:
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
        f", stored in {counts.stored.words}" + ("" if counts.stored.readable else ", which lorabench cannot train on")
        if counts.stored
        else ""
    )
    note = (
        [
            "",
            f"note: {counts.unreached.words(quantised=False, adapted=True, size=size(2 * counts.unreached.parameters))}",
        ]
        if counts.unreached
        else []
    )
    return "\n".join(
        [f"{counts.model}: {counts.counts[0].base_parameters:,} parameters{form}", "", *columns(lines), *note]
    )


def paper(source: Source) -> Table:
    """A table of the literature, computed."""
    from lorabench.config.published_tables import read_paper

    declared = read_paper(source)  # before the slow imports
    from lorabench.memory.published_quantities import reproduce
    from lorabench.report.paper import paper_table

    return paper_table(declared, reproduce(declared))


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Aligned: the first column to the left, numbers to the right."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
