"""How far published evidence predicts sources that it has not seen: `python -m benchmarks.evidence`.

Each source is left out, everything is fitted anew without it (variances and the width of intervals, too), and held
against what the source printed: coverage of prediction intervals, regret of the rank, method and storage that would
have been chosen, errors of learning rates. Writes reports/evidence.json, and what `recommend` says of it
(evidence/data/left_out.json).

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
from dataclasses import asdict
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
    share_interval,
    without_each,
)
from lorabench.evidence.meta_analysis import CONTRASTS, KINDS
from lorabench.evidence.rank_height import LOGARITHM
from lorabench.evidence.rank_trial import LEFT_OUT, RankTrial
from lorabench.evidence.schema import LEARNING_RATES, RESULTS, Column

WITH_RANKS: tuple[Contrast, ...] = ("full", "rank")
Regrets = dict[Contrast, list[Regret]]
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
        LEFT_OUT.write_text(json.dumps({"ranks": rank_trials(*found[:2])}, indent=1) + "\n", encoding="utf-8")
        told = report(*found) | {"logarithm_of_the_rank": by_logarithm()}
        REPORT.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def refit() -> None:
    """Fits to the whole library."""
    found = [calibrated(c, published_gaps()) for c in CONTRASTS]
    FITTED.write_text(json.dumps(stored_form(found), indent=1) + "\n", encoding="utf-8")
    FITTED_RATES.write_text(json.dumps(stored_rates(rate_model(published_rates())), indent=1) + "\n", encoding="utf-8")


def of_the_library() -> tuple[list[LeftOut], Regrets, list[RateLeftOut]]:
    """Each source left out."""
    published, known = published_gaps(), published_meta_analyses()
    found: list[LeftOut] = []
    regret: Regrets = {}
    for c in CONTRASTS:
        without = without_each(c, published, known[c].fit.variances)
        found += left_out(without, published)
        if c != "full":
            regret[c] = regrets(without, published)
    return found, regret, rates_left_out(published_rates())


def by_logarithm() -> dict[str, object]:
    """The same with a gap that is linear in the logarithm of the rank and knows no limit, as a comparison."""
    published = published_gaps()
    found: list[LeftOut] = []
    regret: Regrets = {}
    for c in WITH_RANKS:
        without = without_each(c, published, powers=(LOGARITHM,))
        found += left_out(without, published)
        if c == "rank":
            regret[c] = regrets(without, published)
    print("with a gap that is linear in the logarithm of the rank")
    return {k: v for k, v in report(found, regret, ()).items() if v}


def of_others(results: Path | None, rates: Path | None) -> tuple[list[LeftOut], Regrets, list[RateLeftOut]]:
    """Sources that the library does not have."""
    known = published_meta_analyses()
    found: list[LeftOut] = []
    regret: Regrets = {}
    if results is not None:
        new = gaps(_rows(results, RESULTS))
        for c in CONTRASTS:
            found += held_out(known[c], new)
            if c != "full":
                regret[c] = regrets(dict.fromkeys(dict.fromkeys(g.source for g in new), known[c]), new)
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


def rank_trials(found: Sequence[LeftOut], regret: Regrets) -> list[dict[str, object]]:
    """What data/left_out.json holds: of each kind of task the choice of a rank beside the best fixed rule."""
    means, told = mean_regrets(regret["rank"]), []
    for kind, rules in means.items():
        best = min(FIXED, key=lambda rule: rules[rule])
        of = next(a for a in against_fixed(regret["rank"]) if (a.kind, a.rule) == (kind, best))
        held = coverage([f for f in found if f.gap.contrast == "rank" and f.gap.kind == kind], 0.8)[1]
        trial = RankTrial(
            kind,
            of.sources,
            of.columns,
            rules[CHOSEN],
            best,
            rules[best],
            of.points,
            of.low,
            of.high,
            of.differing,
            held,
        )
        told.append({k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(trial).items()})
    return told


def report(found: Sequence[LeftOut], regret: Regrets, rates: Sequence[RateLeftOut]) -> dict[str, object]:
    """Printed, and as plain values."""
    parts = {"all": found} | {c: [f for f in found if f.gap.contrast == c] for c in CONTRASTS}
    for c in WITH_RANKS:
        parts |= {f"{c}, {k}": [f for f in parts[c] if f.gap.kind == k] for k in KINDS}
    covered = {name: _covered(of) for name, of in parts.items() if of}
    print(
        "coverage of prediction intervals: of gaps, and with each source counted once; [what as many sources can tell]"
    )
    for name, of in covered.items():
        counts = f"{of['gaps']:6.0f} gaps{of['sources']:4.0f} sources"
        print(f"  {name:28}{counts}", *(f"{of[f'{100 * p:g} %']!s:>18}" for p in LEVELS), of["80 % over sources"])
    print("regret in points, a source counted once")
    means = {c: mean_regrets(of) for c, of in regret.items()}
    for contrast, kinds in means.items():
        for kind, rules in kinds.items():
            print(f"  {contrast:8}{kind:24}", ", ".join(f"{rule} {points:.2f}" for rule, points in rules.items()))
    print("the rule's regret minus a fixed rule's, with Student's 95 % interval over sources")
    against = {c: against_fixed(of) for c, of in regret.items()}
    for contrast, each in against.items():
        for a in each:
            print(f"  {contrast:8}{a.kind:24}{a.rule:18}{_more(a)}")
    errors = rate_errors(rates) if rates else {}
    if errors:
        print("learning rates, factors: median of rates, mean of the sources' medians, their median, each source")
    for rule, of in errors.items():
        print(f"  {rule:16}", ", ".join(f"{name} {factor:.2f}" for name, factor in of.items()))
    plain = {c: [asdict(a) for a in each] for c, each in against.items()}
    return {"coverage": covered, "regret": means, "against_fixed_rules": plain, "learning_rates": errors}


def _more(a: Against) -> str:
    counts = f"{a.sources} sources, {a.differing} of {a.columns} columns differ"
    if a.low is None or a.high is None:
        return f"{a.points:+.2f} ({counts})"
    return f"{a.points:+.2f} [{a.low:+.2f}, {a.high:+.2f}] ({counts}){'' if a.told_apart else ': not told apart'}"


def _covered(found: Sequence[LeftOut]) -> dict[str, object]:
    shares = {f"{100 * p:g} %": [round(share, 3) for share in coverage(found, p)] for p in LEVELS}
    sources = len({f.gap.source for f in found})
    over = [round(end, 2) for end in share_interval(coverage(found, 0.8)[1], sources)]
    return {"gaps": len(found), "sources": sources, **shares, "80 % over sources": over}


if __name__ == "__main__":
    main()
