"""how fast the singular values of what was learned fall"""

from __future__ import annotations

import numpy as np

from lorabench.report.blocks import Figure, Section
from lorabench.report.figures import Axis, Drawing, Line, draw
from lorabench.report.view import View

ORDER = 70
TITLE = "Spectra"
SMALLEST = 1e-6  # of the largest: below is float32 rounding
MOST_POINTS = 512


def section(view: View) -> Section | None:
    """One figure; None where no cell kept spectra."""
    info = decide(view)
    if info is None:
        return None
    caption = (
        "Singular values of the learned change of each weight matrix, divided by the largest, averaged over matrices and seeds. "
        "A steep fall means that a smaller rank would have held most of it; a curve that ends high is cut off by its rank."
    )
    words = tuple(f"{line.label}: {len(line.x)} values, the last {line.y[-1]:.2g} of the first" for line in info.lines)
    return Section(TITLE, (Figure("spectra", draw(info), "singular values of the learned change", caption, words),))


def decide(view: View) -> Drawing | None:
    """The mean normalised decay of each condition."""
    lines = []
    for s in view.summaries:
        decays = [d for r in view.of_condition(s.condition) for d in _decays(view, r.cell.id)]
        mean = mean_decay(decays)[:MOST_POINTS]
        if len(mean):
            x = tuple(float(i) for i in range(1, len(mean) + 1))
            lines.append(Line(s.label.text, view.styles[s.condition], x, tuple(float(v) for v in mean)))
    if not lines:
        return None
    mode = "lines+markers" if max(len(line.x) for line in lines) <= 16 else "lines"
    return Drawing(Axis("index of the singular value"), Axis("share of the largest", log=True), tuple(lines), mode=mode)  # type: ignore[arg-type]


def mean_decay(decays: list[np.ndarray]) -> np.ndarray:
    """Mean at each index over the matrices that have so many values, down to what rounding leaves."""
    longest = max((len(d) for d in decays), default=0)
    total, number = np.zeros(longest), np.zeros(longest)
    for decay in decays:
        total[: len(decay)] += decay
        number[: len(decay)] += 1
    mean = total / np.maximum(number, 1)
    return mean[: int(np.argmax(mean < SMALLEST))] if bool((mean < SMALLEST).any()) else mean


def _decays(view: View, cell_id: str) -> list[np.ndarray]:
    path = view.file(cell_id, "spectra.safetensors")
    if not path.is_file():
        return []
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError):  # shown without rather than not at all
        return []
    values = [np.asarray(t, dtype=np.float64).ravel() for _, t in sorted(tensors.items())]
    return [v / v[0] for v in values if len(v) and np.isfinite(v).all() and v[0] > 0]
