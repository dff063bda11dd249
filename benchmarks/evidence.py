"""How far published evidence predicts sources that it has not seen: `python -m benchmarks.evidence`.

Each source is left out, everything is fitted anew without it (variances and the width of intervals, too), and held
against what the source printed: coverage of prediction intervals, regret of the rank, method and storage that would
have been chosen, errors of learning rates. Writes reports/evidence.json.

    --refit             fits to the whole library and writes what `recommend` reads (evidence/data/fitted*.json)
    --held-out FILE     results of other sources, as results.csv has them: predicted by the whole library
    --held-out-rates FILE   their learning rates, as learning_rates.csv has them
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lorabench.evidence.calibration import FITTED, calibrated, published_meta_analyses, stored_form
from lorabench.evidence.choices import CHOSEN, FIXED, Against, Regret, against_fixed, mean_regrets, regrets
from lorabench.evidence.gaps import Contrast, gaps, published_gaps
from lorabench.evidence.learning_rate_model import FITTED as FITTED_RATES
from lorabench.evidence.learning_rate_model import published_rate_model, published_rates, rate_model, rates_of
from lorabench.evidence.learning_rate_model import stored_form as stored_rates
from lorabench.evidence.leave_one_out import (
    LEVELS,
    LeftOut,
    RateLeftOut,
    coverage,
    held_out,
    left_out,
    rate_errors,
    rates_left_out,
    without_each,
)
from lorabench.evidence.meta_analysis import CONTRASTS, KINDS
from lorabench.evidence.rank_height import LOGARITHM
from lorabench.evidence.schema import LEARNING_RATES, RESULTS, Column

WITH_RANKS: tuple[Contrast, ...] = ("full", "rank")
REPORT = Path(__file__).parents[1] / "reports" / "evidence.json"


def main() -> None:
    """Prints the tables and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refit", action="store_true")
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--held-out-rates", type=Path)
    options = parser.parse_args()
    if options.refit:
        refit()
    elif options.held_out or options.held_out_rates:
        report(*of_others(options.held_out, options.held_out_rates))
    else:
        found = of_the_library()
        told = report(*found) | {"logarithm_of_the_rank": by_logarithm()}
        REPORT.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def refit() -> None:
    """Fits to the whole library."""
    found = [calibrated(c, published_gaps()) for c in CONTRASTS]
    FITTED.write_text(json.dumps(stored_form(found), indent=1) + "\n", encoding="utf-8")
    FITTED_RATES.write_text(json.dumps(stored_rates(rate_model(published_rates())), indent=1) + "\n", encoding="utf-8")


def of_the_library() -> tuple[list[LeftOut], dict[str, dict[str, dict[str, float]]], list[RateLeftOut]]:
    """Each source left out."""
    published, known = published_gaps(), published_meta_analyses()
    found, regret = [], {}
    for c in CONTRASTS:
        without = without_each(c, published, known[c].fit.variances)
        found += left_out(without, published)
        if c != "full":
            regret[c] = mean_regrets(regrets(without, published))
    return found, regret, rates_left_out(published_rates())


def by_logarithm() -> dict[str, object]:
    """The same with a gap that is linear in the logarithm of the rank and knows no limit, as a comparison."""
    published, regret = published_gaps(), {}
    found: list[LeftOut] = []
    for c in WITH_RANKS:
        without = without_each(c, published, powers=(LOGARITHM,))
        found += left_out(without, published)
        if c == "rank":
            regret[c] = mean_regrets(regrets(without, published))
    print("with a gap that is linear in the logarithm of the rank")
    return {k: v for k, v in report(found, regret, ()).items() if v}


def of_others(
    results: Path | None, rates: Path | None
) -> tuple[list[LeftOut], dict[str, dict[str, dict[str, float]]], list[RateLeftOut]]:
    """Sources that the library does not have."""
    known, found, regret = published_meta_analyses(), [], {}
    if results is not None:
        new = gaps(_rows(results, RESULTS))
        for c in CONTRASTS:
            found += held_out(known[c], new)
            if c != "full":
                regret[c] = mean_regrets(regrets(dict.fromkeys(dict.fromkeys(g.source for g in new), known[c]), new))
    new_rates = (
        [r for r in rates_of(_rows(rates, LEARNING_RATES)) if r.setting.method != "full"] if rates is not None else []
    )
    return found, regret, [RateLeftOut(r, published_rate_model().predict(r.setting)) for r in new_rates]


def _rows(path: Path, columns: Sequence[Column]) -> list[dict[str, str]]:
    if not path.is_file():
        sys.exit(f"there is no file {path}; give rows as lorabench/evidence/data has them")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    lacking = [c.name for c in columns if rows and c.name not in rows[0]]
    if lacking or not rows:
        sys.exit(f"{path} lacks {', '.join(lacking) or 'rows'}; columns as in lorabench/evidence/data are needed")
    return rows


def report(
    found: Sequence[LeftOut], regret: dict[str, dict[str, dict[str, float]]], rates: Sequence[RateLeftOut]
) -> dict[str, object]:
    """Printed, and as plain values."""
    parts = {"all": found} | {c: [f for f in found if f.gap.contrast == c] for c in CONTRASTS}
    parts |= {f"rank, {k}": [f for f in parts["rank"] if f.gap.kind == k] for k in KINDS}
    parts |= {f"full, {k}": [f for f in parts["full"] if f.gap.kind == k] for k in KINDS}
    covered = {name: _covered(of) for name, of in parts.items() if of}
    print("coverage of prediction intervals: of gaps, and with each source counted once")
    for name, of in covered.items():
        print(f"  {name:28}{of['gaps']:6.0f} gaps", *(f"{of[f'{100 * p:g} %']!s:>18}" for p in LEVELS))
    print("regret in points, a source counted once")
    for contrast, kinds in regret.items():
        for kind, rules in kinds.items():
            print(f"  {contrast:8}{kind:24}", ", ".join(f"{rule} {points:.2f}" for rule, points in rules.items()))
    errors = rate_errors(rates) if rates else {}
    if errors:
        print("learning rates, factors: median of rates, mean of the sources' medians, their median, each source")
    for rule, of in errors.items():
        print(f"  {rule:16}", ", ".join(f"{name} {factor:.2f}" for name, factor in of.items()))
    return {"coverage": covered, "regret": regret, "learning_rates": errors}


def _covered(found: Sequence[LeftOut]) -> dict[str, object]:
    shares = {f"{100 * p:g} %": [round(share, 3) for share in coverage(found, p)] for p in LEVELS}
    return {"gaps": len(found), "sources": len({f.gap.source for f in found}), **shares}


if __name__ == "__main__":
    main()
