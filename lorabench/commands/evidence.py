"""The command evidence: published results and learning rates, listed and filtered."""

from __future__ import annotations

import argparse
from typing import Any

from lorabench.commands.arguments import JSON, amount, whole_number
from lorabench.errors import LorabenchError


def add_evidence_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("what", metavar="sources", nargs="?", choices=["sources"], help="list the sources instead")
    c.add_argument(
        "--model-size", metavar="N", type=amount, help="parameters, such as 8B: models of half to twice that size"
    )
    c.add_argument(
        "--task",
        metavar="KIND",
        help="classification, instruction (chat), math, code, commonsense, generation, continued-pretraining, other",
    )
    c.add_argument("--method", metavar="NAME", help="full, lora, dora, pissa and others")
    c.add_argument("--quantization", metavar="NAME", help="how the frozen base is stored: none, nf4, int8 and others")
    c.add_argument("--source", metavar="ID", help="one source (see: lorabench evidence sources)")
    c.add_argument("--rank", metavar="N", type=whole_number, help="of the adapter")
    c.add_argument(
        "--all",
        dest="everything",
        action="store_true",
        help="with failed, misprinted, repeated and converted rows, and those that tell of forgetting or training loss",
    )
    c.add_argument("--learning-rates", action="store_true", help="published learning rates in place of results")
    c.add_argument("--json", action="store_true", help=JSON)
    c.add_argument("--csv", action="store_true", help="print CSV with every column in place of text")


def evidence(options: argparse.Namespace) -> int:
    """Lists published results, learning rates or their sources."""
    from lorabench.commands import evidence_text
    from lorabench.evidence.listing import evidence as published

    if options.json and options.csv:
        raise LorabenchError("--json and --csv are two forms of one answer; give one of them")
    asked: dict[str, Any] = {
        "model_size": options.model_size,
        "task": options.task,
        "method": options.method,
        "quantization": options.quantization,
        "source": options.source,
        "rank": options.rank,
    }
    if options.what == "sources":
        answers = [published(**asked, everything=True, learning_rates=rates) for rates in (False, True)]
        print(evidence_text.sources(answers, options.json, options.csv))
        return 0
    answer = published(**asked, everything=options.everything, learning_rates=options.learning_rates)
    elsewhere = 0
    if answer.rows.empty:
        elsewhere = len(published(**asked, everything=True, learning_rates=not options.learning_rates).rows)
    print(evidence_text.rows(answer, options.json, options.csv, options.learning_rates, elsewhere))
    return 0
