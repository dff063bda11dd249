"""Pages of the documentation that the code writes: study file, commands, metrics, plug-ins, log, changes, the
report's picture (a hook of mkdocs)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from lorabench import plugins
from lorabench.commands.parser import make_parser
from lorabench.config.study import Study
from lorabench.record.metrics import TABLE

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports"
KINDS = (
    *("methods", "quantizations", "tasks", "executors", "sections", "exporters", "importers", "emitters", "trainers"),
    *("probes", "trackers"),
)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages to those that lie in docs/."""
    pages = {
        "reference/study-file.md": study_file(),
        "reference/commands.md": commands(),
        "reference/metrics.md": metrics(),
        "reference/plug-ins.md": plug_ins(),
        "log.md": linked((REPORTS / "LOG.md").read_text(encoding="utf-8")),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    picture = REPORTS / "quickstart" / "report.png"
    files.append(File.generated(config, "quickstart.png", abs_src_path=str(picture)))
    for report in (*REPORTS.glob("**/report.pdf"), *REPORTS.glob("**/report.html")):
        path = report.relative_to(ROOT).as_posix()
        files.append(File.generated(config, path, abs_src_path=str(report)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to reports, which lie beside docs/ in the repository, as they lie in the site."""
    return markdown.replace("](../reports/", "](reports/")


def linked(text: str) -> str:
    """The log's links to reports as they lie in the site; those to other files as names of these files."""
    text = re.sub(r"\]\((?!http)([^)#]+/report\.(?:pdf|html))\)", r"](reports/\1)", text)
    return re.sub(r"\[[^\]]*\]\((?!http|reports/)([^)#]+)\)", r"`reports/\1`", text)


def row(*fields: object) -> str:
    return "| " + " | ".join(" ".join(str(f).split()).replace("|", "\\|") for f in fields) + " |"


def study_file() -> str:
    """Every field of a study, from its JSON Schema."""
    schema = Study.model_json_schema()
    lines = [
        "# Study file",
        "",
        "`lorabench schema` prints this as JSON Schema, which editors complete and check by.",
        "",
    ]
    for title, part in (("Study", schema), *schema.get("$defs", {}).items()):
        if part.get("properties"):
            lines += [
                f"## {title}",
                "",
                part.get("description", ""),
                "",
                row("field", "default", "meaning"),
                row("---", "---", "---"),
            ]
            for name, field in part["properties"].items():
                default = "" if "default" not in field else f"`{field['default']}`"
                lines.append(row(f"`{name}`", default, field.get("description", field.get("title", ""))))
            lines.append("")
    return "\n".join(lines)


def commands() -> str:
    """Each command with its options, from the parser."""
    return "\n".join(["# Commands", "", *(line for name, parser in sub_parsers() for line in command(name, parser))])


def sub_parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def command(name: str, parser: argparse.ArgumentParser) -> list[str]:
    lines = [f"## {name}", "", parser.description or "", "", row("option", "meaning"), row("---", "---")]
    for action in parser._actions:
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            words = ", ".join(action.option_strings) or action.metavar or action.dest
            taken = f" {action.metavar}" if action.option_strings and action.metavar else ""
            lines.append(row(f"`{words}{taken}`", action.help or ""))
    return [*lines, ""]


def metrics() -> str:
    """The table of metrics."""
    head = ["# Metrics", "", row("name", "unit", "better", "meaning"), row("---", "---", "---", "---")]
    return "\n".join([*head, *(row(f"`{m.name}`", m.unit, m.better, m.meaning) for m in TABLE.values())])


def plug_ins() -> str:
    """What can be named in a study or on the command line."""
    lines = ["# Plug-ins", ""]
    for kind in KINDS:
        lines += [f"## {kind}", "", row("name", "what it is"), row("---", "---")]
        lines += [row(f"`{name}`", plugins.describe(kind, name)) for name in plugins.names(kind)] + [""]
    return "\n".join(lines)
