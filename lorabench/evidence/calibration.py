"""How wide a prediction interval has to be: each source is left out of a fit, and the distances of its gaps from what
the rest says of them, in the standard deviations that were predicted, are taken for draws of Student's t.

The variances stay those of the whole fit, so that a fit takes seconds. A source with n gaps counts as sqrt(n) of them,
between a vote a source and a vote a gap. Width and degrees have priors around 1 and 4 (within a factor of 1.6), which
two or three sources do not move far.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import cache

import numpy as np

from lorabench.evidence.gaps import Contrast, Gap, published_gaps
from lorabench.evidence.library import DATA
from lorabench.evidence.meta_analysis import CONTRASTS, Calibration, MetaAnalysis, meta_analysis, setting_of
from lorabench.evidence.moderators import CONTINUED, KNEES, Form
from lorabench.evidence.random_effects import Array, Variances
from lorabench.evidence.rank_height import POWERS

FITTED = DATA / "fitted.json"


@cache
def published_meta_analyses() -> dict[Contrast, MetaAnalysis]:
    """The four contrasts fitted to the library, at the variances that benchmarks/evidence.py found."""
    gaps = published_gaps()
    stored = json.loads(FITTED.read_text(encoding="utf-8"))
    return {c: _restored(c, gaps, stored[c]) for c in CONTRASTS}


def _restored(contrast: Contrast, gaps: Sequence[Gap], stored: dict[str, dict[str, object]]) -> MetaAnalysis:
    v = dict(stored["variances"])
    variances = Variances(**{**v, "scales": tuple(v["scales"])})  # type: ignore[arg-type]
    known = meta_analysis(contrast, gaps, Form(**stored["form"]), variances)  # type: ignore[arg-type]
    return replace(known, calibration=Calibration(**stored["calibration"]))  # type: ignore[arg-type]


def stored_form(fits: Iterable[MetaAnalysis]) -> dict[str, object]:
    """What `published_meta_analyses` reads."""
    return {
        m.contrast: {
            "form": asdict(m.form),
            "variances": asdict(m.fit.variances),
            "calibration": asdict(m.calibration),
        }
        for m in fits
    }


def calibrated(
    contrast: Contrast, gaps: Iterable[Gap], start: Variances | None = None, powers: Sequence[float] = POWERS
) -> MetaAnalysis:
    """Fitted to the gaps of a contrast that are in points, by the most probable power of the rank and then knee of the
    tokens, and with the width that its own sources show."""
    mine = [g for g in gaps if g.contrast == contrast and g.unit == "points"]
    curved = contrast in ("full", "rank")
    known = _most_probable(contrast, mine, [Form(p) for p in (powers if curved else powers[:1])], start)
    if curved and any(g.kind == CONTINUED and g.tokens for g in mine):
        others = [Form(known.form.power, k) for k in KNEES[1:]]
        known = max(known, _most_probable(contrast, mine, others, known.fit.variances), key=_probability)
    return replace(known, calibration=calibration(distances(mine, known)))


def _most_probable(
    contrast: Contrast, mine: Sequence[Gap], forms: Sequence[Form], start: Variances | None
) -> MetaAnalysis:
    return max((meta_analysis(contrast, mine, f, start=start) for f in forms), key=_probability)


def _probability(known: MetaAnalysis) -> float:
    return known.fit.log_posterior or -math.inf


def distances(mine: Sequence[Gap], known: MetaAnalysis) -> list[Array]:
    """Of each source, left out: gaps minus their predictions over the predicted standard deviations."""
    found = []
    for source in dict.fromkeys(g.source for g in mine):
        rest = [g for g in mine if g.source != source]
        if not rest:
            continue
        left = [g for g in mine if g.source == source]
        without = meta_analysis(known.contrast, rest, known.form, known.fit.variances)
        said = without.predict_all([setting_of(g) for g in left])
        found.append(np.array([(g.value - p.mean) / p.sd for g, p in zip(left, said, strict=True)]))
    return found


def calibration(of_sources: Sequence[Array]) -> Calibration:
    """The most probable width and degrees, on a grid of 5 % and 10 % steps."""
    from scipy.special import gammaln

    if not of_sources:
        return Calibration()
    z = np.concatenate(of_sources)
    weight = np.concatenate([np.full(len(s), len(s) ** -0.5) for s in of_sources])
    weight *= len(of_sources) / weight.sum()
    width = np.exp(np.arange(-1.5, 1.5, 0.05))[:, None, None]
    degrees = 1 + np.exp(np.arange(-1.0, 4.0, 0.1))[None, :, None]
    inside = 1 + (z / width) ** 2 / degrees
    log_density = gammaln((degrees + 1) / 2) - gammaln(degrees / 2) - 0.5 * np.log(degrees) - np.log(width)
    likelihood = ((log_density - (degrees + 1) / 2 * np.log(inside)) * weight).sum(-1)
    prior = -0.5 * (np.log(width[..., 0]) / 0.5) ** 2 - 0.5 * (np.log((degrees[..., 0] - 1) / 3) / 0.5) ** 2
    i, j = np.unravel_index(np.argmax(likelihood + prior), likelihood.shape)
    return Calibration(float(width[i, 0, 0]), float(degrees[0, j, 0]))
