"""The house is as ARCHITECTURE.md draws it: imports run one way, plug-ins are files with what their kind needs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from pkgutil import iter_modules

import pytest

from lorabench import plugins

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "lorabench"
LIGHT = {"errors", "plugins", "formatting", "config", "record"}
ARMS = {"spectra", "engine", "memory", "runner", "analysis", "evidence", "report", "advice"}
ALLOWED = {  # layer: the layers that it may import
    "errors": set(),
    "plugins": {"errors"},
    "formatting": set(),
    "startup": set(),
    "config": {"errors", "plugins", "formatting"},
    "record": {"errors", "plugins", "formatting", "config"},
    "spectra": LIGHT,
    "engine": LIGHT | {"spectra", "startup"},
    "memory": LIGHT | {"spectra", "engine"},
    "methods": LIGHT | {"spectra", "engine"},
    "quantizations": LIGHT | {"engine"},
    "tasks": LIGHT | {"engine"},
    "probes": LIGHT | {"spectra", "engine"},
    "runner": LIGHT | {"startup", "engine", "executors"},
    "executors": LIGHT | {"engine", "runner"},
    "analysis": LIGHT,
    "evidence": LIGHT | {"analysis"},
    "report": LIGHT | {"analysis", "evidence", "advice"},
    "advice": LIGHT | {"analysis", "evidence"},
    "sections": LIGHT | {"analysis", "evidence", "report", "advice"},
    "exporters": LIGHT | {"analysis", "report"},
    "importers": LIGHT,
    "emitters": LIGHT | {"advice"},
    "trackers": LIGHT,
    "trainers": {"config"},
    "workflows": LIGHT | ARMS | {"startup"},
    "api": LIGHT | ARMS | {"workflows"},
    "commands": LIGHT | ARMS | {"startup", "workflows", "api"},
}
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "lm_eval", "datasets"}


def imports_of(file, *, top_only=False):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{a.name}" for a in node.names)


@pytest.mark.parametrize("layer", ALLOWED)
def test_imports_run_one_way(layer):
    files = list((PACKAGE / layer).rglob("*.py")) if (PACKAGE / layer).is_dir() else [PACKAGE / f"{layer}.py"]
    assert files
    for file in files:
        for name in imports_of(file):
            parts = name.split(".")
            if (
                parts[0] == "lorabench"
                and len(parts) > 1
                and (PACKAGE / parts[1]).exists() | (PACKAGE / f"{parts[1]}.py").exists()
            ):
                assert parts[1] == layer or parts[1] in ALLOWED[layer], f"{file.relative_to(PACKAGE)} imports {name}"


@pytest.mark.parametrize(
    "layer",
    [
        *("config", "record", "analysis", "evidence", "advice", "report", "sections"),
        *("exporters", "importers", "emitters", "trainers", "trackers"),
    ],
)
def test_the_light_arm_names_no_heavy_library(layer):
    for file in (PACKAGE / layer).rglob("*.py"):
        assert not {n.split(".")[0] for n in imports_of(file)} & HEAVY, file


@pytest.mark.parametrize(
    "module",
    [
        "lorabench",
        "lorabench.commands.main",
        "lorabench.config",
        "lorabench.record.frames",
        "lorabench.evidence.library",
        "lorabench.report.page",
        "lorabench.runner.run",
    ],
)
def test_importing_it_leaves_torch_alone(module):
    code = f"import {module}, sys; print([m for m in {sorted(HEAVY)!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("kind", "needs"),
    [
        ("methods", {"FIELDS", "TRAINS", "TRAINS_BASE", "SAVED_RANKS", "UNQUANTIZED_ONLY", "attach"}),
        ("quantizations", {"DOUBLE_QUANT", "config", "roundtrip"}),
        ("tasks", {"Options", "PATH_FIELDS", "fingerprint", "load"}),
        ("executors", {"open_worker"}),
        ("sections", {"ORDER", "TITLE", "section"}),
        ("exporters", {"EXTENSION", "export"}),
        ("importers", {"read"}),
        ("emitters", {"emit", "TRAINER"}),
        ("trainers", {"TRAINER"}),
        ("trackers", {"open_tracker"}),
        ("probes", {"SOURCE", "READS", "SPREADS", "ranks"}),
    ],
)
def test_every_plug_in_has_what_its_kind_needs_and_is_light_at_the_top(kind, needs):
    assert plugins.names(kind)
    for name in plugins.names(kind):
        module = plugins.load(kind, name)
        assert needs <= set(vars(module)), name
        assert 10 < len(plugins.describe(kind, name)) < 160, name
        file = Path(module.__file__)
        assert not {n.split(".")[0] for n in imports_of(file, top_only=True)} & HEAVY, name


@pytest.mark.parametrize("name", plugins.names("emitters"))
def test_an_emitter_s_files_are_predicted_as_a_trainer_that_there_is(name):
    trainer = plugins.load("emitters", name).TRAINER
    assert trainer.name in plugins.names("trainers")
    assert trainer.title == plugins.load("trainers", trainer.name).TRAINER.title


def test_no_file_is_called_utils_and_none_is_very_long():
    for file in (path for folder in (PACKAGE, TESTS) for path in folder.rglob("*.py")):
        assert file.stem not in ("utils", "common", "helpers", "misc")
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 300, file


def test_test_files_have_names_of_their_own():
    """pytest imports them by their bare names."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_what_benchmarks_take_from_the_package_is_there():
    """They run on other machines and other days: what moved is to be seen before."""
    missing = []
    for file in sorted((TESTS.parent / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lorabench":
                found = importlib.import_module(node.module)
                names = {a.name for a in node.names} - {m.name for m in iter_modules(getattr(found, "__path__", ()))}
                missing += [f"{file.name}: {node.module}.{name}" for name in names if not hasattr(found, name)]
    assert missing == []
