"""README.md and the documentation work as typed: their blocks are run in order in a fresh copy of the repository,
and their study files are ones.

What would take minutes is cut down by HTML comments before a block, which no reader sees and which have to match what
they cut:

    <!-- test cut: A -> B -->              in the block that follows
    <!-- test cut in FILE: A -> B -->      in a file of the copy
    <!-- test leave out: LINE -->          lines of the block that begin so
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lorabench.commands.parser import make_parser
from lorabench.config import load_study
from lorabench.config.decision import deciding_metric
from lorabench.config.grid import expand

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = (
    ROOT / "README.md",
    DOCS / "tutorial.md",
    DOCS / "index.md",
    *sorted((DOCS / "how-to").glob("*.md")),
    *sorted((DOCS / "explanation").glob("*.md")),
)
README = PAGES[0].read_text(encoding="utf-8")
INLINE = re.compile(r"`(lorabench [a-z][^`]*)`")
MARK = re.compile(r"<!-- test (cut in (?P<file>\S+)|cut|leave out): (?P<what>.*) -->")


@dataclass
class Block:
    """A fenced block and the marks before it."""

    language: str
    lines: list[str]
    files: list[tuple[str, str, str]] = field(default_factory=list)
    """file, old text, new text"""


def blocks(pages: tuple[Path, ...] = PAGES) -> list[Block]:
    """The fenced blocks, cut as their marks say; a mark that cuts nothing is a fault of the page."""
    return [block for page in pages for block in blocks_of(page.read_text(encoding="utf-8"))]


def blocks_of(text: str) -> list[Block]:
    found, marks, inside = [], [], None
    for line in text.splitlines():
        if line.startswith("```"):
            if inside is None:
                inside = Block(line[3:].strip() or "bash", [])
                continue
            found.append(marked(inside, marks))
            inside, marks = None, []
        elif inside is not None:
            inside.lines.append(line)
        elif mark := MARK.fullmatch(line):
            marks.append(mark)
    return found


def marked(block: Block, marks: list[re.Match[str]]) -> Block:
    for mark in marks:
        what = mark["what"]
        if mark["file"]:
            block.files.append((mark["file"], *what.split(" -> ")))
        elif mark[1] == "cut":
            old, new = what.split(" -> ")
            assert any(old in line for line in block.lines), f"nothing to cut: {what}"
            block.lines = [line.replace(old, new) for line in block.lines]
        else:
            kept = [line for line in block.lines if not line.startswith(what)]
            assert len(kept) < len(block.lines), f"nothing to leave out: {what}"
            block.lines = kept
    return block


def commands() -> list[list[str]]:
    """Every call of lorabench in the shell blocks, as arguments."""
    found = []
    lines = [line for block in blocks() if block.language == "bash" for line in block.lines]
    for line in [*lines, *INLINE.findall(README)]:
        if "DIR" not in line and "mine.yaml" not in line:
            for part in re.split(r"; (?=lorabench)", line.split(" #")[0].strip()):
                words = shlex.split(part)
                if words[:1] == ["lorabench"]:
                    found.append(words[1:] if ">" not in words else words[1 : words.index(">")])
    return found


def test_every_command_of_readme_and_documentation_is_one_with_the_options_it_has():
    assert len(commands()) > 40
    for arguments in commands():
        make_parser().parse_args(arguments)  # SystemExit where it is not


def test_the_study_file_of_the_readme_expands_beside_its_data(tmp_path):
    study = next(b for b in blocks(PAGES[:1]) if b.language == "yaml")
    (tmp_path / "mine.yaml").write_text("\n".join(study.lines), encoding="utf-8")
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(
            json.dumps({"question": "2 + 2?", "answer": "4"}) + "\n", encoding="utf-8"
        )
    cells = expand(load_study(tmp_path / "mine.yaml"))
    assert len(cells) == (3 * 2 + 1) * 3 * 3, (
        "three ranks by two quantizations and full fine-tuning, three rates each, three seeds"
    )


def test_the_classification_of_the_tutorial_is_six_lines_decided_by_accuracy(tmp_path):
    _, study = (b for b in blocks(PAGES[1:2]) if b.language == "yaml")
    assert len(study.lines) == 6
    (tmp_path / "sst2.yaml").write_text("\n".join(study.lines), encoding="utf-8")
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(
            "sentence,label\n" + "".join(f"{name} {i},{i % 2}\n" for i in range(40)), encoding="utf-8"
        )
    read = load_study(tmp_path / "sst2.yaml")
    assert {c.method.name for c in expand(read)} == {"lora", "full"}
    assert deciding_metric(read.comparison, [read.task]) == "accuracy"


@pytest.mark.slow
def test_every_block_of_readme_and_documentation_runs_as_typed_from_a_fresh_clone(tmp_path):
    environment = Path(sys.prefix)
    if not (environment / "bin" / "activate").is_file() or not shutil.which("make"):
        pytest.skip("runs in a virtual environment, with make")
    clone = tmp_path / "lorabench"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    (clone / ".venv").mkdir()
    for entry in environment.iterdir():  # what `make` would install, already there
        if entry.name != "installed":
            (clone / ".venv" / entry.name).symlink_to(entry)
    (clone / ".venv" / "installed").touch()
    outside = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "BASH_ENV")}
    outside["PATH"] = os.pathsep.join(p for p in outside["PATH"].split(os.pathsep) if Path(p) != environment / "bin")
    activated: list[str] = []
    for block in blocks():
        for file, old, new in block.files:
            text = (clone / file).read_text(encoding="utf-8")
            assert old in text, f"nothing to cut in {file}: {old}"
            (clone / file).write_text(text.replace(old, new), encoding="utf-8")
        if block.language == "bash":
            for line in block.lines:
                typed(["bash", "-c", "\n".join(["set -e", *activated, line])], line, clone, outside)
                activated += [line] if line.startswith("source ") else []
        elif block.language == "python":
            program = "\n".join(block.lines)
            typed(
                ["bash", "-c", "\n".join(["set -e", *activated, f"python -c {shlex.quote(program)}"])],
                program,
                clone,
                outside,
            )
    for made in (
        "runs/quickstart/report.html",
        "spectrum.html",
        "small/adapter_config.json",
        "sft",
        "similarity.html",
        "error.html",
        "study.schema.json",
    ):
        assert (clone / made).exists(), made


def typed(call: list[str], line: str, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
