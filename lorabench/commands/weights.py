"""The commands that read weights: spectrum, truncate, quantization-error."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lorabench.commands.arguments import JSON
from lorabench.commands.output import note

Result = TypeVar("Result")

WEIGHT_SOURCES = (
    "PEFT folder, file of factors (loralib, kohya, diffusers, mlx, torchtune), cell's folder or id, condition's label "
    "('lora rank 8'), or a fully fine-tuned checkpoint (with --base)"
)


def add_spectrum_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("source", metavar="ADAPTER_OR_CELL_OR_CHECKPOINT", help=WEIGHT_SOURCES)
    c.add_argument(
        "--base",
        metavar="MODEL",
        help="the weights before training: directory, GGUF file, shipped model or hub id (default: a cell's own)",
    )
    c.add_argument("--compare", metavar="OTHER", help="a second one: how similar are the subspaces that the two span?")
    c.add_argument(
        "--alpha",
        metavar="A",
        type=float,
        help=(
            "lora_alpha, overriding what the files say (default: from adapter_config.json, .alpha tensors or the"
            " header; otherwise the rank)"
        ),
    )
    c.add_argument("--intruders", action="store_true", help="look for intruder dimensions in matrices of any size")
    c.add_argument("--json", action="store_true", help=JSON)
    c.add_argument("--html", metavar="FILE", help="write a page with figures")
    _add_place(c)


def spectrum(options: argparse.Namespace) -> int:
    """Decomposes what an adapter, a cell or a checkpoint learned."""
    from lorabench.commands import spectrum_text as shown
    from lorabench.workflows import spectrum as workflow

    result = workflow.spectrum(
        options.source,
        base=options.base,
        compare=options.compare,
        alpha=options.alpha,
        all_intruders=options.intruders,
        find=workflow.cell_finder(options.directory, note),
        progress=shown.counted,
    )
    return _print(options, result, shown.write_page, shown.spectrum_json, shown.spectrum_text)


def add_truncate_options(c: argparse.ArgumentParser) -> None:
    c.add_argument(
        "source",
        metavar="ADAPTER",
        help=(
            "PEFT folder, file of factors (loralib, diffusers, mlx), cell's folder or id, condition's label; --energy 1"
            " turns it into PEFT's format uncut"
        ),
    )
    c.add_argument(
        "--rank",
        metavar="K",
        type=int,
        help="rank of every module; with --per-module, as many parameters as that rank has",
    )
    c.add_argument("--energy", metavar="SHARE", type=float, help="share of the energy to keep, such as 0.95")
    c.add_argument("--per-module", action="store_true", help="spread ranks over the modules by energy")
    c.add_argument("--alpha", metavar="A", type=float, help="lora_alpha, overriding what the files say")
    c.add_argument("-o", "--output", metavar="DIR", required=True, help="where the cut adapter goes")
    _add_place(c)


def truncate(options: argparse.Namespace) -> int:
    """Writes an adapter cut to a lower rank."""
    from lorabench.commands import spectrum_text as shown
    from lorabench.workflows import spectrum as workflow

    written = workflow.truncate(
        options.source,
        options.output,
        rank=options.rank,
        energy=options.energy,
        per_module=options.per_module,
        alpha=options.alpha,
        find=workflow.cell_finder(options.directory, note),
    )
    print(shown.truncation_text(written))
    return 0


def add_quantization_error_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("model", metavar="MODEL", help="directory, GGUF file, shipped model or hub id")
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
    c.add_argument("--json", action="store_true", help=JSON)
    _add_place(c)


def quantization_error(options: argparse.Namespace) -> int:
    """Measures what quantization alone does to a model's weights."""
    from lorabench.commands import spectrum_text as shown
    from lorabench.workflows import spectrum as workflow

    result = workflow.quantization_error(
        options.model,
        options.quantization,
        adapter=options.adapter,
        find=workflow.cell_finder(options.directory, note),
        progress=shown.counted,
    )
    return _print(options, result, shown.write_errors_page, shown.errors_json, shown.errors_text)


def _print(
    options: argparse.Namespace,
    result: Result,
    write: Callable[[Result, str], Path],
    as_json: Callable[[Result], str],
    as_text: Callable[[Result], str],
) -> int:
    """With --html the page and, without --json, its path alone; else the result as JSON or text."""
    path = write(result, options.html) if options.html else None
    print(as_json(result) if options.json else path or as_text(result))
    return 0


def _add_place(c: argparse.ArgumentParser) -> None:
    c.add_argument(
        "--in",
        metavar="DIR",
        dest="directory",
        help=(
            "results directory in which a cell's id or a condition's label is looked up "
            "(default: all under reports/ and runs/)"
        ),
    )
