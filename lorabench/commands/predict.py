"""The commands that predict without training: estimate, plan, parameters."""

from __future__ import annotations

import argparse

from lorabench import startup
from lorabench.commands.arguments import JSON, MODEL_NAMES, OLD_NAME, add_target_parameters_option, modules
from lorabench.commands.calibrate import add_calibration_option, card_if_named, card_of
from lorabench.commands.output import note_first_reading
from lorabench.commands.trainer_options import (
    ALL,
    add_sharding_options,
    add_trainer_option,
    add_variant_options,
    trainer_of,
    variant_of,
)
from lorabench.errors import LorabenchError


def add_estimate_options(c: argparse.ArgumentParser) -> None:
    _add_setting_options(c)
    c.add_argument(
        "--gpu",
        metavar="GPU",
        help=(
            "a known card (see: lorabench gpus), a size such as 24GB, or cpu for this machine: whether the training"
            " step fits, and the largest micro-batch and sequence length that would"
        ),
    )
    add_calibration_option(c)
    add_trainer_option(c, ", or all: a row for each")
    _add_variant_options(c)


def add_check_options(c: argparse.ArgumentParser) -> None:
    _add_setting_options(c)
    c.add_argument(
        "--gpu",
        metavar="GPU",
        required=True,
        help="a known card (see: lorabench gpus), a size such as 24GB, or cpu for this machine",
    )
    add_calibration_option(c)
    add_trainer_option(c)
    _add_variant_options(c)
    c.epilog = (
        "exit codes: 0 it fits, 1 it does not, 2 a mistake in the command, 3 it cannot be told: the card lies between"
        " the low and the high end of the prediction, or the model's training step cannot be predicted"
    )


def _add_variant_options(c: argparse.ArgumentParser) -> None:
    add_variant_options(c)
    add_sharding_options(c)
    c.add_argument("--json", action="store_true", help=JSON)


def _add_setting_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--model", required=True, metavar="NAME", help=MODEL_NAMES)
    c.add_argument("--method", metavar="NAME", help="full, lora, rslora, dora, pissa (default: lora)")
    c.add_argument("--rank", metavar="R", help="rank of the adapters (default: 8)")
    c.add_argument(
        "--target-modules",
        metavar="NAMES",
        help="all-linear, attention, mlp, or names separated by commas (default: all-linear)",
    )
    add_target_parameters_option(c)
    c.add_argument("--quantization", metavar="NAME", help="none, int8, fp4, nf4 (default: none)")
    c.add_argument("--double-quant", action="store_true", help="quantize the block constants, too")
    c.add_argument("--dtype", metavar="DTYPE", help="of unquantized weights (default: as model.dtype: auto)")
    c.add_argument("--micro-batch-size", metavar="N", help="sequences of one forward pass (default: 8)")
    c.add_argument("--batch-size", dest="micro_batch_size", metavar="sequences of one forward pass", **OLD_NAME)
    c.add_argument("--sequence-length", metavar="N", help="tokens of a training sequence at most (default: 256)")
    c.add_argument("--gradient-accumulation", metavar="N", help="forward passes of an optimizer step (default: 1)")
    c.add_argument("--gradient-checkpointing", action="store_true", help="recompute activations in the backward pass")
    c.add_argument(
        "--optimizer", metavar="NAME", help="adamw, adamw-8bit, paged-adamw, paged-adamw-8bit, sgd (default: adamw)"
    )
    c.add_argument(
        "--autocast", metavar="DTYPE", help="none or bfloat16 (default: bfloat16 on cards that compute in it)"
    )


def estimate(options: argparse.Namespace) -> int:
    """Predicts the memory of one training step, of one trainer or of all."""
    note_first_reading(options.model)
    from lorabench.commands import estimate_text, trainer_text
    from lorabench.workflows.trainers import compare_trainers, sharding_of

    with startup.predicting():
        sharding = sharding_of(options.gpus, options.strategy)
        if options.trainer == ALL:
            if sharding:
                raise LorabenchError("--trainer all compares trainers on one GPU; name one trainer beside --gpus")
            compared = compare_trainers(settings_of(options), card_if_named(options), *variant_of(options))
            print(trainer_text.comparison(compared, options.json))
        else:
            trainer = trainer_of(options)
            card = card_if_named(options)
            print(estimate_text.estimate(settings_of(options), card, options.json, trainer, sharding))
    return 0


def check(options: argparse.Namespace) -> int:
    """Tells in one line, and by the exit code, whether a training fits."""
    import json

    from lorabench.workflows.trainers import sharding_of
    from lorabench.workflows.verdict import check_fit

    if options.trainer == ALL:
        raise LorabenchError(
            "check answers for one trainer; name it, or see all with: lorabench estimate --trainer all"
        )
    note_first_reading(options.model)
    with startup.predicting():
        sharding = sharding_of(options.gpus, options.strategy)
        verdict = check_fit(settings_of(options), card_of(options), trainer_of(options), sharding)
    print(json.dumps(verdict.to_dict(), indent=2) if options.json else verdict.sentence)
    return verdict.exit_code


def settings_of(options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """The settings of a command line as a study has them, only what was said."""
    settings: dict[str, dict[str, object]] = {
        "model": {"name": options.model, "dtype": options.dtype},
        "quantization": {"name": options.quantization, "double_quant": options.double_quant or None},
        "method": {
            "name": options.method,
            "rank": options.rank,
            "target_modules": modules(options.target_modules),
            "target_parameters": modules(options.target_parameters),
        },
        "training": (
            {f: getattr(options, f) for f in ("gradient_accumulation", "sequence_length", "optimizer", "autocast")}
            | {
                "batch_size": options.micro_batch_size,
                "gradient_checkpointing": options.gradient_checkpointing or None,
            }
        ),
    }
    declared = {part: {k: v for k, v in fields.items() if v is not None} for part, fields in settings.items()}
    return {part: fields for part, fields in declared.items() if fields}


def add_plan_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("study", metavar="STUDY.yaml", help="study file")
    c.add_argument(
        "--gpu", metavar="GPU", required=True, help="a known card, a size such as 24GB, or cpu for this machine"
    )
    add_calibration_option(c)
    c.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a setting of the study")
    add_trainer_option(c)
    add_variant_options(c)
    c.add_argument("--json", action="store_true", help=JSON)


def plan(options: argparse.Namespace) -> int:
    """Predicts what each condition of a study needs on a card."""
    from lorabench.commands import plan_text
    from lorabench.config.source import override, read_source

    with startup.predicting():
        source = override(read_source(options.study), tuple(options.set))
        print(plan_text.plan(source, card_of(options), options.json, trainer_of(options)))
    return 0


def add_parameters_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--model", required=True, metavar="NAME", help=MODEL_NAMES)
    c.add_argument("--rank", metavar="R", type=int, nargs="+", required=True, help="one or more ranks")
    c.add_argument("--target-modules", metavar="NAMES", help="as for estimate")
    add_target_parameters_option(c)
    c.add_argument("--method", metavar="NAME", default="lora", help="see: lorabench methods (default: lora)")
    c.add_argument("--json", action="store_true", help=JSON)


def parameters(options: argparse.Namespace) -> int:
    """Counts trainable parameters by rank."""
    from lorabench.commands import parameters_text

    note_first_reading(options.model)
    targets = modules(options.target_modules) or "all-linear"
    with startup.predicting():
        stacks = modules(options.target_parameters)
        print(parameters_text.parameters(options.model, options.rank, targets, options.method, stacks, options.json))
    return 0
