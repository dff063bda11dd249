"""What reads an input: the code behind every door through which a user's file or words come in."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from lorabench import plugins
from lorabench.api.weights import spectrum
from lorabench.commands import status_text
from lorabench.commands.main import main
from lorabench.config.checkpoint_files import stored_tensors, weight_files
from lorabench.config.gguf import read_header
from lorabench.config.load import read_study
from lorabench.config.source import override, read_source
from lorabench.record.archive import FILE, opened
from lorabench.record.frames import wide
from lorabench.record.imported_run import Request, write_import
from lorabench.record.items import load_items
from lorabench.record.spectrum import load_spectra
from lorabench.record.store import Store
from lorabench.record.tracked import curve_steps
from lorabench.record.truncations import load_truncations
from lorabench.runner.plan import make_plan
from tests.fuzz.inputs import as_json
from tests.fuzz.samples import CODE, PEFT_CONFIG, SOUND, as_yaml
from tests.report.stores import STUDY, filled

SCRATCH = tempfile.gettempdir()  # as it is now: hunt.py sets another for what is tested
CODES = (0, 1, 2, 3, 130)


def study_file(folder: Path, text: bytes) -> object:
    (folder / "study.yaml").write_bytes(text)
    return make_plan(read_study(read_source(folder / "study.yaml")))


def study_name(folder: Path, name: Any) -> object:
    """A study whose name is hostile, up to the folder that it is to have."""
    (folder / "study.yaml").write_bytes(as_yaml(SOUND | {"name": name}))
    plan = make_plan(read_study(read_source(folder / "study.yaml")))
    plan.save()
    return plan


def setting(folder: Path, texts: tuple[str, ...]) -> object:
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    return make_plan(read_study(override(read_source(folder / "study.yaml"), texts)))


def adapter(folder: Path, files: tuple[bytes, bytes]) -> object:
    config, tensors = files
    (folder / "adapter_config.json").write_bytes(config)
    (folder / "adapter_model.safetensors").write_bytes(tensors)
    return spectrum(folder)


def pickled(folder: Path, files: tuple[str, bytes]) -> object:
    name, content = files
    (folder / "adapter_config.json").write_bytes(as_json(PEFT_CONFIG))
    (folder / name).write_bytes(content)
    return spectrum(folder / name)


@cache
def stored() -> tuple[Path, dict[str, bytes]]:
    """A small store, and its files by name; made once in a process."""
    small = STUDY.replace("[1, 4, 16]", "[4]").replace("[0, 1]", "[0]").replace("steps: 40", "steps: 5")
    folder = Path(tempfile.mkdtemp(prefix="lorabench-fuzz-", dir=SCRATCH))
    store = filled(folder, small)
    files = {str(p.relative_to(store.folder)): p.read_bytes() for p in store.folder.rglob("*") if p.is_file()}
    return store.folder, files


def first(files: dict[str, bytes], end: str) -> bytes:
    return next(files[name] for name in sorted(files) if name.endswith(end))


def record(folder: Path, files: tuple[str, bytes]) -> object:
    """A results directory of which one kind of file is damaged, read as every command reads it."""
    end, content = files
    made = folder / "store"
    if not made.is_dir():
        shutil.copytree(stored()[0], made)
    name = next(n for n in sorted(stored()[1]) if n.endswith(end))
    (made / name).write_bytes(content)
    try:
        store = Store.open(made)
        results = store.results()
        store.unreadable(), store.earlier(), store.inputs()
        wide(results)
        cell = made / Path(name).parent
        with contextlib.suppress(FileNotFoundError):
            {
                "items.safetensors": load_items,
                "spectra.safetensors": load_spectra,
                "truncation.csv": load_truncations,
            }.get(end, lambda path: None)(cell / end)
        list(curve_steps(cell / "curve.csv"))
        return status_text.status(store, every=True)
    finally:
        (made / name).write_bytes(stored()[1][name])


def archive(folder: Path, content: bytes) -> object:
    import gzip

    (folder / FILE).write_bytes(content if content[:1] == b"\0" else gzip.compress(content, mtime=0))
    with opened(folder) as store:
        return store.results()


def gguf_file(folder: Path, content: bytes) -> object:
    (folder / "m.gguf").write_bytes(content)
    return read_header(folder / "m.gguf")


def imported(name: str, file: str) -> Callable[[Path, bytes], object]:
    def run(folder: Path, content: bytes) -> object:
        shutil.rmtree(folder / "out", ignore_errors=True)
        (folder / file).write_bytes(content)
        readout = plugins.load("importers", name).read(Request((folder / file,)))
        if readout.runs and zlib.crc32(content) % 4 == 0:  # writing waits for the disk: a quarter of them
            wide(write_import(readout, folder / "out", (folder / file,), None, None).results())
        return readout

    return run


def model_folder(folder: Path, files: tuple[bytes, bytes]) -> object:
    """A checkpoint that brings code of its own, as every prediction looks at it."""
    config, index = files
    made = folder / "model"
    made.mkdir(exist_ok=True)
    (made / "config.json").write_bytes(config)
    (made / "owned.py").write_text(CODE, encoding="utf-8")
    (made / "model.safetensors").unlink(missing_ok=True)
    if index.startswith(b"{"):
        (made / "model.safetensors.index.json").write_bytes(index)
    else:
        (made / "model.safetensors").write_bytes(index)
    with contextlib.suppress(FileNotFoundError):  # a shard that is not there is the loader's sentence
        stored_tensors(tuple(f for f in weight_files(made) if f.suffix == ".safetensors"))
    return commanded(folder, ("parameters", "--model", str(made), "--rank", "4"))


def commanded(folder: Path, arguments: tuple[str, ...]) -> object:
    """A command in a folder that holds a study and its results; the executor of tests alone can run cells."""
    if not (folder / "store").is_dir():
        shutil.copytree(stored()[0], folder / "store")
        (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    if arguments[:1] == ("run",) or arguments[:1] == ("evaluate",):
        arguments = (*arguments, "--executor", "synthetic")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 2
    assert code in CODES, code
    said = err.getvalue()
    assert "Traceback" not in said, said
    if code == 2 and arguments[:1] != ("import",):
        assert said.startswith(("lorabench: ", "note: ")) and len(said.strip().splitlines()) < 8, said
    return code
