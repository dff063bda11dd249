"""The commands that list what there is: models, cards, plug-ins, and the schema of the study file."""

from __future__ import annotations

import argparse


def add_models_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("search", metavar="SEARCH", nargs="*", help="words of a model's name, such as: llama 8b")


def models(options: argparse.Namespace) -> int:
    """Lists the shipped models, or what matches words."""
    from lorabench.commands import catalogue_text

    print(catalogue_text.models(" ".join(options.search)))
    return 0


def gpus(options: argparse.Namespace) -> int:
    """Lists the known cards."""
    from lorabench.commands import catalogue_text

    print(catalogue_text.gpus())
    return 0


def add_tasks_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("name", metavar="TASK", nargs="?", help="one task: its options, each with its default")


def plugin_list(options: argparse.Namespace) -> int:
    """Lists the plug-ins of a kind, which is the command's name, or all options of one task."""
    from lorabench.commands import catalogue_text

    name = getattr(options, "name", None)
    print(catalogue_text.task_options(name) if name else catalogue_text.plugin_list(options.command))
    return 0


def add_trainers_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("name", metavar="TRAINER", nargs="?", help="one trainer: what it does to memory")


def trainers(options: argparse.Namespace) -> int:
    """Lists the trainers that memory is predicted for, or tells what one of them does."""
    from lorabench.commands import trainer_text

    print(trainer_text.described(options.name) if options.name else trainer_text.listed())
    return 0


def schema(options: argparse.Namespace) -> int:
    """Prints the JSON Schema of the study file."""
    from lorabench.commands import catalogue_text

    print(catalogue_text.schema())
    return 0
