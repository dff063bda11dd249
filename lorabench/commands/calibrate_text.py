"""What calibrate tells: each row predicted and measured, and what changes with them."""

from __future__ import annotations

import statistics
from pathlib import Path

from lorabench.commands.output import columns
from lorabench.config.gpus import cards_named
from lorabench.config.trainer import OWN, find_trainer
from lorabench.formatting import DASH, plural, seconds, size
from lorabench.record.card_calibration import CalibrationRow, CardCalibration, calibrations_folder


def progress(row: CalibrationRow) -> str:
    """A row as it is measured, on a line."""
    if row.fault is not None:
        return f"{row}: {row.fault}"
    return f"{row}: {row.ratio:.3f} of the prediction" if row.ratio else str(row)


def as_text(calibration: CardCalibration, path: Path) -> str:
    """The table and what follows from it."""
    packages = ", ".join(f"{name} {number}" for name, number in calibration.packages.items())
    lines = [("row", "predicted", "measured", "ratio", "reserved", "a step")]
    lines += [_fields(row) for row in calibration.rows]
    faults = [f"{row}: {row.fault}" for row in calibration.rows if row.fault is not None]
    return "\n".join(
        [
            f"{calibration.card} on {calibration.date}, {packages}",
            "",
            *columns(lines),
            *(["", *faults] if faults else []),
            "",
            *_changes(calibration),
            "",
            f"written to {path}; {_read_by(calibration, path)}",
        ]
    )


def _fields(row: CalibrationRow) -> tuple[str, str, str, str, str, str]:
    return (
        str(row),
        size(row.predicted_bytes) if row.predicted_bytes else DASH,
        size(row.measured_bytes) if row.measured_bytes else DASH,
        f"{row.ratio:.3f}" if row.ratio else DASH,
        size(row.reserved_bytes) if row.reserved_bytes else DASH,
        seconds(row.step_seconds) if row.step_seconds else DASH,
    )


def _changes(calibration: CardCalibration) -> list[str]:
    """What was assumed of this card before, and what is from now on."""
    from lorabench.memory.estimate import CONTEXT_BYTES

    lines, ratios, measured = (
        ["what changes in predictions for this card:"],
        calibration.ratios,
        calibration.measured({}),
    )
    if calibration.context_bytes is not None:
        lines.append(f"  CUDA context: {size(calibration.context_bytes)} in place of {size(CONTEXT_BYTES)}")
    if measured.errors is not None:
        middle = statistics.median(ratios)
        low, high = find_trainer(OWN).errors
        lines.append(
            f"  range of lorabench's own loop: {measured.errors[0]:.2f} to {measured.errors[1]:.2f} times the"
            f" prediction in place of {low:.2f} to {high:.2f} (median {middle:.3f} of {plural(len(ratios), 'row')})"
        )
    if measured.steps:
        lines.append(f"  time: fitted to {plural(len(measured.steps), 'timed row')}, for steps near these")
    if len(lines) == 1:
        lines = ["nothing changes: no row of lorabench's own loop was measured"]
    if calibration.workspace_bytes is not None:
        lines.append(
            f"cuBLAS's workspaces, which predictions already include: {size(calibration.workspace_bytes)} measured"
        )
    if calibration.reserved_ratio is not None:
        lines.append(
            f"the allocator kept {calibration.reserved_ratio:.2f} times what it held (median); this is shown but not"
            " used, since a full card gives blocks back"
        )
    return lines


def _read_by(calibration: CardCalibration, path: Path) -> str:
    """Which predictions read it."""
    if path.parent != calibrations_folder():
        return f"predictions read only the files in {calibrations_folder()}"
    names = [c.name for c in cards_named(calibration.card)]
    name = "cpu" if calibration.card == "cpu" else names[0] if len(names) == 1 else f"'{calibration.card}'"
    return f"read by estimate, plan, recommend and check with --gpu {name}, unless --no-calibration is given"
