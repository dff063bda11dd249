"""spectrum, truncate and quantization-error as a user types them: text, JSON, pages, exit codes."""

import json
import subprocess
import sys

import pytest

from lorabench.commands import main as cli
from lorabench.config import expand, load_study
from lorabench.engine.cell import run_cell
from lorabench.record.store import Store
from tests.engine.conftest import STUDY
from tests.spectra.conftest import peft_adapter


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """reports/two of a study with two quantized cells and a full one; gives (folder above reports, cell ids)."""
    home = tmp_path_factory.mktemp("home")
    (home / "study.yaml").write_text(
        STUDY.replace("name: s", "name: two")
        + "quantization: nf4\nseeds: [0, 1]\ninclude: [{method: full, quantization: none}]\nanalysis: {truncation: [1,"
        " 2]}\n"
    )
    study = load_study(home / "study.yaml")
    store = Store(home / "reports" / "two")
    made = expand(study)
    store.save_plan(study, made)
    for cell in made:
        folder = store.partial(cell.id)
        folder.mkdir(parents=True)
        store.put(run_cell(cell, folder))
    return home, [c.id for c in made]


def test_a_cell_by_its_id_beside_another_seed_as_text_json_and_page(cells, monkeypatch, capsys, tmp_path):
    home, ids = cells
    monkeypatch.chdir(home)
    assert cli.main(["spectrum", ids[0][:8], "--compare", ids[1]]) == 0
    text = capsys.readouterr().out
    for words in (
        "28, rank 4",
        "self_attn.q_proj",
        "layer 3",
        "all",
        "utilisation",
        "amplification",
        "repair cosine",
        "intruders",
        f"Compared with cell {ids[1]}",
        "phi(1, 1)",
    ):
        assert words in text
    assert cli.main(["spectrum", ids[0], "--compare", ids[1], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["modules"]) == 28
    first = found["modules"][0]
    assert {
        "module",
        "in_features",
        "out_features",
        "rank",
        "singular_values",
        "frobenius_norm",
        "stable_rank",
        "entropy_rank",
        "participation_ratio",
        "numerical_rank",
        "energy_rank",
        "rank_utilisation",
        "amplification",
        "alignment",
        "intruders",
        "repair",
    } <= set(first)
    assert set(first["energy_rank"]) == {"0.5", "0.9", "0.95", "0.99"}
    assert len(found["summary"]["layers"]) == 4
    assert len(found["summary"]["types"]) == 7
    assert found["summary"]["model"]["modules"] == 28
    assert len(found["similarity"]["right"]) == 4
    page = tmp_path / "deep" / "page.html"
    assert cli.main(["spectrum", ids[0], "--compare", ids[1], "--html", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    html = page.read_text(encoding="utf-8")
    assert "http://" not in html.split('<script type="application/json"')[0]
    for name in ("decay", "energy-rank", "similarity-right", "similarity-left"):
        assert f'id="figure-{name}"' in html


def test_a_full_cell_and_a_results_directory(cells, monkeypatch, capsys):
    home, ids = cells
    monkeypatch.chdir(home)
    assert cli.main(["spectrum", ids[2]]) == 0
    assert "saves no weights" in capsys.readouterr().out
    assert cli.main(["spectrum", "reports/two"]) == 2
    assert "is a whole results directory; name one of its cells" in capsys.readouterr().err
    assert cli.main(["truncate", ids[2], "--rank", "2", "-o", "x"]) == 2
    assert "is not an adapter" in capsys.readouterr().err
    assert cli.main(["spectrum", "fffff", "--in", "reports/two"]) == 2
    assert "has an id starting with" in capsys.readouterr().err


def test_truncate_a_cell_and_look_at_what_was_written(cells, monkeypatch, capsys, tmp_path):
    home, ids = cells
    monkeypatch.chdir(home)
    out = tmp_path / "cut"
    assert cli.main(["truncate", ids[0], "--energy", "0.5", "--per-module", "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert str(out) in said
    assert "of the energy" in said
    assert cli.main(["spectrum", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["model"]["entropy_rank"] < 4
    assert cli.main(["truncate", ids[0], "--rank", "1", "-o", str(out)]) == 2
    assert "already exists and is not empty" in capsys.readouterr().err


def test_quantization_error_with_what_a_cell_learned(cells, monkeypatch, capsys):
    home, ids = cells
    monkeypatch.chdir(home)
    assert cli.main(["quantization-error", "lorabench/tiny-300k", "--quantization", "nf4", "--adapter", ids[0]]) == 0
    assert "repair cosine" in capsys.readouterr().out
    assert cli.main(["quantization-error", "lorabench/tiny-300k", "--quantization", "int8", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["modules"]
    assert len(rows) == 28
    assert {
        "module",
        "quantization",
        "double_quant",
        "relative_error",
        "maximum_error",
        "signal_to_noise_db",
        "stable_rank",
        "entropy_rank",
    } <= set(rows[0])


def test_an_adapters_own_names_cannot_become_markup(tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    _, _, folder = peft_adapter(tmp_path / "<script>alert(1)</script>")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {k.replace("q_proj", "<img src=x onerror=alert(1)>"): v for k, v in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    page = tmp_path / "page.html"
    assert cli.main(["spectrum", str(folder), "--html", str(page)]) == 0
    head = page.read_text(encoding="utf-8").split('<script type="application/json"')[0]
    assert "<script>alert" not in head
    assert "<img src=x" not in page.read_text(encoding="utf-8")


def test_damaged_files_end_with_exit_code_2_and_one_sentence(tmp_path, capsys):
    bad = tmp_path / "adapter_model.safetensors"
    bad.write_bytes(b"\x00" * 20)
    _, _, good = peft_adapter(tmp_path / "good")
    for arguments in (
        ["spectrum", str(good), "--alpha", "nan"],
        ["spectrum", str(good), "--alpha", "0"],
        ["spectrum", ""],
        ["quantization-error", str(bad)],
        ["spectrum", str(bad)],
        ["truncate", str(bad), "--rank", "2", "-o", str(tmp_path / "o")],
        ["spectrum", str(tmp_path / "gone")],
    ):
        assert cli.main(arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith("lorabench: ")
        assert len(err.splitlines()) == 1


def test_a_spectrum_of_an_adapter_imports_no_transformers(tmp_path):
    _, _, folder = peft_adapter(tmp_path)
    code = (
        "import sys; from lorabench.commands.main import main; main(sys.argv[1:]); print([m for m in ('transformers',"
        " 'peft', 'bitsandbytes', 'plotly') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "spectrum", str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


def test_the_python_interface_gives_a_frame(cells, monkeypatch):
    import lorabench as lb

    home, ids = cells
    monkeypatch.chdir(home)
    results = home / "reports" / "two"
    found = lb.spectrum(ids[0], compare=results / "cells" / ids[1], directory=results)
    frame = found.frame()
    assert len(frame) == 28
    assert frame["energy_rank_0.9"].between(1, 4).all()
    assert (frame["entropy_rank"] / frame["rank"] - frame["rank_utilisation"]).abs().max() < 1e-12
    assert found.similarity.modules == 28
    with pytest.raises(lb.LorabenchError):
        lb.spectrum("nowhere", directory=results)


@pytest.mark.parametrize("call", ["spectrum", "compare", "truncate", "quantization_error"])
def test_the_python_interface_looks_no_id_up_where_no_directory_is_named(cells, monkeypatch, tmp_path, call):
    import lorabench as lb

    home, ids = cells
    monkeypatch.chdir(home)  # where the command line finds the cell
    calls = {
        "spectrum": lambda: lb.spectrum(ids[0]),
        "compare": lambda: lb.spectrum(home / "reports" / "two" / "cells" / ids[1], compare=ids[0]),
        "truncate": lambda: lb.truncate(ids[0], tmp_path / "cut", rank=1),
        "quantization_error": lambda: lb.quantization_error("lorabench/tiny-300k", adapter=ids[0]),
    }
    with pytest.raises(lb.LorabenchError, match=f"there is no file or folder {ids[0]}; .* name it with directory="):
        calls[call]()
