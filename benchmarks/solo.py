"""One adapter's training, a cell of `lorabench run` against a bare PEFT loop with transformers' defaults.

    python -m benchmarks.solo [--task sst2 gsm8k] [--steps 12] [--rounds 3] [--busy 0 1] [--beside N] [--json FILE]

The model is SmolLM2-135M-Instruct (benchmarks.real fetches it), the task and its settings those of studies/real at rank
16 in batches of 8, the rows and their order the same for both, in processes of their own, alternating:

    cell    a study of one cell, as a user runs it: training.autocast, loss and padding_free are auto
    bare    from_pretrained and get_peft_model as they come; rows padded to the longest of a batch with their attention
            mask, model(**batch).loss, clipping at 1, torch's fused AdamW, as Trainer has them

--busy N runs beside N processes that compute without a pause. `ratio` is the bare loop's median of seconds a step over
the cell's, the first step of each left out; `loss` the mean loss of the last third of the steps, which differs by what
bfloat16 rounds; `kept` the cell's speed beside a busy process over its speed without. With ONEDNN_MAX_CPU_ISA set to
AVX512_CORE or AVX2 both are as on a CPU without bfloat16.

--beside N runs a study of N cells (seeds), too, as lorabench chooses to: `beside_ratio` is the bare loop's seconds a
step over theirs, a step of N cells at a time counted as N. Workers begin some seconds apart: take 64 steps and more.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from benchmarks.real import MODEL, ROOT, fetch

STUDY = "studies/real/{}.yaml"
RATE = 1e-3
BATCH = 8  # rows of a step, as Trainer takes by default
BURN = "import os\nimport numpy as n\na, p = n.random.rand(400, 400), os.getppid()\nwhile os.getppid() == p: a @ a"


def settings(task: str, steps: int, cells: int = 1) -> dict[str, object]:
    """The study of a task of studies/real with a cell for each seed, as plain data with whole paths."""
    plain = yaml.safe_load((ROOT / STUDY.format(task)).read_text())
    folder = (ROOT / STUDY.format(task)).parent
    plain |= {"model": str(MODEL), "seeds": [*range(cells)], "include": [], "reference": None, "name": f"solo-{task}"}
    plain.pop("tuning_seeds", None)
    for field in ("train", "eval"):
        plain["task"][field] = str((folder / plain["task"][field]).resolve())
    plain["training"] |= {"steps": steps, "batch_size": BATCH, "learning_rate": RATE}
    plain["training"] |= {"schedule": "constant", "warmup": 0.0}
    plain["training"].pop("autocast", None)
    plain["evaluation"]["max_sequences"] = 1
    return {k: v for k, v in plain.items() if v is not None}


def run(task: str, steps: int, cells: int) -> dict[str, list[float]]:
    """Seconds and losses of the steps of `lorabench run`; seconds of a step over the cells that take it at a time."""
    seconds, losses = [], []
    with tempfile.TemporaryDirectory() as scratch:
        study, out = Path(scratch) / "study.yaml", Path(scratch) / "out"
        study.write_text(yaml.safe_dump(settings(task, steps, cells)))
        command = [sys.executable, "-m", "lorabench", "run", str(study), "--out", str(out)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for curve in sorted(out.glob("cells/*/curve.csv")):
            with curve.open(newline="") as stream:
                rows = list(csv.DictReader(stream))
            clock = [float(row["seconds"]) for row in rows]
            seconds += [(after - before) / cells for before, after in itertools.pairwise(clock)]
            losses += [float(row["loss"]) for row in rows]
    return {"seconds": seconds, "losses": losses}


def bare(task: str, steps: int) -> dict[str, list[float]]:
    """The same of a bare loop; runs in a process of its own."""
    import peft
    import torch
    import transformers

    from lorabench.config.grid import expand
    from lorabench.config.load import read_study
    from lorabench.config.source import parse_source
    from lorabench.engine.batches import batches
    from lorabench.engine.data import task_data
    from lorabench.engine.model import load_tokenizer

    study = read_study(parse_source(yaml.safe_dump(settings(task, steps)), "solo.yaml", ROOT))
    (one,) = expand(study)
    data, spec = task_data(one, load_tokenizer(one.model)), one.training
    model = transformers.AutoModelForCausalLM.from_pretrained(
        MODEL.parent, gguf_file=MODEL.name, quantization_config=transformers.GgufConfig(dequantize=True)
    )
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=one.method.rank, lora_alpha=one.method.alpha, target_modules="all-linear")
    model = peft.get_peft_model(model, lora).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)
    rows, seconds, losses = batches(data.train, spec.batch_size, 0), [], []
    for _ in range(steps):
        start, examples = time.perf_counter(), next(rows)
        longest = max(len(e.ids) for e in examples)
        shape = (len(examples), longest)
        ids, mask, labels = (
            torch.zeros(shape, dtype=torch.long),
            torch.zeros(shape, dtype=torch.long),
            torch.full(shape, -100),
        )
        for i, example in enumerate(examples):
            n = len(example.ids)
            ids[i, :n], mask[i, :n] = torch.from_numpy(example.ids), 1
            labels[i, :n] = torch.where(torch.from_numpy(example.predicted), ids[i, :n], -100)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[1:], "losses": losses}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute without a pause."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    burning = [subprocess.Popen([sys.executable, "-c", BURN], env=environment) for _ in range(count)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


def compared(task: str, steps: int, rounds: int, count: int, beside: int) -> dict[str, object]:
    """The sides, alternating."""
    sides: dict[str, list[dict[str, list[float]]]] = {"cell": [], "bare": []} | ({"beside": []} if beside else {})
    for _ in range(rounds):
        with busy(count):
            sides["cell"].append(run(task, steps, 1))
            if beside:
                sides["beside"].append(run(task, steps, beside))
            command = [sys.executable, "-m", "benchmarks.solo", "--bare", task, "--steps", str(steps)]
            told = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
            sides["bare"].append(json.loads(told.splitlines()[-1]))
    step = {name: statistics.median(s for r in runs for s in r["seconds"]) for name, runs in sides.items()}
    last = {name: statistics.fmean(runs[0]["losses"][-max(1, steps // 3) :]) for name, runs in sides.items()}
    return {
        "task": task,
        "busy": count,
        "ratio": step["bare"] / step["cell"],
        **({"beside_ratio": step["bare"] / step["beside"]} if beside else {}),
        **{f"{name}_step_seconds": s for name, s in step.items()},
        **{f"{name}_loss": loss for name, loss in last.items()},
    }


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", default=["sst2", "gsm8k"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--beside", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--bare", metavar="TASK", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(bare(options.bare, options.steps)))
        return 0
    fetch()
    found = []
    for task in options.task:
        for count in options.busy:
            found.append(compared(task, options.steps, options.rounds, count, options.beside))
            quiet = next(row for row in found if row["task"] == task and row["busy"] == options.busy[0])
            found[-1]["kept"] = quiet["cell_step_seconds"] / found[-1]["cell_step_seconds"]
            print(json.dumps(found[-1]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
