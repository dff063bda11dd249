"""PEFT's claim that an adapter trained at a high rank and cut beats one trained at the low rank, at matched scalings.

    lorabench run studies/paper/truncation-against-training.yaml --out runs/truncation
    python -m benchmarks.truncation runs/truncation [FILE]

PEFT's documentation has 51.5 % for rank 64 cut to 32 against 48.2 % trained at 32; the first had scaling 8, the second
2. Each row is one pair: the loss of the cut adapter minus that of the trained one, by seed, with its 95 % t interval;
once at every learning rate that both ran at, once with each side at its own rate of lowest mean validation loss. Below
zero the cut one is better. Writes FILE (default: claim.json in the results directory).
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from lorabench.analysis.intervals import half_of
from lorabench.record.result import CellResult
from lorabench.record.store import Store
from lorabench.record.truncations import load_truncations

METRIC, CUT = "eval_loss", 32
Key = tuple[int, float]
"""rank, scaling"""


def runs(store: Store) -> dict[Key, dict[float, dict[int, tuple[CellResult, float | None, float | None]]]]:
    """Rank and scaling: learning rate: seed: the result, its loss after the cut, and the share of energy that the cut
    keeps."""
    found: dict[Key, Any] = defaultdict(lambda: defaultdict(dict))
    for result in store.results():
        if result.outcome != "finished" or result.resolved is None or result.resolved.scaling is None:
            continue
        cell, file = result.cell, store.cells_folder / result.cell.id / "truncation.csv"
        cuts = [t for t in load_truncations(file) if t.rank == CUT] if file.is_file() else []
        loss, energy = (cuts[0].value(METRIC), cuts[0].kept_energy) if cuts else (None, None)
        key = (int(cell.method.rank or 0), round(result.resolved.scaling, 6))
        found[key][cell.training.fixed_learning_rate][cell.seed] = (result, loss, energy)
    return found


def tuned(rates: dict[float, dict[int, Any]]) -> float | None:
    """The rate of lowest mean validation loss over the seeds that all rates have."""
    shared = set.intersection(*(set(seeds) for seeds in rates.values()))
    values = {
        rate: statistics.fmean(v for s in shared if (v := seeds[s][0].value("validation_loss")) is not None)
        for rate, seeds in rates.items()
        if shared and all(seeds[s][0].value("validation_loss") is not None for s in shared)
    }
    return min(values, key=lambda rate: values[rate]) if values else None


def row(cut: dict[int, Any], trained: dict[int, Any], whole: bool) -> dict[str, Any] | None:
    """The paired difference over the seeds of both."""
    shared = sorted(set(cut) & set(trained))
    losses = {s: (cut[s][0].value(METRIC) if whole else cut[s][1]) for s in shared}
    differences = [
        a - b for s in shared if (a := losses[s]) is not None and (b := trained[s][0].value(METRIC)) is not None
    ]
    if not differences:
        return None
    mean, half = statistics.fmean(differences), half_of(differences)
    interval = [round(mean - half, 4), round(mean + half, 4)] if half is not None else None
    energy = [cut[s][2] for s in shared if cut[s][2] is not None]
    return {
        "difference": round(mean, 4),
        "interval": interval,
        "seeds": len(differences),
        "kept_energy": round(statistics.fmean(energy), 4) if energy and not whole else None,
    }


def rows(store: Store) -> list[dict[str, Any]]:
    """Every pair of a cut and a trained condition, at each rate and tuned."""
    found, made = runs(store), []
    high = sorted(k for k in found if k[0] > CUT)
    low = sorted(k for k in found if k[0] == CUT)
    for a in high:
        for b in low:
            pairs: list[tuple[str, float | None, float | None]] = [
                (f"{rate:g}", rate, rate) for rate in sorted(set(found[a]) & set(found[b]))
            ]
            if len(pairs) > 1:
                pairs.append(("tuned", tuned(found[a]), tuned(found[b])))
            for name, first, second in pairs:
                for whole in (False, True) if a[1] == b[1] else (False,):
                    if (
                        first is not None
                        and second is not None
                        and (one := row(found[a][first], found[b][second], whole))
                    ):
                        what = f"rank {a[0]}" + ("" if whole else f" cut to {CUT}")
                        pair = {"of": f"{what}, scaling {a[1]:g}", "against": f"rank {CUT}, scaling {b[1]:g}"}
                        made.append({**pair, "rate": name, "rates": [first, second], **one})
    return made


def main() -> int:
    """See the module's docstring."""
    store = Store.open(sys.argv[1])
    made = rows(store)
    for one in made:
        interval = "[{:+.3f}, {:+.3f}]".format(*one["interval"]) if one["interval"] else "one seed"
        words = f"{one['of']:<30} {one['against']:<22} {one['rate']:<7}"
        print(f"{words} {one['difference']:+.4f} {interval:<18} {one['seeds']}")
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else store.folder / "claim.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
