"""The measured rows of other trainers, predicted by lorabench and by its peers: a part of benchmarks/memory.py.

    python -m venv .peers && .peers/bin/pip install fitcheck-llm==0.3.1 canifinetune==0.4.1
    python benchmarks/memory.py peers [--peers VENV] [--json FILE]

Peers: fitcheck-llm and canifinetune from that environment, and `accelerate estimate-memory` from this one (transformers
needs it). They read the models' configurations from a hub cache made up of lorabench's presets; their number of
parameters is told to them, as the hub would (peer_answers.py). No network.

Measured is the allocator's peak. Of the peers' totals the tensors are taken, without overhead of the process or the
allocator and without safety margin, for which they answer something else; lorabench's prediction is the one of
benchmarks/memory_trainers.py. accelerate knows neither batches nor adapters and is asked for full fine-tuning alone.

Grade A is fitcheck's home ground: all 35 rows are its own measurements and, by its manifest, its calibration.
canifinetune was fitted to an RTX 4080's rows, of which none is here. lorabench's constants are fitted to no row, but
its trainers were modelled with all of these at hand; the peers have not seen grades B, C and the H200.

A peer is not asked for what it has no word for: another loss than all logits at once (TRL's chunks, fused losses),
DoRA, a quantized base that is not prepared for k-bit training, full fine-tuning without float32 master weights and
paged optimizers (fitcheck), float32 weights under autocast (canifinetune), 8-bit optimizers (accelerate). Those rows
are counted with the reason, as are an architecture that it refuses and what lorabench itself does not predict there.
So each peer's deviations stand beside lorabench's on the rows that this peer answers. What it says of the others when
it is asked without the word that it lacks is kept apart ("all the same"): its user may do so. Versions of libraries,
dropout, autocast and reentrant checkpoints no peer can name, and they count as answered.

"+ Liger's layers": rows that were measured after Liger's kernels had been put into Llama's module for good
(memory_trainers.liger_in_the_process). lorabench predicts them with these kernels, the peers, which have no word for
them, as they stand.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import memory_trainers
import torch
from peer_rows import Row, device_rows, published_rows, unasked

from lorabench.config.architectures import find_architecture
from lorabench.memory.meta_model import any_model

ROOT = Path(__file__).parents[1]
PEERS = ("fitcheck", "canifinetune", "accelerate")


def make_hub(folder: Path, models: Sequence[str]) -> dict[str, int]:
    """A hub cache with each model's configuration, and each model's number of parameters."""
    from transformers import AutoConfig

    counts = {}
    for name in models:
        preset = find_architecture(name)
        fields = dict(preset.config if preset else memory_trainers.POWERLM)
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        home, commit = folder / f"models--{name.replace('/', '--')}", "0" * 40
        snapshot = home / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(commit)
        (snapshot / "config.json").write_text(config.to_json_string(use_diff=False))
        counts[name] = sum(p.numel() for p in any_model(config, False).parameters())
    return counts


def asked(peer: str, python: Path, rows: Sequence[Row], hub: Path, counts: dict[str, int]) -> dict[str, Any]:
    """The peer's version and its answers to the rows."""
    found = subprocess.run(
        [str(python), str(Path(__file__).parent / "peer_answers.py"), peer],
        input=json.dumps({"parameters": counts, "questions": [asdict(r) for r in rows]}),
        env={**os.environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(found.stdout)


@dataclass
class Answers:
    """A row's predictions in bytes by who made them, and the reasons of those who made none."""

    row: Row
    predicted: dict[str, int] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)
    all_the_same: dict[str, int] = field(default_factory=dict)
    """what an unanswered question would be told"""

    def error(self, who: str) -> float:
        """Percent of the measurement."""
        return 100 * (self.predicted.get(who, self.all_the_same.get(who, 0)) / self.row.measured_bytes - 1)

    def written(self) -> dict[str, Any]:
        errors = {who: round(self.error(who), 3) for who in self.predicted}
        return {
            "setting": self.row.words,
            "group": self.row.group,
            "measured_bytes": self.row.measured_bytes,
            "predicted_bytes": self.predicted,
            "error_percent": errors,
            "unanswered": self.unanswered,
            "all_the_same_percent": {who: round(self.error(who), 3) for who in self.all_the_same},
        }


def compare(rows: Sequence[Row], venv: Path) -> tuple[list[Answers], dict[str, str]]:
    """Every row with all answers, and the peers' versions."""
    found, versions = [Answers(r) for r in rows], {}
    for a in found:
        if a.row.lorabench_bytes is not None:
            a.predicted["lorabench"] = a.row.lorabench_bytes
        else:
            a.unanswered["lorabench"] = a.row.other
    with tempfile.TemporaryDirectory() as folder:
        counts = make_hub(Path(folder), sorted({r.model for r in rows}))
        for peer in PEERS:
            python = Path(sys.executable) if peer == "accelerate" else venv / "bin" / "python"
            told = asked(peer, python, rows, Path(folder), counts)
            versions[peer] = told["version"]
            for a, answer in zip(found, told["answers"], strict=True):
                reason = unasked(peer, a.row) or ("" if "bytes" in answer else f"architecture: {answer['refused']}")
                if reason:
                    a.unanswered[peer] = reason
                if "bytes" in answer:
                    (a.all_the_same if reason else a.predicted)[peer] = answer["bytes"]
    return found, versions


def summarized(found: Sequence[Answers]) -> dict[str, Any]:
    """For each group and each of the four: how many rows are answered, the deviations, lorabench's on the same rows,
    and the reasons of the rest."""
    summary: dict[str, Any] = {}
    for group in dict.fromkeys(a.row.group for a in found):
        own = [a for a in found if a.row.group == group]
        summary[group] = {"rows": len(own)}
        for who in ("lorabench", *PEERS):
            answered = [a for a in own if who in a.predicted]
            summary[group][who] = {
                "answered": len(answered),
                **deviations(answered, who, ""),
                **(deviations(answered, "lorabench", "lorabench_") if who != "lorabench" else {}),
                "unanswered": dict(Counter(_reason(a, who) for a in own if who in a.unanswered)),
            }
    return summary


def deviations(answered: Sequence[Answers], who: str, prefix: str) -> dict[str, float]:
    """Median and worst absolute deviation in percent; nothing without rows."""
    errors = [abs(a.error(who)) for a in answered if who in a.predicted]
    if not errors:
        return {}
    return {
        f"{prefix}median_percent": round(statistics.median(errors), 3),
        f"{prefix}worst_percent": round(max(errors), 3),
    }


def table(summary: dict[str, Any]) -> str:
    """Median and worst deviation of each peer, lorabench's on the same rows beside them, in Markdown."""
    lines = [
        "| group | rows | lorabench | peer | answered | peer's | lorabench's there |",
        "|---|---:|---|---|---:|---|---|",
    ]
    for group, entry in summary.items():
        own = entry["lorabench"]
        start = f"| {group} | {entry['rows']} | {_pair(own, '')} of {own['answered']} |"
        for peer in (p for p in PEERS if entry[p]["answered"]):
            theirs = entry[peer]
            lines.append(
                f"{start} {peer} | {theirs['answered']} | {_pair(theirs, '')} | {_pair(theirs, 'lorabench_')} |"
            )
            start = "| | | |"
        if not any(entry[p]["answered"] for p in PEERS):
            lines.append(f"{start} none | 0 | | |")
    return "\n".join(lines)


def reasons(found: Sequence[Answers]) -> dict[str, dict[str, Any]]:
    """For each of the four and each reason: how many rows it does not answer, and the signed deviations of what it says
    of them all the same, in percent."""
    every: dict[str, dict[str, Any]] = {}
    for who in ("lorabench", *PEERS):
        counted = Counter(_reason(a, who) for a in found if who in a.unanswered)
        every[who] = {}
        for reason, count in counted.most_common():
            same = [a for a in found if who in a.all_the_same and _reason(a, who) == reason]
            errors = sorted(round(a.error(who), 1) for a in same)
            entry = (
                {"median": round(statistics.median(errors), 1), "from": errors[0], "to": errors[-1]} if errors else {}
            )
            every[who][reason] = {"rows": count, "all_the_same_percent": entry}
    return every


def table_of_reasons(every: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""
    lines = ["| not answered by | rows | reason | what it says all the same |", "|---|---:|---|---|"]
    for who, its in every.items():
        for reason, entry in its.items():
            same = entry["all_the_same_percent"]
            said = f"{same['median']:+.0f} % ({same['from']:+.0f} to {same['to']:+.0f})" if same else "-"
            lines.append(f"| {who} | {entry['rows']} | {reason} | {said} |")
    return "\n".join(lines)


def _reason(answers: Answers, who: str) -> str:
    return answers.unanswered[who].split(":")[0]


def _pair(entry: dict[str, Any], prefix: str) -> str:
    if f"{prefix}median_percent" not in entry:
        return "-"
    return f"{entry[f'{prefix}median_percent']:.1f} / {entry[f'{prefix}worst_percent']:.1f} %"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="memory.py peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--peers", type=Path, default=ROOT / ".peers", help="environment with the peers; default .peers"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "reports" / "memory-peers.json")
    options = parser.parse_args(arguments)
    if not (options.peers / "bin" / "python").exists():
        parser.error(
            f"no environment in {options.peers}; make one: python -m venv {options.peers} &&"
            f" {options.peers}/bin/pip install fitcheck-llm==0.3.1 canifinetune==0.4.1"
        )
    found, versions = compare([*published_rows(), *device_rows()], options.peers)
    summary = summarized(found)
    print(table(summary), table_of_reasons(reasons(found)), sep="\n\n")
    environment = {
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "peers": versions,
    }
    result = {
        "summary": summary,
        "unanswered": reasons(found),
        "environment": environment,
        "rows": [a.written() for a in found],
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n")
