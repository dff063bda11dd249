"""What plan tells: every condition of a study on a card, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lorabench import startup
from lorabench.config.paths import model_label
from lorabench.formatting import DASH, aligned, count, plural, seconds, size

if TYPE_CHECKING:
    from lorabench.config.gpus import Gpu
    from lorabench.memory.calibration import Calibration
    from lorabench.memory.plan import Row
    from lorabench.memory.remedies import Remedies
    from lorabench.memory.roofline import Seconds
    from lorabench.memory.train_config import TrainConfig

from lorabench.commands.estimate_text import kept_method, remedy_plain, unreached_plain, unreached_text

MENDED = 6  # settings of a study whose remedy is looked for: each is some traces of about half a second
# settings of a study whose remedy is looked for: each is some traces of about half a second


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
                "unreached": unreached_plain(one, setting) if setting is not None else None,
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
        f"note: {model_label(s.model.name)}, {s.quantization.name}: {unreached_text(one, s)}"
        for s, one in zip(settings, left, strict=True)
        if s is not None and one is not None
    )
    remedy = _plan_remedies(words, rows, settings, mended, card)
    return "\n".join(
        [
            *aligned(lines),
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
    return {**remedy_plain(one), "fits": bool(found.fitting), "smallest_gpu": found.card}


def _plan_remedies(
    words: Sequence[str],
    rows: Sequence[Row],
    settings: Sequence[TrainConfig | None],
    mended: dict[TrainConfig, Remedies],
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
            kept = f"; {kept_method(found, setting, found.least.keys)}" if found.least is not None else ""
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
