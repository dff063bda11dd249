"""Does lorabench find the rank that is there? The rank chosen in each contest of a planted study, from every seed alone
and from all together.

    lorabench run studies/planted.yaml --out runs/planted; python benchmarks/planted.py [DIR]

A choice is the smallest rank whose one-sided 95 % bound of what it loses against the best, over held-out texts where
there is one seed and over seeds where there are several, is within the study's margin (advice.selection). Writes
reports/planted/choices.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorabench.advice.selection import comparison_groups, select, trained_options
from lorabench.advice.spectral_check import spectral_check
from lorabench.analysis.aggregate import aggregate
from lorabench.analysis.conditions import Replicates
from lorabench.analysis.pairing import Pairing
from lorabench.analysis.verdict import Verdicts
from lorabench.record.store import Store
from lorabench.report.view import View, make_view

OUT = Path(__file__).parents[1] / "reports" / "planted" / "choices.json"


def choice(view: View, members: list[Replicates], seed: int | None) -> dict[str, Any]:
    """What is chosen among conditions, from one seed or from all."""
    data = view.analysis.data if seed is None else view.analysis.data[view.analysis.data["seed"] == seed]
    groups = tuple(_of_seed(g, seed) for g in members)
    held = trained_options(
        groups,
        aggregate(groups, data),
        Verdicts(Pairing(data, view.analysis.items), view.analysis.study.comparison),
        view.analysis.metric,
    )
    given = tuple(replace(o, repeated=True) for o in held)  # what the items of one seed say; a report does not claim it
    margin = view.analysis.study.comparison.loss_margin
    took, best = select(given, margin), min(given, key=lambda o: o.mean)
    heard = (
        spectral_check(
            took,
            given,
            lambda condition: [r for r in view.analysis.of_condition(condition) if seed in (None, r.cell.seed)],
            view.analysis.file,
            view.analysis.metric,
            margin,
        )
        if took
        else None
    )
    planted = members[0].declared["task"]["rank"]
    return {
        "planted": planted,
        "quantization": members[0].setting.quantization.name,
        "seed": "all" if seed is None else seed,
        "ranks": [o.rank for o in given],
        "divergence": [round(o.mean, 6) for o in given],
        "best": best.rank,
        "chosen": took.rank if took else None,
        "steps_off": (
            _steps_off([o.rank for o in given], planted, took.rank if took else None)
            if isinstance(planted, int)
            else None
        ),
        "second_witness": heard.lean if heard else None,
        "highest_cut_to": heard.highest.cut if heard and heard.highest else None,
    }


def _of_seed(g: Replicates, seed: int | None) -> Replicates:
    kept = [(c, i) for c, i in zip(g.cells, g.ids, strict=True) if seed in (None, c.seed)]
    return replace(g, cells=tuple(c for c, _ in kept), ids=tuple(i for _, i in kept))


def _steps_off(ranks: list[int | None], planted: int, took: int | None) -> int | None:
    return None if took is None or planted not in ranks else abs(ranks.index(took) - ranks.index(planted))


def main() -> None:
    view = make_view(Store.open(sys.argv[1] if len(sys.argv) > 1 else "runs/planted"))
    found = []
    for contest in comparison_groups(view.analysis.groups):
        done = [g for g in contest if view.analysis.summary(g.condition).outcomes.finished]
        for kind in dict.fromkeys(g.setting.quantization.name for g in done):
            members = [g for g in done if g.setting.quantization.name == kind]
            found += [choice(view, members, seed) for seed in (*view.analysis.study.seeds, None)]
    alone = [c for c in found if c["seed"] != "all" and isinstance(c["planted"], int) and c["quantization"] == "none"]
    right, near = (sum(c["steps_off"] is not None and c["steps_off"] <= most for c in alone) for most in (0, 1))
    cut = sum(c["highest_cut_to"] == c["planted"] for c in alone)
    for c in found:
        told = f"highest can be cut to {c['highest_cut_to'] or '-'}, second witness: {c['second_witness'] or '-'}"
        print(
            f"planted {c['planted']!s:<26} {c['quantization']:<5} seed {c['seed']!s:<4} chosen {c['chosen']!s:<5} of"
            f" {c['ranks']}  {c['divergence']}  {told}"
        )
    print(
        f"from one seed: {right} of {len(alone)} choices are the planted rank, {near} at most one step off; the highest"
        f" rank can be cut to the planted one in {cut}"
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(
        json.dumps(
            {
                "command": "python benchmarks/planted.py",
                "right": right,
                "at_most_one_step_off": near,
                "cut_to_planted": cut,
                "of": len(alone),
                "choices": found,
            },
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
