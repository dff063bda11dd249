"""The commands by name, and one sentence with exit code 2 for what they do not take."""

from __future__ import annotations

import argparse
import difflib
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from lorabench import __version__
from lorabench.commands import (
    calibrate,
    catalogue,
    doctor,
    evidence,
    imports,
    merge,
    predict,
    probe,
    recommend,
    results,
    run,
    weights,
)

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
        "import",
        "results of other programs (PEFT's comparison, lm-eval, any table) as a results directory",
        imports.import_results,
        imports.add_import_options,
    ),
    (
        "merge",
        "results directories of one study from several machines as one",
        merge.merge,
        merge.add_merge_options,
    ),
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
        "which rank, method and quantization to take for a model on a card, with the evidence for it",
        recommend.recommend,
        recommend.add_recommend_options,
    ),
    (
        "evidence",
        "published results and learning rates of LoRA and its relatives, with sources and what is wrong with them",
        evidence.evidence,
        evidence.add_evidence_options,
    ),
    (
        "probe",
        "the ranks that several rules suggest before training, from a few passes over the data",
        probe.probe,
        probe.add_probe_options,
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
        "what quantization alone does to each weight of a model, without training",
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
    ("importers", "all importers", catalogue.plugin_list, None),
    ("executors", "all executors", catalogue.plugin_list, None),
    ("emitters", "all emitters", catalogue.plugin_list, None),
    ("probes", "all probes", catalogue.plugin_list, None),
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

    def parse_known_args(  # type: ignore[override]  # both overloads of argparse at once
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse, but a word that is misspelt is told before one that is missing."""
        words = list(sys.argv[1:] if args is None else args)
        commands = self._commands()
        if commands and not words:
            self.print_help()
            sys.stdout.flush()
        if commands:  # what follows the command is its own parser's
            options = list(itertools.takewhile(lambda word: word.startswith("-"), words))
        else:
            options = list(itertools.takewhile(lambda word: word != "--", words))
        for option in (word.partition("=")[0] for word in options if word.startswith("--")):
            if option not in self._option_string_actions:
                self.error(f"unknown option {option}{_hint(option, self._options())}")
        if commands and len(words) > len(options) and (command := words[len(options)]) not in commands:
            self.error(f"unknown command '{command}'{_hint(command, commands) or ';'} allowed: {', '.join(commands)}")
        known, more = super().parse_known_args(words, namespace)
        if more:
            self.error(f"unrecognized arguments: {' '.join(more)}")
        return known, more

    def error(self, message: str) -> NoReturn:
        """Prints the sentence and where help is, and exits with code 2."""
        print(f"lorabench: {message}{'' if message.endswith('?') else ';'} see: {self.prog} --help", file=sys.stderr)
        sys.exit(2)

    def _commands(self) -> list[str]:
        return [name for a in self._actions if isinstance(a, argparse._SubParsersAction) for name in a.choices]

    def _options(self) -> list[str]:
        """All options that help lists."""
        return [o for a in self._actions if a.help != argparse.SUPPRESS for o in a.option_strings if o[:2] == "--"]


def _hint(word: str, names: list[str]) -> str:
    """ "; did you mean --model?" for --modle, and for --mod, which begins it; nothing where no name is near."""
    bare = {name.lstrip("-"): name for name in names}
    text = word.lstrip("-")
    near = [n for n in bare if text and n.startswith(text)] or difflib.get_close_matches(text, bare, n=1, cutoff=0.6)
    return f"; did you mean {bare[near[0]]}?" if near else ""


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it gives holds the command's name (`command`) and what runs it (`function`)."""
    parser = Parser(
        prog="lorabench",
        allow_abbrev=False,
        description="Which LoRA rank, method and quantization to take: what each gains, and what it needs in memory and"
        " time.",
    )
    parser.add_argument("--version", action="version", version=f"lorabench {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    for name, text, function, add_options in COMMANDS:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(command=name, function=function)
        if add_options is not None:
            add_options(command)
    return parser
