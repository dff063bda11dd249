"""What the command line takes: one parser a command, and one sentence with exit code 2 for what it does not."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from lorabench import __version__, plugins


class Parser(argparse.ArgumentParser):
    """One sentence and exit code 2, with the nearest name where a word is unknown."""

    def error(self, message: str) -> NoReturn:
        words = [*self._commands(), *(o for a in self._all_actions() for o in a.option_strings)]
        seen = message.rpartition(": ")[2].partition(" (")[
            0
        ]  # "argument COMMAND: invalid choice: 'rnu' (choose from ...)"
        wrong = next(
            (
                w
                for w in seen.replace("'", " ").replace("=", " ").split()
                if w not in words and (near := _near(w, words))
            ),
            None,
        )
        hint = f"; did you mean {near}?" if wrong and ("invalid choice" in message or "unrecognized" in message) else ""
        place = self.prog.partition(" ")[2]
        print(f"lorabench: {message}{hint}; see: lorabench {place + ' ' if place else ''}--help", file=sys.stderr)
        sys.exit(2)

    def _commands(self) -> list[str]:
        return [name for a in self._actions if isinstance(a, argparse._SubParsersAction) for name in a.choices]

    def _all_actions(self) -> list[argparse.Action]:
        below = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        return [*self._actions, *(x for a in below for p in a.choices.values() for x in p._actions)]


def _near(word: str, words: list[str]) -> str:
    alike = [w for w in words if w.startswith("-") == word.startswith("-")]
    return next(iter(difflib.get_close_matches(word, alike, n=1, cutoff=0.6)), "")


class _Renamed(argparse.Action):
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


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `command` in what it gives is the command's name."""
    parser = Parser(
        prog="lorabench",
        description="What rank, method and quantization cost and bring when a language model is fine-tuned.",
    )
    parser.add_argument("--version", action="version", version=f"lorabench {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=name)
        return command

    c = add("run", "run what a study wants and has not yet; then its table and report")
    c.add_argument("study", metavar="STUDY.yaml")
    c.add_argument("--out", metavar="DIR", help="results directory (default: reports/<study name>)")
    c.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change a setting of the study: --set training.steps=50",
    )
    c.add_argument("--workers", metavar="N", type=int, default=1, help="cells that run at the same time (default: 1)")
    c.add_argument(
        "--executor", metavar="NAME", default="local", help="where cells run (default: local; see: lorabench executors)"
    )
    c.add_argument(
        "--skip-infeasible",
        action="store_true",
        help="do not run cells that are predicted not to fit into memory, record them as skipped",
    )
    c.add_argument("--dry-run", action="store_true", help="list and check the cells, run nothing")
    c = add(
        "evaluate",
        "repeat evaluations and analyses that failed or are missing, from the saved weights and without training",
    )
    c.add_argument("directory", metavar="DIR", help="results directory")
    c.add_argument(
        "cells",
        metavar="CELL",
        nargs="*",
        help="id of a cell, or its beginning (default: all that failed after training, or lack what the study asks for)",
    )
    c.add_argument("--cell", metavar="CELL", action="append", default=[], help="the same as an option")
    c.add_argument("--again", action="store_true", help="evaluate finished cells, too")
    c.add_argument("--workers", metavar="N", type=int, default=1, help="cells at a time (default: 1)")
    c.add_argument("--executor", metavar="NAME", default="local", help="where cells run (default: local)")
    c = add("status", "what a results directory holds and lacks")
    c.add_argument("directory", metavar="DIR")
    c.add_argument(
        "--cells",
        action="store_true",
        help="a line for each cell: id, outcome, seconds of training, the study's metric, its words",
    )
    c = add("table", "the table of a study's conditions, or of the literature (studies/paper/NAME.yaml)")
    c.add_argument("directory", metavar="DIR", help="results directory, or a file of studies/paper/")
    c.add_argument(
        "--format", metavar="FORMAT", help=f"{', '.join(plugins.names('exporters'))} (default: text for a terminal)"
    )
    c.add_argument("-o", "--output", metavar="FILE")
    c = add("report", "write the HTML report anew")
    c.add_argument("directory", metavar="DIR")
    c.add_argument("-o", "--output", metavar="FILE", help="default: DIR/report.html")
    c.add_argument(
        "--compare", metavar="OTHER_DIR", help="another results directory whose like conditions are held beside these"
    )
    c = add(
        "explain",
        "all that is known of a cell: settings, readings, files, environment; of a condition: its metrics and cells",
    )
    c.add_argument(
        "cell",
        metavar="CELL_OR_CONDITION",
        help="id of a cell, or its beginning; or a condition as tables and runs call it: 'LoRA r=8 nf4', 'lora rank 8, seed 0'",
    )
    c.add_argument(
        "--in", metavar="DIR", dest="directory", help="results directory (default: all under reports/ and runs/)"
    )
    _add_predictions(add)
    _add_examinations(add)
    c = add("models", "the models that ship, and presets of others that match words")
    c.add_argument("search", metavar="SEARCH", nargs="*", help="words of a model's name, such as: llama 8b")
    c = add("tasks", "the tasks there are, or all that one of them reads: its files, layouts and options")
    c.add_argument("name", metavar="TASK", nargs="?", help="one task: its options, each with its default")
    for kind in ("methods", "quantizations", "executors", "emitters"):
        add(kind, f"the {kind} there are")
    add("schema", "JSON Schema of the study file, for editors")
    add("doctor", "device, memory, versions, and what works here")
    return parser


_OLD_NAME: dict[str, Any] = {"action": _Renamed, "help": argparse.SUPPRESS}


def _add_predictions(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    named = "preset (llama-3.1-8b), shipped model, directory or hub id"
    c = add("estimate", "the memory that a training step needs, without weights, GPU or network")
    c.add_argument("--model", required=True, metavar="NAME", help=named)
    c.add_argument("--method", metavar="NAME", help="full, lora, rslora, dora, pissa (default: lora)")
    c.add_argument("--rank", metavar="R")
    c.add_argument(
        "--target-modules",
        metavar="NAMES",
        help="all-linear, attention, mlp, or names with commas (default: all-linear)",
    )
    c.add_argument("--quantization", metavar="NAME", help="none, int8, fp4, nf4 (default: none)")
    c.add_argument("--double-quant", action="store_true", help="quantise the block constants, too")
    c.add_argument(
        "--dtype", metavar="DTYPE", help="of unquantised weights (default: bfloat16 from 100M parameters on)"
    )
    c.add_argument("--micro-batch-size", metavar="N", help="sequences of one forward pass (default: 8)")
    c.add_argument("--batch-size", dest="micro_batch_size", metavar="sequences of one forward pass", **_OLD_NAME)
    c.add_argument("--sequence-length", metavar="N", help="tokens of a training sequence at most (default: 256)")
    c.add_argument("--gradient-accumulation", metavar="N", help="forward passes of an optimizer step (default: 1)")
    c.add_argument("--gradient-checkpointing", action="store_true", help="recompute activations in the backward pass")
    c.add_argument(
        "--optimizer", metavar="NAME", help="adamw, adamw-8bit, paged-adamw, paged-adamw-8bit, sgd (default: adamw)"
    )
    c.add_argument(
        "--autocast", metavar="DTYPE", help="none or bfloat16 (default: bfloat16 on cards that compute in it)"
    )
    c.add_argument(
        "--gpu",
        metavar="GPU",
        help="a known card (see: lorabench gpus), a size such as 24GB, or cpu for this machine: does it fit, and how much would?",
    )
    c.add_argument("--json", action="store_true")
    c = add("plan", "what every condition of a study needs on a card: parameters, memory, time")
    c.add_argument("study", metavar="STUDY.yaml")
    c.add_argument(
        "--gpu", metavar="GPU", required=True, help="a known card, a size such as 24GB, or cpu for this machine"
    )
    c.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a setting of the study")
    c.add_argument("--json", action="store_true")
    c = add("recommend", "which rank, method and quantisation to take for a model on a card, with the evidence for it")
    c.add_argument("--model", required=True, metavar="NAME", help=named)
    c.add_argument(
        "--gpu",
        required=True,
        metavar="GPU",
        help="a known card (see: lorabench gpus), a size such as 24GB, or cpu for this machine",
    )
    c.add_argument(
        "--sequence-length", required=True, metavar="N", type=_whole, help="tokens of a training sequence at most"
    )
    c.add_argument(
        "--global-batch-size",
        metavar="N",
        type=_whole,
        default=16,
        help="sequences of an optimizer step, over all micro-batches (default: 16)",
    )
    c.add_argument(
        "--batch-size",
        dest="global_batch_size",
        metavar="sequences of an optimizer step, over all micro-batches",
        type=_whole,
        default=16,
        **_OLD_NAME,
    )
    c.add_argument("--examples", metavar="N", type=_amount, help="training examples, such as 20000 or 20K")
    c.add_argument("--tokens", metavar="N", type=_amount, help="training tokens, such as 6M")
    c.add_argument(
        "--from",
        metavar="DIR",
        dest="studies",
        nargs="+",
        action="extend",
        help="results directories to learn from (default: reports/ and runs/, where their models are near in size)",
    )
    c.add_argument(
        "--task", metavar="NAME", help="the kind of task, as studies name it: studies of another kind lie farther"
    )
    c.add_argument("--priority", metavar="WHAT", default="accuracy", help="accuracy, memory, speed (default: accuracy)")
    c.add_argument(
        "--tolerated-loss",
        metavar="X",
        type=float,
        help="how much worse than the best is as good, in a study's metric (default: the study's margin)",
    )
    c.add_argument("--json", action="store_true")
    c.add_argument("--emit", metavar="TOOL", help=f"write files for a trainer: {', '.join(plugins.names('emitters'))}")
    c.add_argument("--entry", metavar="N", type=_whole, help="which recommendation the files carry out (default: 1)")
    c.add_argument("-o", "--output", metavar="DIR", help="where the files go (with --emit)")
    c = add("parameters", "trainable parameters by rank, counted without training")
    c.add_argument("--model", required=True, metavar="NAME", help=named)
    c.add_argument("--rank", metavar="R", type=int, nargs="+", required=True)
    c.add_argument("--target-modules", metavar="NAMES", help="as for estimate")
    c.add_argument("--method", metavar="NAME", default="lora")
    c.add_argument("--json", action="store_true")
    add("gpus", "known cards: memory, bandwidth, bf16 rate")


def _whole(text: str) -> int:
    try:
        number = int(text.replace(",", "").replace("_", ""))
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on; write it out, such as 2048")
    return number


def _amount(text: str) -> int:
    """ "6M" is 6,000,000."""
    number, scale = text.strip(), 1
    for unit, times in (("K", 10**3), ("M", 10**6), ("B", 10**9)):
        if number.upper().endswith(unit):
            number, scale = number[:-1], times
    try:
        return round(float(number.replace(",", "").replace("_", "")) * scale)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no amount; write it as 20000, 20K or 6M") from None


def _add_examinations(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    learned = "PEFT folder, file of factors (loralib, kohya, diffusers, mlx, torchtune), cell's folder or id, condition's label ('lora rank 8'), or a fully fine-tuned checkpoint (with --base)"

    def add_place(c: argparse.ArgumentParser) -> None:
        c.add_argument(
            "--in",
            metavar="DIR",
            dest="directory",
            help="results directory in which a cell's id or a condition's label is looked up (default: all under reports/ and runs/)",
        )

    c = add("spectrum", "singular values of what was learned, module by module: how much of a rank is used, and where")
    c.add_argument("source", metavar="ADAPTER_OR_CELL_OR_CHECKPOINT", help=learned)
    c.add_argument(
        "--base", metavar="MODEL", help="the weights before: directory, shipped model or hub id (default: a cell's own)"
    )
    c.add_argument("--compare", metavar="OTHER", help="a second one: how alike are the subspaces that they span?")
    c.add_argument(
        "--alpha",
        metavar="A",
        type=float,
        help="lora_alpha, over what the files say (default: of adapter_config.json, .alpha tensors or the header; else the rank)",
    )
    c.add_argument("--intruders", action="store_true", help="look for intruder dimensions in matrices of any size")
    c.add_argument("--json", action="store_true")
    c.add_argument("--html", metavar="FILE", help="write a page with figures")
    add_place(c)
    c = add("truncate", "the nearest adapter of a lower rank, in PEFT's format")
    c.add_argument(
        "source",
        metavar="ADAPTER",
        help="PEFT folder, file of factors (loralib, diffusers, mlx), cell's folder or id, condition's label; --energy 1 turns it into PEFT's format uncut",
    )
    c.add_argument("--rank", metavar="K", type=int, help="rank of every module; with --per-module as many parameters")
    c.add_argument("--energy", metavar="SHARE", type=float, help="share of the energy to keep, such as 0.95")
    c.add_argument("--per-module", action="store_true", help="spread ranks over the modules by energy")
    c.add_argument("--alpha", metavar="A", type=float, help="lora_alpha, over what the files say")
    c.add_argument("-o", "--output", metavar="DIR", required=True)
    add_place(c)
    c = add("quantization-error", "what quantisation alone does to each weight of a model, without training")
    c.add_argument("model", metavar="MODEL", help="directory, shipped model or hub id")
    c.add_argument(
        "--quantization",
        metavar="NAME",
        nargs="+",
        default=["int8", "fp4", "nf4"],
        help="int8, fp4, nf4 (default: all)",
    )
    c.add_argument(
        "--adapter",
        metavar="ADAPTER_OR_CELL",
        help="does what this one learned undo the error? (a folder, a cell's id, a condition's label)",
    )
    c.add_argument("--html", metavar="FILE", help="write a page with figures")
    c.add_argument("--json", action="store_true")
    add_place(c)


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of a command line as a study has them, only what was said."""
    said: dict[str, dict[str, Any]] = {
        "model": {"name": options.model, "dtype": options.dtype},
        "quantization": {"name": options.quantization, "double_quant": options.double_quant or None},
        "method": {"name": options.method, "rank": options.rank, "target_modules": modules(options.target_modules)},
        "training": {
            f: getattr(options, f) for f in ("gradient_accumulation", "sequence_length", "optimizer", "autocast")
        }
        | {
            "batch_size": options.micro_batch_size,
            "gradient_checkpointing": options.gradient_checkpointing or None,
        },
    }
    kept = {part: {k: v for k, v in fields.items() if v is not None} for part, fields in said.items()}
    return {part: fields for part, fields in kept.items() if fields}


def modules(text: str | None) -> Any:
    """Names between commas as a tuple; one name, or a group's, as it is."""
    return tuple(t.strip() for t in text.split(",")) if text and "," in text else text
