"""The command recommend: which rank, method and quantization to take for a model on a card."""

from __future__ import annotations

import argparse
import sys

from lorabench import plugins, startup
from lorabench.commands.arguments import (
    JSON,
    MODEL_NAMES,
    OLD_NAME,
    add_target_parameters_option,
    amount,
    modules,
    whole_number,
)
from lorabench.commands.calibrate import add_calibration_option, card_of
from lorabench.commands.output import note_first_reading
from lorabench.commands.trainer_options import add_trainer_option, add_variant_options, trainer_of
from lorabench.errors import LorabenchError


def add_recommend_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--model", required=True, metavar="NAME", help=MODEL_NAMES)
    c.add_argument(
        "--gpu",
        required=True,
        metavar="GPU",
        help="a known card (see: lorabench gpus), a size such as 24GB, or cpu for this machine",
    )
    add_calibration_option(c)
    c.add_argument(
        "--sequence-length",
        metavar="N",
        type=whole_number,
        help="tokens of a training sequence at most (default: 256, which the answer then says)",
    )
    c.add_argument(
        "--global-batch-size",
        metavar="N",
        type=whole_number,
        default=16,
        help="sequences of an optimizer step, over all micro-batches (default: 16)",
    )
    c.add_argument(
        "--batch-size",
        dest="global_batch_size",
        metavar="sequences of an optimizer step, over all micro-batches",
        type=whole_number,
        default=16,
        **OLD_NAME,
    )
    c.add_argument("--examples", metavar="N", type=amount, help="training examples, such as 20000 or 20K")
    c.add_argument("--tokens", metavar="N", type=amount, help="training tokens, such as 6M")
    c.add_argument(
        "--from",
        metavar="DIR",
        dest="studies",
        nargs="+",
        action="extend",
        help="results directories to learn from (default: reports/ and runs/, where their models are near in size)",
    )
    c.add_argument(
        "--task", metavar="NAME", help="the kind of task, as studies name it: studies of another kind count less"
    )
    c.add_argument("--priority", metavar="WHAT", default="accuracy", help="accuracy, memory, speed (default: accuracy)")
    c.add_argument(
        "--tolerated-loss",
        metavar="X",
        type=float,
        help="how much worse than the best still counts as good, as the answer shows its quality: 1 is a point of a"
        " score (percent), or a nat where a study is judged by its loss (default: the study's margin; published: the"
        " highest rank that helps)",
    )
    add_target_parameters_option(c)
    add_trainer_option(c, "; with --emit the one that the files are for")
    add_variant_options(c)
    c.add_argument("--json", action="store_true", help=JSON)
    c.add_argument("--emit", metavar="TOOL", help=f"write files for a trainer: {', '.join(plugins.names('emitters'))}")
    c.add_argument(
        "--entry", metavar="N", type=whole_number, help="which recommendation the files carry out (default: 1)"
    )
    c.add_argument("-o", "--output", metavar="DIR", help="where the files go (with --emit)")


def recommend(options: argparse.Namespace) -> int:
    """Recommends what to take for a model on a card."""
    from lorabench.advice import text
    from lorabench.commands.plan_text import STORED
    from lorabench.workflows import recommend as advisor
    from lorabench.workflows.stored_evidence import studies_here

    if options.emit and not options.output:
        raise LorabenchError("--emit writes files; say where with -o DIR")
    if options.entry is not None and not options.emit:
        raise LorabenchError(
            "--entry chooses which recommendation is written, but nothing is; add --emit and one of"
            f" {', '.join(plugins.names('emitters'))}"
        )
    if options.output and not options.emit:
        raise LorabenchError(
            "-o says where files go, but none are asked for; add --emit and one of"
            f" {', '.join(plugins.names('emitters'))}"
        )
    emitter = plugins.load("emitters", options.emit) if options.emit else None
    if emitter is None:
        trainer = trainer_of(options)
    else:
        if options.trainer and options.trainer != emitter.TRAINER.name:
            raise LorabenchError(
                f"--emit {options.emit} writes files for {emitter.TRAINER.title}, but --trainer {options.trainer} is"
                f" asked for; leave --trainer out or give --trainer {emitter.TRAINER.name}"
            )
        trainer = trainer_of(options, emitter.TRAINER)
    note_first_reading(options.model)
    with startup.predicting():
        answer = advisor.recommend(
            options.model,
            card_of(options),
            options.sequence_length,
            batch_size=options.global_batch_size,
            examples=options.examples,
            tokens=options.tokens,
            studies=options.studies or (),
            nearby_studies=() if options.studies else studies_here(),
            priority=options.priority,
            tolerated_loss=options.tolerated_loss,
            task=options.task,
            target_parameters=modules(options.target_parameters),
            timings=STORED,
            trainer=trainer,
        )
    print(text.as_json(answer) if options.json else text.as_text(answer))
    if emitter is not None:
        for path in advisor.emit(answer, emitter.emit, options.entry or 1, options.output):
            print(path, file=sys.stderr if options.json else sys.stdout)
    return 0
