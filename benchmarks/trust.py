"""How far tiny models may be trusted: what stored studies of them say, beside those of a real pretrained model.

    python -m benchmarks.trust [--json FILE]

Of each model in the archives of STUDIES, at the learning rates that its study settled on and in held-out loss:

    gained      nats that LoRA of the highest rank took off the base's loss: what the other columns are shares of
    order       Spearman's rho of rank and loss over LoRA of plain scaling: -1 where every higher rank is better
    rank 1      what rank 1 gained over what the highest rank did
    full        what full fine-tuning gained over the same
    nf4, int8   loss with the quantized base less that with the plain one, in nats, paired by seed
    rates       LoRA's rate over full fine-tuning's, rank by rank
    k(0.9)      directions that hold 90 % of a change's energy at the highest rank, averaged over its modules

A column stays empty where a study has no such conditions; learning rates that were not tuned give none. The same
study files on both models are benchmarks.real with and without --small.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

from benchmarks.real import RANK_USE, ROOT
from lorabench.api.results import open_results
from lorabench.formatting import aligned
from lorabench.record.archive import FILE, opened

STUDIES = (
    *(f"{size}/{name}" for name in ("sst2", "e2e", "wikitext2", "gsm8k") for size in ("small", "real")),
    "quickstart",
    "paper/learning-rate-by-rank",
    "paper/lora-rank-sweep-e2e",
    "paper/qlora-by-model-size",
)
LOSS = "eval_loss_mean"


def compared(folder: Path) -> list[dict[str, object]]:
    """A row for each model of an archive that has LoRA of two ranks or a quantized base."""
    with opened(folder) as store:
        results = open_results(store.folder)
        conditions, cells = results.conditions(), results.wide()
    uses = _rank_use(folder)
    rows = []
    for model, group in conditions[(conditions["finished"] > 0) & (conditions["missing"] == 0)].groupby(
        "model", sort=False
    ):
        plain = group[(group["method"] == "lora") & (group["quantization"] == "none")].sort_values("rank")
        plain = plain[plain["alpha"] == plain["alpha"].mode().iloc[0]] if len(plain) else plain
        seeds = int(group["finished"].max())
        row: dict[str, object] = {"study": folder.name, "model": str(model).rpartition("/")[2], "seeds": seeds}
        rows.append(row)
        base, full = (group[group["method"] == name] for name in ("base", "full"))
        if plain["rank"].nunique() > 2:
            row["order"] = float(plain["rank"].astype(float).corr(plain[LOSS], method="spearman"))
            row["k(0.9)"] = uses.get(plain["condition"].iloc[-1])
        gained = float(base[LOSS].iloc[0] - plain[LOSS].iloc[-1]) if len(base) and len(plain) else None
        if gained:
            row["gained"] = gained
            if plain["rank"].iloc[0] == 1:
                row["rank 1"] = float(base[LOSS].iloc[0] - plain[LOSS].iloc[0]) / gained
            row["full"] = float(base[LOSS].iloc[0] - full[LOSS].iloc[0]) / gained if len(full) else None
        for storage in ("nf4", "int8"):
            row[storage] = _cost(cells[cells["model"] == model], storage)
        if len(full) and full["tuned"].iloc[0]:
            row["rates"] = [float(rate / full["learning_rate"].iloc[0]) for rate in plain["learning_rate"]]
            row["ranks"] = [int(rank) for rank in plain["rank"]]
    return [row for row in rows if any(row.get(k) is not None for k in ("order", "nf4", "int8"))]


def _rank_use(folder: Path) -> dict[str, float]:
    """k(0.9) of each condition that kept spectra."""
    kept = folder / RANK_USE
    return dict(pd.read_csv(kept).set_index("condition")["k(0.9)"]) if kept.is_file() else {}


def _cost(cells: pd.DataFrame, storage: str) -> float | None:
    chosen = cells[cells["chosen"] & (cells["method"] == "lora") & cells["eval_loss"].notna()]
    keys = ["rank", "alpha", "seed"]
    sides = [chosen[chosen["quantization"] == name].set_index(keys)["eval_loss"] for name in (storage, "none")]
    differences = (sides[0] - sides[1]).dropna()
    return float(differences.mean()) if len(differences) else None


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folders = [ROOT / "reports" / study for study in STUDIES]
    rows = [row for folder in folders if (folder / FILE).is_file() for row in compared(folder)]
    head = ["study", "model", "seeds", "gained", "order", "rank 1", "full", "nf4", "int8", "k(0.9)", "rates"]
    lines = [[_shown(row.get(column)) for column in head] for row in rows]
    print("\n".join(aligned([head, *lines], (0, 1))))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(f"{v:.2g}" for v in value)
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
