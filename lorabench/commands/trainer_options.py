"""The options that name the program whose memory is predicted."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lorabench.commands.arguments import whole_number
from lorabench.errors import LorabenchError

if TYPE_CHECKING:
    from lorabench.config.trainer import Trainer

ALL = "all"


def add_trainer_option(c: argparse.ArgumentParser, more: str = "") -> None:
    """--trainer alone."""
    c.add_argument(
        "--trainer",
        metavar="NAME",
        help=f"the program that will train (see: lorabench trainers){more} (default: lorabench, its own loop)",
    )


def add_variant_options(c: argparse.ArgumentParser) -> None:
    """What a trainer leaves to its user."""
    c.add_argument("--loss", metavar="KIND", help="full, chunked or fused (default: the trainer's own)")
    c.add_argument("--attention", metavar="KIND", help="sdpa, flash or eager (default: the model's own, mostly sdpa)")
    c.add_argument(
        "--kbit-preparation",
        action=argparse.BooleanOptionalAction,
        help="PEFT's prepare_model_for_kbit_training on a quantized base, or not (default: as the trainer does)",
    )
    c.add_argument(
        "--packing", action="store_true", help="examples packed end to end, a micro-batch in one row (with trl)"
    )


def add_sharding_options(c: argparse.ArgumentParser) -> None:
    """How many GPUs train together, and what they share."""
    c.add_argument(
        "--gpus", metavar="N", type=whole_number, default=1, help="GPUs that train together (default: 1); not measured"
    )
    c.add_argument(
        "--strategy", metavar="NAME", help="what they share: ddp, zero2, zero3 or fsdp (default with --gpus: ddp)"
    )


def variant_of(options: argparse.Namespace) -> tuple[str | None, str | None, bool | None, bool]:
    """Loss, attention and preparation that a command line asks for, None where it leaves them to the trainer; and
    whether it asks for packing."""
    return options.loss, options.attention, options.kbit_preparation, options.packing


def trainer_of(options: argparse.Namespace, of: Trainer | None = None) -> Trainer:
    """The trainer that a command line names, else `of`, else lorabench's own loop, with its variant; LorabenchError
    where there is no such one, or all are named where one answers."""
    from lorabench.config.trainer import OWN

    if of is None and options.trainer == ALL:
        raise LorabenchError(
            "this command answers for one trainer; name it, or compare all for a setting with: lorabench estimate"
            " --trainer all"
        )
    from lorabench.workflows.trainers import chosen

    return chosen(of or options.trainer or OWN, *variant_of(options))
