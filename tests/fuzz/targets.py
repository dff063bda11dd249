"""Every door with the inputs that are put there.

A target runs one input in a folder of its own. It may end well, or in a LorabenchError of one line; any other
exception is a fault, as is all that guard.py watches for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import doors
from tests.fuzz.doors import first, stored
from tests.fuzz.inputs import HOSTILE, damaged, edited, json_files, values
from tests.fuzz.samples import (
    CSV,
    LM_EVAL,
    MODEL_CONFIG,
    PEFT_CONFIG,
    RICH,
    SOUND,
    TENSORS,
    as_yaml,
    csv_file,
    pickles,
    safetensors_file,
    sized_gguf,
    sound_gguf,
)
from tests.importers.peft_files import RUN as PEFT_RUN
from tests.report.stores import STUDY


@dataclass(frozen=True)
class Target:
    """A kind of input."""

    strategy: st.SearchStrategy[Any]
    run: Callable[[Path, Any], object]
    quick: int
    """examples in the default tests: about two seconds of them"""


WORDS = (
    *("run", "status", "table", "report", "export", "import", "explain", "estimate", "check", "plan", "recommend"),
    *("evidence", "parameters", "gpus", "spectrum", "truncate", "quantization-error", "models", "tasks", "methods"),
    *("trainers", "schema", "evaluate", "serve", "-h", "--help", "--version", "--", "-", "--out", "--set", "--format"),
    *("--port", "--rank", "--ranks", "--gpu", "--model", "--batch-size", "-o", "--cells", "--map", "--name", "--json"),
    *("--workers", "--pack", "--base", "--alpha", "--unit", "--metric", "--reference", "--log", "--compare", "--in"),
    *(
        "study.yaml",
        "store",
        "nothing.yaml",
        "../../x",
        "/etc/passwd",
        "store/plan.json",
        "rtx-4090",
        "24GB",
        "8",
        "-1",
    ),
    *("trackio", "csv", "peft", "md", "latex", "a=b", "=", "training.steps=", "grid.method.rank=[1,2", "lora", "1e999"),
    *("nan", "", " ", "\0", "\n", "é" * 40, "%s", "llama 8b", "lorabench/tiny-300k", "planted", "LoRA r=4, seed 0"),
)
_STARTING = {"calibrate", "doctor", "probe"}  # start processes of their own, as they are to
words = st.one_of(
    st.sampled_from(WORDS), st.sampled_from(WORDS), st.text(max_size=6), st.sampled_from([str(v) for v in HOSTILE])
).filter(lambda w: w not in _STARTING)


TARGETS: dict[str, Target] = {
    "study": Target(
        st.one_of(json_files(SOUND, as_yaml), json_files(RICH, as_yaml), damaged(st.just(STUDY.encode()))),
        doors.study_file,
        60,
    ),
    "study-name": Target(
        st.one_of(values, st.sampled_from(["../../x", "a/b", "..", ".", "a\\..\\b", "~x"])), doors.study_name, 40
    ),
    "setting": Target(
        st.lists(
            st.tuples(
                st.sampled_from([*SOUND, *RICH, "training.steps", "method.rank", "grid.method.rank", "x.y"]), values
            ).map(lambda kv: f"{kv[0]}={kv[1]}"),
            max_size=3,
        ).map(tuple),
        doors.setting,
        60,
    ),
    "adapter": Target(
        st.tuples(json_files(PEFT_CONFIG), damaged(edited(TENSORS).map(safetensors_file))), doors.adapter, 60
    ),
    "pickle": Target(
        st.tuples(
            st.sampled_from(["adapter_model.bin", "lora.pt", "x.ckpt", "x.pth"]),
            damaged(st.deferred(lambda: st.sampled_from(pickles()))),
        ),
        doors.pickled,
        60,
    ),
    "record": Target(
        st.deferred(
            lambda: st.one_of(
                *(
                    st.tuples(st.just(end), json_files(json.loads(first(stored()[1], end))))
                    for end in ("plan.json", "result.json")
                ),
                *(
                    st.tuples(st.just(end), damaged(st.just(first(stored()[1], end))))
                    for end in ("curve.csv", "items.safetensors", "spectra.safetensors", "truncation.csv")
                    if any(n.endswith(end) for n in stored()[1])
                ),
            )
        ),
        doors.record,
        50,
    ),
    "archive": Target(
        st.deferred(
            lambda: json_files(
                {
                    "schema": 1,
                    "plan": json.loads(first(stored()[1], "plan.json")),
                    "results": {"../../x": {}, "a/b": {}, "0" * 12: json.loads(first(stored()[1], "result.json"))},
                }
            )
        ),
        doors.archive,
        40,
    ),
    "gguf": Target(
        st.deferred(
            lambda: st.one_of(
                damaged(st.just(sound_gguf())),
                st.tuples(
                    st.integers(0, 10**4), st.sampled_from([0, 1, 2**31, 2**40, 2**63, 2**64 - 1]), st.integers(0, 1)
                ).map(sized_gguf),
            )
        ),
        doors.gguf_file,
        60,
    ),
    "import-peft": Target(json_files(PEFT_RUN), doors.imported("peft", "r.json"), 60),
    "import-lm-eval": Target(json_files(LM_EVAL), doors.imported("lm-eval", "results_1.json"), 60),
    "import-csv": Target(
        st.one_of(
            damaged(st.just(CSV)),
            damaged(
                edited([line.split(",") for line in CSV.decode().splitlines()]).map(
                    lambda rows: csv_file(
                        [r if isinstance(r, list) else [r] for r in rows] if isinstance(rows, list) else [[rows]]
                    )
                )
            ),
        ),
        doors.imported("csv", "t.csv"),
        60,
    ),
    "model": Target(
        st.tuples(
            json_files(MODEL_CONFIG),
            st.one_of(
                damaged(edited(TENSORS).map(safetensors_file)),
                json_files(
                    {"metadata": {"total_size": 9}, "weight_map": {"a": "../../x.safetensors", "b": "m-1.safetensors"}}
                ),
            ),
        ),
        doors.model_folder,
        20,
    ),
    "command": Target(st.lists(words, max_size=6).map(tuple), doors.commanded, 60),
}
