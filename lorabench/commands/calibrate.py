"""The command calibrate: measures the user's own card, so that predictions for it are corrected."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lorabench import startup
from lorabench.commands.arguments import JSON

if TYPE_CHECKING:
    from lorabench.config.gpus import Gpu


def add_calibrate_options(c: argparse.ArgumentParser) -> None:
    c.add_argument(
        "--gpu", metavar="N", required=True, help="a card of this machine by its number (see: lorabench doctor), or cpu"
    )
    c.add_argument(
        "--out",
        metavar="FILE",
        help="where it is written (default: ~/.cache/lorabench/calibrations, where predictions find it)",
    )
    c.add_argument("--json", action="store_true", help=JSON)


def calibrate(options: argparse.Namespace) -> int:
    """Measures short trainings on a card and stores what they correct."""
    from lorabench.commands import calibrate_text
    from lorabench.workflows.calibrate import calibrate as measure

    with startup.predicting():
        calibration, path = measure(
            options.gpu,
            Path(options.out) if options.out else None,
            lambda row: print(calibrate_text.progress(row), file=sys.stderr, flush=True),
        )
    print(
        calibration.model_dump_json(indent=2, exclude_none=True)
        if options.json
        else calibrate_text.as_text(calibration, path)
    )
    return 0


def add_calibration_option(c: argparse.ArgumentParser) -> None:
    """For the commands whose predictions a calibration corrects."""
    c.add_argument(
        "--no-calibration", action="store_true", help="leave out what lorabench calibrate measured on this card"
    )


def calibrations_of(options: argparse.Namespace) -> Path | None:
    """The folder of calibrations that a run's predictions are corrected by; None where it holds none, or they are to
    be left out."""
    from lorabench.record.card_calibration import calibrations_folder

    folder = calibrations_folder()
    return None if options.no_calibration or not any(folder.glob("*.json")) else folder


def card_if_named(options: argparse.Namespace) -> Gpu | None:
    """The card that is asked for, with what was measured on it; None where none is."""
    return None if options.gpu is None else card_of(options)


def card_of(options: argparse.Namespace) -> Gpu:
    """The card that is asked for, with what was measured on it; LorabenchError where it is none that is known."""
    from lorabench.record.card_calibration import calibrated_card, calibrations_folder

    return calibrated_card(options.gpu, None if options.no_calibration else calibrations_folder())
