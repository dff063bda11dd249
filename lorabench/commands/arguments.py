"""What options take: whole numbers, amounts, names between commas."""

from __future__ import annotations

import argparse
import sys
from typing import TypedDict

JSON = "print JSON in place of text"
MODEL_NAMES = "preset (llama-3.1-8b), shipped model, directory, GGUF file or hub id"


class Renamed(argparse.Action):
    """An option's old name: it sets what the new name sets, and a line on standard error says what it became."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        print(f"note: {option_string} is now --{self.dest.replace('_', '-')}: {self.metavar}", file=sys.stderr)


class _OldName(TypedDict):
    """Arguments of add_argument that all old names share."""

    action: type[argparse.Action]
    help: str


OLD_NAME: _OldName = {"action": Renamed, "help": argparse.SUPPRESS}


def whole_number(text: str) -> int:
    """ "2,048" is 2048; ArgumentTypeError below 1 and for other words."""
    try:
        number = int(text.replace(",", "").replace("_", ""))
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1, such as 2048")
    return number


def pack_size(text: str) -> int | None:
    """ "auto" is None, "off" is 1; ArgumentTypeError for other words."""
    if text in ("auto", "off"):
        return None if text == "auto" else 1
    try:
        return whole_number(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size of a pack; allowed: auto, off, or a whole number of cells such as 8"
        ) from None


def worker_count(text: str) -> int | None:
    """ "auto" is None; ArgumentTypeError for other words."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of workers; allowed: auto, or a whole number such as 2"
        ) from None


def cards_per_cell(text: str) -> float:
    """ "auto" is 0, "0.25" a share of one card, "2" whole ones; ArgumentTypeError for other words."""
    if text == "auto":
        return 0.0
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.01 <= number <= 64 or (number > 1 and number != int(number)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of GPUs for a cell; allowed: auto, a share such as 0.25, or whole ones such as 2"
        )
    return number


def amount(text: str) -> int:
    """ "6M" is 6,000,000."""
    number, scale = text.strip(), 1
    for unit, times in (("K", 10**3), ("M", 10**6), ("B", 10**9)):
        if number.upper().endswith(unit):
            number, scale = number[:-1], times
    try:
        return round(float(number.replace(",", "").replace("_", "")) * scale)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount; write it as 20000, 20K or 6M") from None


def add_target_parameters_option(c: argparse.ArgumentParser) -> None:
    """For the commands that ask where adapters go."""
    c.add_argument(
        "--target-parameters",
        metavar="NAMES",
        help="experts, or names of their parameters with commas: adapted beside the modules (default: none)",
    )


def modules(text: str | None) -> str | tuple[str, ...] | None:
    """Names between commas as a tuple; one name, or a group's, as it is."""
    return tuple(t.strip() for t in text.split(",")) if text and "," in text else text
