"""A library call leaves its caller's process as it was. Each claim is tried in a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

STATE = """
import gc, logging, os, random, sys, warnings

def state():
    found = {
        "environment": dict(os.environ),
        "frozen": gc.get_freeze_count(),
        "collecting": gc.isenabled(),
        "path": list(sys.path),
        "finders": list(map(repr, sys.meta_path)),
        "root logger": (logging.getLogger().level, len(logging.getLogger().handlers)),
        "random": random.getstate(),
    }
    if "torch" in sys.modules:
        import numpy, torch, transformers
        found |= {
            "filters": sorted({*map(str, warnings.filters)}),
            "scipy": transformers.utils.is_scipy_available,
            "also scipy": transformers.utils.import_utils.is_scipy_available,
            "attention": torch.nn.functional.scaled_dot_product_attention,
            "threads": torch.get_num_threads(),
            "dtype": torch.get_default_dtype(),
            "gradients": torch.is_grad_enabled(),
            "torch random": torch.get_rng_state().tolist(),
            "numpy random": str(numpy.random.get_state()),
            "verbosity": transformers.utils.logging.get_verbosity(),
            "bars": transformers.utils.logging.is_progress_bar_enabled(),
            "logger": logging.getLogger("bitsandbytes").level,
        }
    return found

def unchanged(name, before):
    after = state()
    changed = [k for k in before if before[k] != after[k]]
    assert not changed, (name, changed)
"""

IMPORTS = (
    STATE
    + """
before = state()
import lorabench, lorabench.workflows.recommend, lorabench.api, lorabench.commands.main
unchanged("import", before)
assert "torch" not in sys.modules
"""
)

# what these libraries themselves set when they are first imported (peft: TORCHINDUCTOR_CACHE_DIR; torch
# and plotly: warning filters; rich: a random number) is not lorabench's
CALLS = (
    STATE
    + """
import shutil, tempfile
import bitsandbytes, datasets, numpy as np, pandas, peft, rich.style, scipy.optimize, sympy, threadpoolctl
import plotly.figure_factory, plotly.graph_objects, plotly.subplots, plotly.tools, torch, transformers
import transformers.loss.loss_utils
from safetensors.numpy import save_file

before = state()
import lorabench as lb
MODEL = "lorabench/tiny-300k"
folder = tempfile.mkdtemp()
save_file({"q.lora_A": np.eye(4, 16, dtype="f4"), "q.lora_B": np.eye(16, 4, dtype="f4")}, folder + "/lora.safetensors")
settings = ["model=" + MODEL, "training.steps=1", "seeds=[0]", "grid={method.rank: [4]}", "evaluation={}"]
study = lb.load_study("studies/quickstart.yaml", settings)
def stored():
    from lorabench.record.archive import opened
    with opened("reports/quickstart") as store:
        lb.open_results(store.folder).conditions()

def adapters():
    model = transformers.AutoModelForCausalLM.from_pretrained("lorabench/models/tiny-300k")
    training = {"steps": 1, "batch_size": 2}
    settings = [lb.AdapterSetting(method=m, training=training) for m in ({"dropout": 0.1}, {"rank": 4}, "dora")]
    lb.train_adapters(model, settings, [{"input_ids": [5, 9, 11]}, {"input_ids": [8, 4]}], out=folder + "/adapters")

def imported():
    with open(folder + "/table.csv", "w") as stream:
        stream.write("method,rank,accuracy\\nlora,8,0.5\\nfull,,0.6\\n")
    lb.import_results("csv", folder + "/table.csv", folder + "/imported")

def joined():
    lb.merge([folder + "/run", shutil.copytree(folder + "/run", folder + "/again")], folder + "/joined")

calls = {
    "import_results": imported,
    "probe": lambda: lb.probe(study, batches=2, steps=2),
    "train_adapters": adapters,
    "expand": lambda: lb.expand(study),
    "parameters": lambda: lb.parameters(MODEL, rank=4),
    "estimate": lambda: lb.estimate(MODEL, rank=4, quantization="nf4", gpu="24GB", gradient_checkpointing=True),
    "compare_trainers": lambda: lb.compare_trainers(MODEL, rank=4, gradient_checkpointing=True),
    "plan": lambda: lb.plan(study, "cpu"),
    "evidence": lambda: lb.evidence(task="math").frame(),
    "recommend": lambda: lb.recommend(MODEL, gpu="24GB", sequence_length=64, global_batch_size=2),
    "spectrum": lambda: lb.spectrum(folder + "/lora.safetensors"),
    "truncate": lambda: lb.truncate(folder + "/lora.safetensors", folder + "/cut", rank=2),
    "quantization_error": lambda: lb.quantization_error(MODEL, quantization=["nf4"]),
    "open_results": stored,
    "run": lambda: lb.run(study, folder + "/run").frame(),
    "merge": joined,
}
assert not set(calls) ^ {n for n in lb.__all__ if n[0].islower()} - {"load_study"}
for name, call in calls.items():
    call()
    unchanged(name, before)
"""
)

TOGETHER = """
from concurrent.futures import ThreadPoolExecutor
import lorabench as lb

def one(rank):
    return lb.estimate("lorabench/tiny-300k", rank=rank, sequence_length=16 * rank).to_dict()

if __name__ == "__main__":
    ranks = (2, 4, 8, 16)
    apart = [one(r) for r in ranks]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, ranks)) == apart
"""

NO_GUARD = """
import lorabench.memory.card_planner as card_planner
card_planner.WORTH_WORKERS = 1
card_planner.os.sched_getaffinity = lambda process: {0, 1}
print("begins")
import lorabench as lb
lb.recommend("lorabench/tiny-300k", gpu="24GB", sequence_length=64, global_batch_size=2)
print("ends")
"""


def run(code, folder):
    script = folder / "script.py"
    script.write_text(code, encoding="utf-8")
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def test_importing_it_changes_nothing(tmp_path):
    run(IMPORTS, tmp_path)


def test_calling_each_public_function_changes_nothing(tmp_path):
    run(CALLS, tmp_path)


def test_two_threads_get_the_answers_that_they_would_get_one_after_the_other(tmp_path):
    run(TOGETHER, tmp_path)


def test_a_script_without_a_main_guard_is_run_once(tmp_path):
    assert run(NO_GUARD, tmp_path).split() == ["begins", "ends"]


def test_nothing_forks_a_process_that_has_torch_loaded():
    for file in (ROOT / "lorabench").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "os.fork" not in text and "multiprocessing" not in text.replace("by multiprocessing", ""), file


def test_no_stored_study_is_read_that_was_not_named(tmp_path):
    code = (
        "import lorabench as lb; print(lb.plan(lb.load_study('studies/quickstart.yaml', ['grid={method.rank: [4]}',"
        " 'seeds=[0]']), 'cpu').time_basis)"
    )
    assert "no stored study was named" in run(code, tmp_path)
