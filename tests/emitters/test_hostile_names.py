"""Names of models and files stay data in what is written."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest

from lorabench.errors import LorabenchError
from tests.emitters.candidates import LLAMA, candidate, emit, settings, workload

HOSTILE = (
    'a"; rm -rf ~ #',
    "two\nlines 'and' \"quotes\" $(id) `id` \\",
    "-x --output_dir=/",
    "{{x}} & *y: [z] \x85\u2028é",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_data(name: str, tmp_path: Path) -> None:
    for tool, key in (("axolotl", "base_model"), ("llamafactory", "model_name_or_path"), ("trl", "model_name_or_path")):
        files = emit(tool, workload(name), candidate())
        assert settings(tool, files)[key] == name
        assert settings(tool, files).keys() == settings(tool, emit(tool, workload(), candidate())).keys()
    files = emit("peft", workload(name), candidate())
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == name
    (model,) = [
        n.value
        for n in ast.parse(files["train.py"]).body
        if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "MODEL"
    ]
    assert ast.literal_eval(model) == name
    assert ast.dump(ast.parse(files["train.py"])).replace(repr(name), repr(LLAMA)) == ast.dump(
        ast.parse(emit("peft", workload(), candidate())["train.py"])
    )
    script = tmp_path / "sft.sh"
    script.write_text(emit("trl", workload(name), candidate())["sft.sh"], encoding="utf-8")
    (tmp_path / "trl").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    (tmp_path / "trl").chmod(0o755)
    ran = (
        subprocess.run(["sh", script], capture_output=True, check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
        .stdout.decode()
        .split("\0")
    )
    assert ran[:2] == ["sft", f"--model_name_or_path={name}"]
    with pytest.raises(LorabenchError):
        emit("torchtune", workload(name), candidate())


def test_a_name_that_a_yaml_reader_would_expand_is_refused(tmp_path: Path) -> None:
    name = str(tmp_path / "${oc.env:HOME}" / "Llama-3.1-8B")
    for tool in ("llamafactory", "torchtune"):
        with pytest.raises(LorabenchError, match="expand"):
            emit(tool, workload(name), candidate())
    assert settings("axolotl", emit("axolotl", workload(name), candidate()))["base_model"] == name
