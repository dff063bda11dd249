"""Leave one study out: what a recommendation made from the other stored studies loses, beside three fixed rules.

    python benchmarks/recommend.py [--check-time]

For each contest (model and task) of each study under reports/ the recommendation is made from the other studies alone,
and carried out with the contest's own cells: the first entry whose method and storage were run there, at the nearest
rank that was. Regret is the mean of the metric lost against the contest's best cell, in nats. Rules: LoRA on an
unquantized base at the rank nearest 8, nearest 16, and the highest that was run (all fit). Where not all of it was run
there, the condition nearest in modules, then in rank, then in rate is taken; a rule has the recommended modules and
rate. Once among all methods, and once among LoRA conditions on an unquantized base alone, where only the rank and its
settings are chosen. --check-time measures `lorabench recommend` of a 70B model in processes of their own, beside the
imports of torch, transformers and peft alone. Writes reports/recommend.json.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorabench.advice.candidates import CandidateSpec, candidate_specs
from lorabench.advice.evidence import ComparisonGroup, Here, key_of, nearest
from lorabench.advice.from_study import comparison_groups_in
from lorabench.advice.priors import rules
from lorabench.advice.ranking import order
from lorabench.advice.selection import Option, comparison_groups, trained_options
from lorabench.advice.types import Needs, RankedCandidate
from lorabench.analysis.conditions import Replicates
from lorabench.config.architectures import model_type
from lorabench.memory.parameters import count_parameters
from lorabench.memory.validate import model_from
from lorabench.record.archive import FILE, opened
from lorabench.record.metrics import metric as described
from lorabench.report.view import View, make_view

ROOT = Path(__file__).parents[1]
OUT = ROOT / "reports" / "recommend.json"


def views() -> dict[Path, View]:
    """Every archived study with a metric in nats."""
    found = {}
    for path in sorted([*ROOT.glob(f"reports/*/{FILE}"), *ROOT.glob(f"reports/paper/*/{FILE}")]):
        with opened(path.parent) as store:
            view = make_view(store)
        if described(view.analysis.metric).unit == "nats" and described(view.analysis.metric).better == "lower":
            found[path.parent] = view
    return found


def recommended(contest: Sequence[Replicates], others: dict[Path, View]) -> list[CandidateSpec]:
    """What the other studies recommend, in order."""
    one = contest[0].setting
    tokens = max(
        g.setting.training.steps * g.setting.training.batch_size * g.setting.training.sequence_length for g in contest
    )
    model = model_from(one.model.name)
    counts = count_parameters(model, [r for r in rules().ranks if r <= 64], "all-linear")
    here = Here(one.model.name, counts[0].base_parameters, model_type(one.model.name), tokens, one.task.name)
    found: list[ComparisonGroup] = []
    for folder, v in others.items():
        found += comparison_groups_in(v.analysis, here, folder)
    trainable = {c.rank: c.trainable_parameters for c in counts}
    given = candidate_specs(here.parameters, here.tokens, trainable, nearest(found), found)
    return sorted(given, key=lambda f: order(_as_recommendation(f, trainable, here.parameters), "accuracy"))


def carried_out(
    ranked: Sequence[CandidateSpec], contest: Sequence[Replicates], given: Sequence[Option]
) -> tuple[CandidateSpec, Option]:
    """The first entry whose method and storage were run there, and the option nearest to it."""
    by_condition = {g.condition: g for g in contest}
    for family in ranked:
        alike = [o for o in given if key_of(by_condition[o.condition]) == family.key]
        if alike:
            return family, min(alike, key=lambda o: _distance(by_condition[o.condition], family))
    raise ValueError("a contest without any method that is thought of")


def _as_recommendation(f: CandidateSpec, trainable: dict[int, int], parameters: int) -> RankedCandidate:
    count = parameters if f.method.rank is None else trainable.get(f.method.rank, f.method.rank * trainable[1])
    candidate: Any = None
    return RankedCandidate(candidate, Needs(count, count, count, count), 0, f.quality)


def _distance(g: Replicates, family: CandidateSpec) -> tuple[float, float, float]:
    rank = abs(math.log2((g.setting.method.rank or 1) / (family.method.rank or 1)))
    ours, theirs = _modules(g.setting.method.target_modules), _modules(family.method.target_modules)
    return len(ours ^ theirs), rank, abs(math.log(g.setting.training.fixed_learning_rate / family.learning_rate))


def _modules(wanted: str | tuple[str, ...] | None) -> frozenset[str]:
    """Which of a Llama layer's seven matrices are adapted."""
    attention, mlp = (
        frozenset(("q_proj", "k_proj", "v_proj", "o_proj")),
        frozenset(("gate_proj", "up_proj", "down_proj")),
    )
    groups = {"all-linear": attention | mlp, "attention": attention, "mlp": mlp}
    return groups.get(wanted, frozenset((wanted,))) if isinstance(wanted, str) else frozenset(wanted or ())


def rule(
    ranked: Sequence[CandidateSpec],
    contest: Sequence[Replicates],
    given: Sequence[Option],
    wanted: Callable[[list[int]], int],
) -> float | None:
    """The regret of a rule on the rank: LoRA on an unquantized base with the recommended modules and rate, at the
    rule's rank; None where there is none."""
    lora = next(f for f in ranked if f.key == ("lora", "none"))
    by_condition = {g.condition: g for g in contest}
    able = [o for o in given if key_of(by_condition[o.condition]) == lora.key]
    if not able:
        return None
    rank = wanted(sorted({o.rank or 0 for o in able}))
    family = replace(lora, method=lora.method.model_copy(update={"rank": rank}))
    return min(able, key=lambda o: (o.rank != rank, _distance(by_condition[o.condition], family))).worse


def nearest_to(rank: int) -> Callable[[list[int]], int]:
    """The rank of a list that lies nearest, on a logarithmic scale."""
    return lambda ranks: min(ranks, key=lambda r: abs(math.log2(r / rank)))


def leave_one_out(known: dict[Path, View], adapters: bool) -> list[dict[str, Any]]:
    """A row for each contest with two ranks or more, of LoRA alone where `adapters`."""
    rows = []
    for folder, view in known.items():
        others = {f: v for f, v in known.items() if f != folder}
        for whole in comparison_groups(view.analysis.groups):
            contest = [g for g in whole if not adapters or key_of(g) == ("lora", "none")]
            given = trained_options(contest, view.analysis.summaries, view.analysis.verdicts, view.analysis.metric)
            if len({o.rank for o in given if o.rank}) < 2:
                continue
            ranked = recommended(contest, others)
            _, took = carried_out(ranked, contest, given)
            rules_of = {"always 8": nearest_to(8), "always 16": nearest_to(16), "largest that fits": max}
            regrets = {name: rule(ranked, contest, given, wanted) for name, wanted in rules_of.items()}
            if None not in regrets.values():
                rows.append(
                    {
                        "study": folder.name,
                        "model": contest[0].setting.model.name,
                        "recommended": took.label,
                        "regret": took.worse,
                        **regrets,
                    }
                )
    return rows


def told(rows: list[dict[str, Any]], title: str) -> dict[str, Any]:
    """The rows with their means: one study, one vote, since a study of twelve contests says no more of a rule than one
    of a single contest."""
    names = ("regret", "always 8", "always 16", "largest that fits")
    studies = list(dict.fromkeys(r["study"] for r in rows))
    mean = {n: statistics.mean(statistics.mean(r[n] for r in rows if r["study"] == s) for s in studies) for n in names}
    print(f"\n{title:<72}" + "".join(f"{n:>18}" for n in names))
    for r in rows:
        print(f"{r['study']:<26}{r['recommended'][:44]:<46}" + "".join(f"{r[n]:>18.4f}" for n in names))
    print(f"{'mean over studies':<72}" + "".join(f"{mean[n]:>18.4f}" for n in names))
    return {"mean_regret": mean, "contests": rows}


def answer_seconds() -> dict[str, list[float]]:
    """Wall seconds of the command for a 70B model, five times, each beside a process that imports the libraries and
    does nothing."""
    asked = [
        "-m",
        "lorabench",
        "recommend",
        "--model",
        "meta-llama/Llama-3.1-70B",
        "--gpu",
        "a100-80gb",
        "--sequence-length",
        "2048",
        "--json",
    ]
    commands = {"answer_seconds_70b": asked, "import_seconds": ["-c", "import torch, transformers, peft"]}
    seen: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(5):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=ROOT)
            seen[name].append(round(time.perf_counter() - began, 2))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description="What recommendations lose, and how long one takes.")
    parser.add_argument("--check-time", action="store_true")
    options = parser.parse_args()
    known = views()
    found: dict[str, Any] = {"command": "python benchmarks/recommend.py", "machine": platform.platform()}
    for title, adapters in (("all methods", False), ("LoRA alone", True)):
        found[title] = told(leave_one_out(known, adapters), title)
    if options.check_time:
        found |= (seen := answer_seconds())
        print(seen)
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
