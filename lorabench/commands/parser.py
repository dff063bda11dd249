"""The commands by name, and one sentence with exit code 2 for what they do not take."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from typing import NoReturn

from lorabench import __version__
from lorabench.commands import calibrate, catalogue, doctor, predict, recommend, results, run, weights

COMMANDS: tuple[
    tuple[str, str, Callable[[argparse.Namespace], int], Callable[[argparse.ArgumentParser], None] | None], ...
] = (
    ("run", "run the cells that a study still lacks, then write its table and report", run.run, run.add_run_options),
    (
        "evaluate",
        "repeat evaluations and analyses that failed or are missing, from the saved weights and without training",
        run.evaluate,
        run.add_evaluate_options,
    ),
    ("status", "what a results directory holds and lacks", results.status, results.add_status_options),
    (
        "table",
        "the table of a study's conditions, or of the literature (studies/paper/NAME.yaml)",
        results.table,
        results.add_table_options,
    ),
    ("report", "rewrite the HTML report", results.report, results.add_report_options),
    (
        "explain",
        "everything about a cell: settings, readings, files, environment; of a condition: its metrics and cells",
        results.explain,
        results.add_explain_options,
    ),
    (
        "estimate",
        "the memory that a training step needs, without weights, GPU or network",
        predict.estimate,
        predict.add_estimate_options,
    ),
    (
        "check",
        "does a training step fit a card? one line, and an exit code for scripts: 0 yes, 1 no, 3 it cannot be told",
        predict.check,
        predict.add_check_options,
    ),
    (
        "plan",
        "what every condition of a study needs on a card: parameters, memory, time",
        predict.plan,
        predict.add_plan_options,
    ),
    (
        "recommend",
        "which rank, method and quantisation to take for a model on a card, with the evidence for it",
        recommend.recommend,
        recommend.add_recommend_options,
    ),
    (
        "parameters",
        "trainable parameters by rank, counted without training",
        predict.parameters,
        predict.add_parameters_options,
    ),
    (
        "calibrate",
        "measure short trainings on your own card, and correct predictions for it",
        calibrate.calibrate,
        calibrate.add_calibrate_options,
    ),
    ("gpus", "known cards: memory, bandwidth, bf16 rate", catalogue.gpus, None),
    (
        "spectrum",
        "singular values of what was learned, module by module: how much of a rank is used, and where",
        weights.spectrum,
        weights.add_spectrum_options,
    ),
    (
        "truncate",
        "the nearest adapter of a lower rank, in PEFT's format",
        weights.truncate,
        weights.add_truncate_options,
    ),
    (
        "quantization-error",
        "what quantisation alone does to each weight of a model, without training",
        weights.quantization_error,
        weights.add_quantization_error_options,
    ),
    (
        "models",
        "the models that ship, and presets of others that match words",
        catalogue.models,
        catalogue.add_models_options,
    ),
    (
        "tasks",
        "all tasks, or everything that one of them reads: its files, layouts and options",
        catalogue.plugin_list,
        catalogue.add_tasks_options,
    ),
    ("methods", "all methods", catalogue.plugin_list, None),
    ("quantizations", "all quantizations", catalogue.plugin_list, None),
    ("executors", "all executors", catalogue.plugin_list, None),
    ("emitters", "all emitters", catalogue.plugin_list, None),
    (
        "trainers",
        "the trainers that memory and time are predicted for, or what one of them does to memory",
        catalogue.trainers,
        catalogue.add_trainers_options,
    ),
    ("schema", "JSON Schema of the study file, for editors", catalogue.schema, None),
    ("doctor", "device, memory, versions, and what works here", doctor.doctor, None),
)
"""name, what help says of it, what it does, and what adds its options"""


class Parser(argparse.ArgumentParser):
    """One sentence and exit code 2, with the nearest name where a word is unknown."""

    def error(self, message: str) -> NoReturn:
        """Prints the sentence, with the nearest name where a word is unknown, and exits with code 2."""
        words = [*self._commands(), *(o for a in self._all_actions() for o in a.option_strings)]
        value = message.rpartition(": ")[2].partition(" (")[
            0
        ]  # "argument COMMAND: invalid choice: 'rnu' (choose from ...)"
        wrong = next(
            (
                w
                for w in value.replace("'", " ").replace("=", " ").split()
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


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it gives holds the command's name (`command`) and what runs it (`function`)."""
    parser = Parser(
        prog="lorabench",
        description="What rank, method and quantization cost and bring when a language model is fine-tuned.",
    )
    parser.add_argument("--version", action="version", version=f"lorabench {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    for name, text, function, add_options in COMMANDS:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=name, function=function)
        if add_options is not None:
            add_options(command)
    return parser
