"""What evidence tells: published values beside full fine-tuning of the same table, and what was left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lorabench.advice.rank_trial import trial_sentence
from lorabench.commands.output import columns
from lorabench.evidence.listing import flags_of, source_dict
from lorabench.evidence.schema import FLAGS
from lorabench.formatting import DASH, count, plural

if TYPE_CHECKING:
    from lorabench.evidence.listing import PublishedEvidence

HEAD = ("source", "model", "task", "length", "method", "rank", "base", "metric", "value", "full", "gap", "flags")
RATE_HEAD = ("source", "model", "task", "method", "rank", "alpha", "batch", "rate", "full", "ratio", "choice")
WIDEST = 44
"""characters of a task's name: longer ones would push the numbers off a terminal"""
REASONS = {flag: flag.replace("_", " ") for flag in FLAGS} | {
    "forgetting": "on forgetting",
    "training": "on the training loss",
}


def rows(answer: PublishedEvidence, as_json: bool, as_csv: bool, rates: bool, elsewhere: int = 0) -> str:
    """Rows as a table with a summary below, or as JSON or CSV; where there is none, how many of the other kind match
    (`elsewhere`)."""
    if as_json:
        return json.dumps(answer.to_dict(), indent=2, ensure_ascii=False)
    if as_csv:
        return str(answer.rows.to_csv(index=False, lineterminator="\n")).rstrip("\n")
    if answer.rows.empty:
        where = "without --learning-rates" if rates else "with --learning-rates"
        hint = f"; {plural(elsewhere, 'row')} {where}" if elsewhere else ""
        found = f"no published {'rate' if rates else 'result'} matches all of it{hint}"
        return f"{found}\n{_left_out(answer)}".rstrip("\n")
    records = answer.rows.to_dict(orient="records")
    table = [RATE_HEAD, *map(_rate, records)] if rates else [HEAD, *map(_result, records)]
    lines = columns(table, left=(0, 1, 2, 3, 10) if rates else (0, 1, 2, 4, 6, 7, 11))
    summary = [f"{plural(len(records), 'row')} of {plural(len(answer.sources), 'source')}", _left_out(answer)]
    if not rates and len(kinds := {record["task_kind"] for record in records}) == 1:
        summary += [trial_sentence(*kinds) or ""]
    if not rates:
        summary += _explained({flag for record in records for flag in flags_of(record)})
    return "\n".join([*lines, "", *filter(None, summary)])


def sources(answers: Sequence[PublishedEvidence], as_json: bool, as_csv: bool) -> str:
    """The sources of several answers, each with its number of rows and its cautions."""
    of = Counter(name for answer in answers for name in answer.rows.source)
    named = sorted({s for answer in answers for s in answer.sources}, key=lambda s: s.id)
    if as_json:
        plain = [source_dict(s) | {"rows": of[s.id]} for s in named]
        return json.dumps(plain, indent=2, ensure_ascii=False)
    if as_csv:
        import pandas as pd

        flat = [source_dict(s) | {"rows": of[s.id], "cautions": "; ".join(s.cautions)} for s in named]
        return str(pd.DataFrame(flat).to_csv(index=False, lineterminator="\n")).rstrip("\n")
    lines = []
    for s in named:
        place = f"arXiv:{s.arxiv}" if s.arxiv else s.kind
        year = f", {s.year}" if s.year else ""
        lines += [f"{s.id}  {s.title} ({place}{year}): {plural(of[s.id], 'row')}"]
        lines += [f"  - {caution}" for caution in s.cautions]
    return "\n".join([*lines, "", plural(len(named), "source")])


def _result(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return (
        row["source"],
        row["model"],
        _shortened(row["task"]),
        _length(row),
        row["method"],
        _number(row["rank"], ".0f"),
        row["quantization"] + ("+dq" if row["double_quant"] == "yes" else ""),
        row["metric"],
        _number(row["value"], ".1f" if row["unit"] == "points" else ".3f"),
        _number(row["full_value"] if row["method"] != "full" else None, ".1f" if row["unit"] == "points" else ".3f"),
        _number(row["gap"], "+.1f" if row["unit"] == "points" else "+.3f"),
        ", ".join(REASONS[flag] for flag in flags_of(row)),
    )


def _rate(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return (
        row["source"],
        row["model"],
        _shortened(row["task"]),
        row["method"] + (f" {row['quantization']}" if row["quantization"] != "none" else ""),
        _range(row["rank_low"], row["rank_high"]),
        _number(row["alpha"], "g"),
        _range(row["batch_low"], row["batch_high"]),
        _number(row["learning_rate"], "g"),
        _number(row["full_learning_rate"], "g"),
        _number(row["ratio_to_full"], ".3g"),
        row["choice"] + (f", {row['at_edge']} edge" if row["at_edge"] else ""),
    )


def _number(value: Any, form: str) -> str:
    """A dash where it was not printed."""
    if value is None or str(value) in ("nan", "<NA>"):
        return DASH
    return format(float(value), form).replace("-", "−") if "e-" not in format(float(value), form) else f"{value:g}"


def _length(row: Mapping[Any, Any]) -> str:
    """ "20.0B tokens", or "4 epochs"; a dash where neither was printed."""
    if row["train_tokens"] == row["train_tokens"]:
        return f"{count(row['train_tokens'])} tokens"
    return plural(int(row["epochs"]), "epoch") if row["epochs"] == row["epochs"] else DASH


def _range(low: Any, high: Any) -> str:
    return _number(low, ".0f") if str(low) == str(high) else f"{_number(low, '.0f')} to {_number(high, '.0f')}"


def _shortened(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _left_out(answer: PublishedEvidence) -> str:
    if not answer.left_out:
        return ""
    named = ", ".join(f"{count(n)} {REASONS[reason]}" for reason, n in answer.left_out.items())
    return f"left out: {named}; --all lists them"


def _explained(flags: set[str]) -> list[str]:
    return [f"{REASONS[flag]}: {meaning}" for flag, meaning in FLAGS.items() if flag in flags]
