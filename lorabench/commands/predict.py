"""What the CLI shows of predictions: estimate, plan, parameters, as text or JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lorabench import startup
from lorabench.config import hub
from lorabench.config.checkpoint import stored_quantization
from lorabench.config.paths import model_label
from lorabench.formatting import DASH, count, plural, seconds, size

if TYPE_CHECKING:
    from lorabench.config.gpus import Gpu
    from lorabench.config.source import Source
    from lorabench.memory.calibration import Calibration
    from lorabench.memory.estimate import Estimate
    from lorabench.memory.plan import Row
    from lorabench.memory.remedies import Remedies, Remedy
    from lorabench.memory.roofline import Seconds
    from lorabench.memory.train_config import Setting
    from lorabench.record.unreached import Unreached
    from lorabench.report.table_model import Table

os.environ.setdefault(
    "TORCHDYNAMO_DISABLE", "1"
)  # nothing here is compiled, and bitsandbytes would import the compiler (~2 s)

MENDED = 6  # settings of a study whose remedy is looked for: each is some traces of about half a second

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


def estimate(words: dict[str, Any], gpu: str | None, as_json: bool) -> str:
    """The memory of one training step."""
    from lorabench.config.gpus import find_gpu

    card = find_gpu(gpu) if gpu else None  # before the slow imports, so that a typing error is told at once
    hub.require_named(words["model"]["name"])
    with startup.lean_imports():
        from lorabench.memory.card_planner import CardPlanner
        from lorabench.memory.estimate import estimate as predict
        from lorabench.memory.interpolate import Reuse
        from lorabench.memory.parameters import unreached_of
        from lorabench.memory.remedies import remedies
        from lorabench.memory.validate import setting_from

        setting = setting_from(
            words, card.kind if card else "cuda"
        )  # transformers imports what a model needs when it is first built
    with startup.uncollected():
        known = Reuse()
        made = predict(setting, card, setting.shape.positions, known)
        mended = (
            remedies(setting, CardPlanner(card, traced=known.traced), made.largest_sequence_length)
            if card and not made.fits
            else None
        )
    left = unreached_of(setting)
    return as_plain_json(setting, made, left, card, mended) if as_json else as_text(setting, made, card, left, mended)


def as_plain_json(
    setting: Setting,
    made: Estimate,
    left: Unreached | None = None,
    card: Gpu | None = None,
    mended: Remedies | None = None,
) -> str:
    """The estimate as JSON; bytes as whole numbers, absent values left out."""
    step = made.step
    plain: dict[str, Any] = {
        "quantization": setting.quantization.name,
        "double_quant": setting.quantization.double_quant,
        "stored_quantized": _is_stored(setting),
        "total_parameters": step.total_parameters,
        "trainable_parameters": step.trainable_parameters,
        "trainable_percent": 100 * step.trainable_parameters / step.total_parameters,
        "adapter_bytes": step.adapter_bytes,
        "bytes": made.bytes,
        "peak_bytes": made.peak_bytes,
        "low_bytes": made.low_bytes,
        "high_bytes": made.high_bytes,
        "peak_at": step.peak_at,
        "gpu": card.name if card else None,
        "gpu_memory_bytes": card.memory_bytes if card else None,
        "fits": made.fits,
        "largest_batch_size": made.largest_batch_size,
        "largest_sequence_length": made.largest_sequence_length,
        "remedies": [_remedy_plain(r) for r in mended.fitting] if mended else None,
        "least": {**_remedy_plain(mended.least), "smallest_gpu": mended.card, "largest_sequence_length": mended.length}
        if mended and mended.least
        else None,
        "unreached": _unreached_plain(left, setting),
    }
    return json.dumps({k: v for k, v in plain.items() if v is not None}, indent=2)


def as_text(
    setting: Setting, made: Estimate, card: Gpu | None, left: Unreached | None = None, mended: Remedies | None = None
) -> str:
    """The estimate as a small table with bars."""
    step, method = made.step, setting.method
    rank = f" rank {method.rank}" if method.rank is not None else ""
    kind = (
        setting.quantization.name
        + (", double quantised" if setting.quantization.double_quant else "")
        + (" as its checkpoint stores it" if _is_stored(setting) else "")
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


def _is_stored(setting: Setting) -> bool:
    return (
        setting.quantization.name != "none"
        and stored_quantization(setting.model.name, setting.model.revision) is not None
    )


def _unreached_text(left: Unreached | None, setting: Setting) -> str:
    return (
        left.words(quantised=setting.quantization.name != "none", adapted=True, size=size(left.bytes or 0))
        if left
        else ""
    )


def _unreached_plain(left: Unreached | None, setting: Setting) -> dict[str, Any] | None:
    """What is neither quantised nor adapted, as JSON; None where that is nothing."""
    if left is None:
        return None
    return {
        "parameters": left.parameters,
        "bytes": left.bytes,
        "names": list(left.names),
        "quantized": False if setting.quantization.name != "none" else None,
        "adapted": False,
    }


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


def _remedy_plain(one: Remedy) -> dict[str, Any]:
    return {
        "flags": one.flags,
        "set": one.changes,
        "peak_bytes": one.peak_bytes,
        "high_bytes": one.high_bytes,
        "headroom_bytes": one.headroom_bytes,
    }


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
    from lorabench.config.gpus import find_gpu
    from lorabench.config.load import read_study

    card, study = find_gpu(gpu), read_study(source)
    with startup.lean_imports():
        from lorabench.config.grid import conditions
        from lorabench.memory.beside import measured_beside
        from lorabench.memory.calibration import calibrate, stored_results
        from lorabench.memory.card_planner import CardPlanner
        from lorabench.memory.parameters import unreached_of
        from lorabench.memory.plan import plan_conditions
        from lorabench.memory.remedies import remedies
        from lorabench.memory.train_config import setting_of

    calibration = calibrate(card)
    known = measured_beside(stored_results(), card)
    rows = plan_conditions(conditions(study, source), card, calibration, known)
    words = [_condition_words(r, apart) for r, apart in zip(rows, _apart(rows), strict=True)]
    settings = [setting_of(r.condition, card.kind) if r.step else None for r in rows]
    found = {s: unreached_of(s) for s in dict.fromkeys(settings) if s is not None}
    left = [found[s] if s is not None else None for s in settings]
    told = {True: "fits", None: "may not fit", False: "does not fit"}
    over = list(dict.fromkeys(s for r, s in zip(rows, settings, strict=True) if s is not None and not r.fits(card)))[
        :MENDED
    ]
    with startup.uncollected():
        room = CardPlanner(card)
        mended = {s: remedies(s, room, most=1) for s in over}
    if as_json:
        plain = [
            {
                "condition": word,
                "seeds": len(study.seeds),
                "trainable_parameters": row.step.trainable_parameters if row.step else 0,
                "peak_bytes": row.peak_bytes,
                "low_bytes": row.low_bytes,
                "high_bytes": row.high_bytes,
                "fits": told[row.fits(card)] if row.step else None,
                "seconds": [row.whole.least, row.whole.most] if row.whole else None,
                "training_seconds": [row.seconds.least, row.seconds.most] if row.seconds else None,
                "remedy": _mended_plain(mended[setting]) if setting in mended else None,
                "unreached": _unreached_plain(one, setting) if setting is not None else None,
            }
            for word, row, one, setting in zip(words, rows, left, settings, strict=True)
        ]
        return json.dumps(
            {
                "gpu": card.name,
                "memory_bytes": card.memory_bytes,
                "time": _basis(calibration, card).removeprefix("time: "),
                "conditions": plain,
            },
            indent=2,
        )
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
                told[row.fits(card)],
                _range(row.whole),
                _range(row.seconds),
            )
        )
    counted = [r for r in rows if r.whole and r.fits(card) is not False]
    timed = [r.whole for r in counted if r.whole]
    n = len(study.seeds)
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
            *filter(None, (total, _basis(calibration, card))),
            *notes,
            "memory and time of training are predicted, none is measured; an evaluation with many sequences at once (evaluation.batch_size) may need more memory",
        ]
    )


def _mended_plain(found: Remedies) -> dict[str, Any]:
    one = found.fitting[0] if found.fitting else found.least
    assert one is not None
    return {**_remedy_plain(one), "fits": bool(found.fitting), "smallest_gpu": found.card}


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


def _basis(calibration: Calibration | None, card: Gpu) -> str:
    if calibration is not None:
        worst = (
            f"{100 * calibration.spread:.0f} %"
            if calibration.spread < 1
            else f"a factor of {1 + calibration.spread:.1f}"
        )
        return f"time: fitted to {plural(calibration.conditions, 'stored condition')} of reports/ and runs/ that ran on {card.name}, within {worst}"
    if card.bandwidth is None:
        return f"time: not known; reports/ and runs/ hold no cell that ran on {card.name}" + (
            "" if card.kind == "cpu" else ", and a size alone has no rates"
        )
    return f"time: a roofline of {card.name}'s data sheet; reports/ and runs/ hold no cell that ran on one"


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
    return "\n".join([f"{model}: {rows[0].base_parameters:,} parameters{form}", "", *columns(lines), *note])


def paper(source: Source) -> Table:
    """A table of the literature, computed."""
    from lorabench.config.published_tables import read_paper

    declared = read_paper(source)  # before the slow imports
    with startup.lean_imports():
        from lorabench.memory.published_quantities import reproduce
        from lorabench.report.paper import paper_table

    return paper_table(declared, reproduce(declared))


def _apart(rows: Sequence[Row]) -> list[str]:
    """What tells conditions apart beside method, rank and quantization: "batch_size=4 checkpointing"."""
    plain = [r.condition.model_dump(mode="json") for r in rows]
    flat = [
        {
            "model": model_label(p["model"]["name"]),
            **{k: v for k, v in p["training"].items() if k != "steps" or p["training"]["steps"]},
            **{k: p["method"][k] for k in ("target_modules",)},
        }
        for p in plain
    ]
    trained = [f for f, r in zip(flat, rows, strict=True) if r.step is not None]
    varied = [k for k in flat[0] if len({str(f[k]) for f in trained if k in f}) > 1]
    return [
        " ".join(f"{k}={f[k]}" for k in varied if f.get(k) is not None) if r.step is not None else ""
        for f, r in zip(flat, rows, strict=True)
    ]


def _condition_words(row: Row, apart: str = "") -> str:
    method, quantization = row.condition.method, row.condition.quantization
    rank = f" r={method.rank}" if method.rank is not None else ""
    return (
        f"{method.name}{rank}"
        + (f" {quantization.name}" if quantization.name != "none" else "")
        + (" dq" if quantization.double_quant else "")
        + (f" {apart}" if apart else "")
    )


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Aligned: the first column to the left, numbers to the right."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
