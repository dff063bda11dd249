"""The command that asks rules for a rank before training: probe."""

from __future__ import annotations

import argparse

from lorabench import plugins
from lorabench.commands.arguments import JSON, MODEL_NAMES, whole_number
from lorabench.commands.output import note
from lorabench.errors import LorabenchError
from lorabench.workflows.probe_defaults import BATCHES, MEAN_RANK, STEPS


def add_probe_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("study", metavar="STUDY", nargs="?", help="a study file, whose base, data and batches are used")
    c.add_argument("--model", metavar="NAME", help=f"in place of a study: {MODEL_NAMES}")
    c.add_argument(
        "--data",
        metavar="FILE",
        help="the training data of --model: text (.txt, .md, a folder) or rows of instructions or conversations",
    )
    c.add_argument("--quantization", metavar="NAME", help="of --model's base: none, int8, fp4, nf4")
    c.add_argument("--sequence-length", metavar="N", type=whole_number, help="with --model (default 512)")
    c.add_argument("--batch-size", metavar="N", type=whole_number, help="with --model (default 8)")
    c.add_argument(
        "--set", metavar="KEY=VALUE", dest="settings", action="append", default=[], help="change a setting of the study"
    )
    c.add_argument(
        "--probes", metavar="NAME", nargs="+", help=f"which (default: all): {', '.join(plugins.names('probes'))}"
    )
    c.add_argument(
        "--batches",
        metavar="N",
        type=whole_number,
        default=BATCHES,
        help=f"forward and backward passes, an even number (default {BATCHES})",
    )
    c.add_argument(
        "--steps",
        metavar="N",
        type=int,
        default=STEPS,
        help=f"steps of the short training that two probes need (default {STEPS}; 0: none)",
    )
    c.add_argument(
        "--mean-rank",
        metavar="R",
        type=whole_number,
        default=MEAN_RANK,
        help=f"mean rank of a budget that is spread over modules (default {MEAN_RANK})",
    )
    c.add_argument("--json", action="store_true", help=JSON)


def probe(options: argparse.Namespace) -> int:
    """Prints the rank that each rule names."""
    if (options.study is None) == (options.model is None):
        raise LorabenchError("probe needs a study file, or --model with --data, and not both")
    if (options.model is None) != (options.data is None):
        raise LorabenchError("--model and --data belong together: the rank depends on the data; give both")
    of_a_model = {
        "quantization": options.quantization,
        "training.sequence_length": options.sequence_length,
        "training.batch_size": options.batch_size,
    }
    if options.study and (given := [f"{name}={value}" for name, value in of_a_model.items() if value is not None]):
        option = given[0].partition("=")[0].rpartition(".")[2].replace("_", "-")
        raise LorabenchError(f"--{option} is for --model; a study has its own: --set {given[0]}")
    from lorabench.commands import probe_text
    from lorabench.config import load_study
    from lorabench.workflows import probe as workflow

    study = (
        load_study(options.study, options.settings)
        if options.study
        else workflow.study_of(
            options.model,
            options.data,
            quantization=options.quantization or "none",
            sequence_length=options.sequence_length or 512,
            batch_size=options.batch_size or 8,
            settings=options.settings,
        )
    )
    probes = workflow.probe(
        study,
        names=options.probes,
        batches=options.batches,
        steps=options.steps,
        mean_rank=options.mean_rank,
        progress=note,
    )
    print(probe_text.as_json(probes) if options.json else probe_text.text(probes, options.mean_rank))
    return 0
