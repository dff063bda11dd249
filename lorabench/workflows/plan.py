"""What every condition of a study needs on a card: parameters, memory, time. Sees both arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench.config.condition_labels import condition_labels
from lorabench.config.gpus import find_gpu
from lorabench.config.trainer import OWN, Trainer, find_trainer
from lorabench.formatting import plural, size
from lorabench.workflows.estimate import remedy_dict, require_attention, trainer_dict, unreached_dict

if TYPE_CHECKING:
    import pandas as pd

    from lorabench.config import Study
    from lorabench.config.gpus import Gpu
    from lorabench.config.source import Source
    from lorabench.memory.calibration import Calibration
    from lorabench.memory.plan import PlannedCondition
    from lorabench.memory.remedies import Remedies
    from lorabench.memory.train_config import TrainConfig
    from lorabench.record.unreached import Unreached

MENDED = 6  # settings of a study whose remedy is looked for: each is some traces of about half a second
FITS = {True: "fits", None: "may not fit", False: "does not fit"}


@dataclass(frozen=True)
class StudyPlan:
    """The conditions of a study on a card, predicted; `frame()`, `to_dict()`. Names, rows, settings and unreached go
    together."""

    gpu: Gpu
    seeds: int
    names: tuple[str, ...]
    """of the conditions, by what tells them apart"""
    rows: tuple[PlannedCondition, ...]
    settings: tuple[TrainConfig | None, ...]
    """None of a condition that trains nothing"""
    unreached: tuple[Unreached | None, ...]
    remedies: dict[TrainConfig, Remedies]
    """of the first few settings that may not fit"""
    time_basis: str
    """what predicted times come from"""
    trainer: Trainer = field(default_factory=lambda: find_trainer(OWN))
    """the program that trains"""

    def frame(self) -> pd.DataFrame:
        """A row per condition: trainable parameters, bytes, whether it fits, and seconds (least and most) of a seed."""
        import pandas as pd

        rows = self._conditions()
        for row, planned in zip(rows, self.rows, strict=True):
            for name, seconds in (("seconds", planned.whole), ("training_seconds", planned.seconds)):
                row[f"{name}_least"], row[f"{name}_most"] = (seconds.least, seconds.most) if seconds else (None, None)
                del row[name]
            del row["remedy"], row["unreached"]
        return pd.DataFrame(rows).set_index("condition")

    def to_dict(self) -> dict[str, object]:
        """What `lorabench plan --json` prints."""
        return {
            "gpu": self.gpu.name,
            "memory_bytes": self.gpu.memory_bytes,
            "time": self.time_basis.removeprefix("time: "),
            **({"calibration": self.gpu.measured.words} if self.gpu.measured else {}),
            **trainer_dict(self.trainer),
            "conditions": self._conditions(),
        }

    def _conditions(self) -> list[dict[str, object]]:
        return [
            {
                "condition": name,
                "seeds": self.seeds,
                "trainable_parameters": row.step.trainable_parameters if row.step else 0,
                "peak_bytes": row.peak_bytes,
                "low_bytes": row.low_bytes,
                "high_bytes": row.high_bytes,
                "fits": FITS[row.fits(self.gpu)] if row.step else None,
                "seconds": [row.whole.least, row.whole.most] if row.whole else None,
                "training_seconds": [row.seconds.least, row.seconds.most] if row.seconds else None,
                "remedy": _first(self.remedies[setting]) if setting in self.remedies else None,
                "unreached": unreached_dict(left, setting) if setting is not None else None,
            }
            for name, row, left, setting in zip(self.names, self.rows, self.unreached, self.settings, strict=True)
        ]

    def __repr__(self) -> str:
        peaks = [row.high_bytes for row in self.rows if row.high_bytes is not None]
        most = f", {size(max(peaks))} at most" if peaks else ""
        fit = sum(row.fits(self.gpu) is not False for row in self.rows)
        by = "" if self.trainer.name == OWN else f", trained by {self.trainer.title}"
        return (
            f"StudyPlan of {plural(len(self.rows), 'condition')} on {self.gpu.name} ({self.gpu.capacity}){by}\n"
            f"  {fit} can fit{most}; {plural(self.seeds, 'seed')} each"
        )


def plan(
    study: Study,
    gpu: str | Gpu,
    studies: Sequence[str | Path] = (),
    source: Source | None = None,
    trainer: Trainer | None = None,
) -> StudyPlan:
    """Memory and time of each condition.

    `studies` are results directories, or folders that hold such ones, whose cells tell how fast a card is; without one
    that ran on it the card's data sheet does. `source` is the file that mistakes are told of, `trainer` the program
    that trains, lorabench's own loop where it is absent. LorabenchError where a condition cannot be, or the card is
    none that is known.
    """
    card = find_gpu(gpu)
    require_attention(card, trainer)
    from lorabench.config.grid import conditions
    from lorabench.memory.beside import measured_beside
    from lorabench.memory.calibration import calibrate, stored_results
    from lorabench.memory.card_planner import CardPlanner
    from lorabench.memory.parameters import unreached_of
    from lorabench.memory.plan import plan_conditions
    from lorabench.memory.remedies import remedies
    from lorabench.memory.train_config import setting_of

    calibration = calibrate(card, *studies)
    measured = measured_beside(stored_results(*studies), card)
    rows = plan_conditions(conditions(study, source), card, calibration, measured, trainer)
    names = _names(rows)
    settings = tuple(setting_of(r.condition, card.kind, trainer=trainer) if r.step else None for r in rows)
    left = {s: unreached_of(s) for s in dict.fromkeys(settings) if s is not None}
    unfit = dict.fromkeys(s for r, s in zip(rows, settings, strict=True) if s is not None and not r.fits(card))
    planner = CardPlanner(card)
    return StudyPlan(
        card,
        len(study.seeds),
        names,
        rows,
        settings,
        tuple(None if s is None else left[s] for s in settings),
        {s: remedies(s, planner, most=1) for s in list(unfit)[:MENDED]},
        _time_basis(calibration, card, " and ".join(f"{folder}/" for folder in studies)),
        trainer or find_trainer(OWN),
    )


def _first(mended: Remedies) -> dict[str, object]:
    one = mended.fitting[0] if mended.fitting else mended.least
    assert one is not None
    return {**remedy_dict(one), "fits": bool(mended.fitting), "smallest_gpu": mended.card}


def _time_basis(calibration: Calibration | None, card: Gpu, places: str) -> str:
    """What predicted times come from, in a sentence."""
    if calibration is not None:
        worst = (
            f"{100 * calibration.spread:.0f} %"
            if calibration.spread < 1
            else f"a factor of {1 + calibration.spread:.1f}"
        )
        stored = f"{plural(calibration.conditions, 'stored condition')} of {places} that ran on {card.name}"
        timed = f"{plural(calibration.rows, 'row')} of lorabench calibrate"
        sources = (stored if calibration.conditions else "", timed if calibration.rows else "")
        return f"time: fitted to {' and '.join(filter(None, sources))}, within {worst}"
    none = f"{places} hold no cell that ran on" if places else "no stored study was named that ran on"
    if card.bandwidth is None:
        return f"time: not known; {none} {card.name}" + (
            "" if card.kind == "cpu" else ", and a memory size alone says nothing of speed"
        )
    return f"time: a roofline of {card.name}'s data sheet; {none} one"


def _names(rows: Sequence[PlannedCondition]) -> tuple[str, ...]:
    """The conditions' labels, as the study's table has them."""
    named = condition_labels({f"{i:06}": r.condition.model_dump(mode="json") for i, r in enumerate(rows, 1)})
    return tuple(label.text for label in named.values())
