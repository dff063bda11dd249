"""Which rule knows the rank before training? Every probe on planted ranks and on the studies that are stored here.

    python benchmarks/probes.py [--only planted|stored] [--seeds 0 1 2]

Planted: nine settings of studies/planted.yaml with known answers (one rank in all modules, the same with an nf4 base,
ranks 2 and 6 in two kinds of modules, a change of full rank), each from three seeds. A rank is taken to the next one of
the study's grid; "right" is the planted rank, an error is counted in steps of the grid. Rules that spread a budget name
no rank: they are asked for ranks 2 and 6 from a mean of 4, and right within half a rank. The cut is what
reports/planted holds: what rank 12 learned in all of its steps, cut without a further step.

Stored: in each comparison of ranks that is stored under reports/, the rank that a probe names (taken to the next one
that was trained) against the best one, in held-out nats, beside fixed ranks. Data of others lie outside of the
repository; a study without its data is left out and named.

Writes reports/probes.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.recommend import views
from lorabench.advice.selection import comparison_groups
from lorabench.config import load_study
from lorabench.config.grid import expand
from lorabench.config.study import Cell
from lorabench.errors import LorabenchError
from lorabench.workflows.probe import BATCHES, MEAN_RANK, STEPS, plugins_of, probe_cell

ROOT = Path(__file__).parents[1]
OUT = ROOT / "reports" / "probes.json"
FIXED = (8, 16)


def planted(seeds: list[int]) -> list[dict[str, Any]]:
    """A row per probe, setting and seed."""
    study = load_study(ROOT / "studies" / "planted.yaml", [f"seeds={seeds}"])
    settings: dict[tuple[str, str, int], list[Cell]] = defaultdict(list)
    for cell in expand(study):
        settings[cell.task.model_dump_json(), cell.quantization.name, cell.seed].append(cell)
    rows = []
    for (_, quantization, seed), cells in settings.items():
        highest = max(cells, key=lambda c: c.method.rank or 0)
        truth = highest.task.model_dump()["rank"]
        grid = sorted({c.method.rank for c in expand(study) if c.method.rank and c.method.rank <= 12})
        chosen = plugins_of(None, STEPS)
        for r in probe_cell(highest, chosen, BATCHES, STEPS, 4 if isinstance(truth, dict) else MEAN_RANK):
            row = {
                "probe": r.probe,
                "spreads": r.spreads,
                "planted": truth,
                "quantization": quantization,
                "seed": seed,
                "rank": r.rank,
                "by_kind": r.by_kind,
                "seconds": round(r.seconds, 2),
                "training_steps": r.training_steps,
            }
            rows.append(row | scored(r.rank, r.by_kind, r.spreads, truth, grid))
            print(row["probe"], truth, quantization, seed, r.rank, r.by_kind, flush=True)
    return rows


def scored(
    rank: int | None, by_kind: dict[str, float], spreads: bool, truth: Any, grid: list[int]
) -> dict[str, int | bool | None]:
    """Steps of the grid between answer and truth; of a spread budget whether each kind has its rank."""
    if spreads:
        if not isinstance(truth, dict):
            return {"steps_off": None, "right": None}
        return {"steps_off": None, "right": all(abs(by_kind[k] - v) <= 0.5 for k, v in truth.items())}
    assert rank is not None
    needed = grid[-1] if truth == "full" else max(truth.values()) if isinstance(truth, dict) else int(truth)
    off = grid.index(rounded(rank, grid)) - grid.index(needed)
    return {"steps_off": off, "right": off == 0}


def rounded(rank: int, grid: list[int]) -> int:
    """The least rank of a grid that holds it, or the grid's highest."""
    return next((g for g in grid if g >= rank), grid[-1])


def stored() -> tuple[list[dict[str, Any]], list[str]]:
    """A row per probe and comparison of ranks; the studies that were left out, with the reason."""
    rows, left_out = [], []
    for path, view in views().items():
        name = path.name
        if name == "planted":
            continue
        for losses, cell in comparisons(view):
            try:
                results = probe_cell(cell, plugins_of(None, STEPS), BATCHES, STEPS, MEAN_RANK)
            except (LorabenchError, OSError, ValueError) as e:
                left_out.append(f"{name}: {str(e).splitlines()[0][:150]}")
                break
            grid, best = sorted(losses), min(losses.values())
            answers = {r.probe: rounded(r.rank, grid) for r in results if r.rank is not None}
            answers |= {f"always {k}": rounded(k, grid) for k in FIXED} | {"highest": grid[-1], "lowest": grid[0]}
            for probe, rank in answers.items():
                row = {"study": name, "probe": probe, "rank": rank, "grid": grid, "regret": losses[rank] - best}
                rows.append(row)
            print(name, answers, {k: round(v - best, 4) for k, v in losses.items()}, flush=True)
    return rows, left_out


def comparisons(view: Any) -> Iterator[tuple[dict[int, float], Cell]]:
    """Held-out loss by rank of adapters that differ in rank alone, and the cell of the highest."""
    metric = view.analysis.metric
    for group in comparison_groups(view.analysis.groups):
        families: dict[tuple[object, ...], list[Any]] = defaultdict(list)
        for g in group:
            method = g.setting.method
            if method.rank is not None and method.name == "lora":
                families[g.setting.quantization.name, str(method.target_modules)].append(g)
        for members in families.values():
            means = {g.setting.method.rank: view.analysis.summary(g.condition).mean(metric) for g in members}
            losses = {rank: mean for rank, mean in means.items() if mean is not None}
            if len(losses) > 2:
                yield losses, max((g.setting for g in members), key=lambda c: c.method.rank or 0)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per probe: share right, mean error in steps, cost."""
    table = []
    for probe in dict.fromkeys(r["probe"] for r in rows):
        of_probe = [r for r in rows if r["probe"] == probe and r["right"] is not None]
        off = [abs(r["steps_off"]) for r in of_probe if r["steps_off"] is not None]
        table.append(
            {
                "probe": probe,
                "right": sum(r["right"] for r in of_probe),
                "of": len(of_probe),
                "mean_steps_off": round(statistics.fmean(off), 2) if off else None,
                "at_most_one_off": sum(o <= 1 for o in off) if off else None,
                "training_steps": of_probe[0]["training_steps"],
                "median_seconds": statistics.median(r["seconds"] for r in of_probe),
            }
        )
    return table


def cut() -> dict[str, Any]:
    """The planted study's own answer after training: what the highest rank learned, cut."""
    choices = json.loads((ROOT / "reports" / "planted" / "choices.json").read_text(encoding="utf-8"))["choices"]
    of = [c for c in choices if c["seed"] != "all" and isinstance(c["planted"], int)]
    steps = load_study(ROOT / "studies" / "planted.yaml").training.steps
    right = sum(c["highest_cut_to"] == c["planted"] for c in of)
    return {"probe": "cut of one whole training at rank 12", "right": right, "of": len(of), "training_steps": steps}


def main() -> None:
    """Runs both parts, prints their tables and writes reports/probes.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=("planted", "stored"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    report = json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else {}
    report |= {"command": "python benchmarks/probes.py", "machine": platform.processor() or platform.machine()}
    if options.only != "stored":
        rows = planted(options.seeds)
        report["planted"] = {"summary": [*summary(rows), cut()], "rows": rows}
        for row in report["planted"]["summary"]:
            print(row)
    if options.only != "planted":
        rows, left_out = stored()
        regrets: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            regrets[row["probe"]].append(row["regret"])
        means = {probe: round(statistics.fmean(r), 5) for probe, r in regrets.items()}
        report["stored"] = {"mean_regret_nats": means, "left_out": left_out, "rows": rows}
        print(json.dumps({k: v for k, v in report["stored"].items() if k != "rows"}, indent=1))
    OUT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
