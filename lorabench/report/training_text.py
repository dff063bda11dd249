"""What is said of training curves."""

from __future__ import annotations

from lorabench import formatting
from lorabench.report.curves import PANELS, SeedCurves
from lorabench.report.drawing import Line


def caption(most_points: int, *, diverged: bool) -> str:
    """Of the figure of means, whose curves have at most so many points; `diverged`: some leave it."""
    words = (
        f"Mean over seeds; curves of more than {most_points} steps are averaged to that many points. Look for curves"
        " that still fall at the end (more steps would help) and for jumps (the learning rate is too high). Click a"
        " name in the legend to hide its curve."
    )
    return words + (" Curves of diverged conditions leave the plot at the top." if diverged else "")


def loss_words(line: Line) -> str:
    """ "LoRA r=4: from 4.1 to 2.2 nats in 40 steps" """
    return (
        f"{line.label}: from {formatting.decimals(line.y[0])} to {formatting.decimals(line.y[-1])} nats in"
        f" {formatting.plural(round(line.x[-1]), 'step')}"
    )


def seed_caption(shown: int, trained: int, averaged_to: int | None) -> str:
    """Of the figure by seed, which shows so many of the trained conditions; `averaged_to`: points of long curves."""
    several = " Choose a condition above the figure." if shown > 1 else ""
    words = (
        "Every seed of one condition: training loss, norm of the gradient before clipping, with a dashed line where it"
        f" is clipped, and learning rate.{several} Look for norms that keep to the dashed line or above it (every step"
        " is cut short), for spikes, and for seeds that drift apart. Validation and held-out loss are measured once,"
        " after the last step: there is no curve of them during training."
    )
    if averaged_to is not None:
        words += f" Long curves are averaged to {averaged_to} points."
    if trained > shown:
        words += f" {shown} of {trained} conditions are here; the others' steps are in their cells' curve.csv."
    return words


def norm_words(s: SeedCurves, clip: float) -> str:
    """ "gradient norm 0.53 at most, never clipped (1)" """
    norms = [v for v in s.values[PANELS.index("grad_norm")] if v is not None]
    if not norms:
        return ""
    above = sum(v > clip for v in norms)
    how_often = "never above" if not above else f"above in {above} of {len(norms)} shown points"
    return (
        f"gradient norm {formatting.decimals(min(norms))} to {formatting.decimals(max(norms))}; clipped at {clip:g},"
        f" {how_often}"
    )
