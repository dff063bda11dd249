"""lorabench probe, as a user types it."""

import json

import pytest

import lorabench as lb
from lorabench.commands.main import main
from lorabench.errors import LorabenchError
from lorabench.workflows.probe import ProbedRanks


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("probe") / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i} + 1 =", "response": f" {i + 1}"}) + "\n" for i in range(200)))
    return file


def words(data, *more):
    sizes = ["--batches", "2", "--sequence-length", "32", "--batch-size", "2"]
    return ["probe", "--model", "lorabench/tiny-300k", "--data", str(data), *sizes, *more]


def test_a_model_and_a_file_are_enough(data, capsys):
    assert main(words(data, "--steps", "2", "--json")) == 0
    (setting,) = json.loads(capsys.readouterr().out)["settings"]
    probes = {p["probe"]: p for p in setting["probes"]}
    assert set(probes) == set(lb.plugins.names("probes"))
    for p in probes.values():
        assert (p["rank"] is None) == p["spreads_a_budget"]
        assert len(p["ranks"]) == len(probes["gora"]["ranks"]) and p["source"]
    assert probes["stable-rank"]["training_steps"] == 2
    assert probes["natural-gradient"]["training_steps"] == 2 * probes["gora"]["training_steps"]


@pytest.mark.parametrize(("of_layers", "rank"), [((2, 3), 3), ((3, 4), 4), ((6, 7), 7), ((4, 4), 4), ((0, 0), 1)])
def test_a_uniform_rank_holds_half_of_the_layers_of_every_kind(of_layers, rank):
    """A median between two layers is taken up, at even ranks as at odd ones: planted ranks are mostly even."""
    first, second = of_layers
    ranks = {"0.o_proj": first, "1.o_proj": second, "0.v_proj": 1, "1.v_proj": 0}
    assert ProbedRanks("energy-rank", "", False, ranks, 0.0, 0.0).rank == rank


def test_the_table_says_which_rules_only_spread_a_budget(data, capsys):
    assert main(words(data, "--probes", "gora", "gradient-spectrum", "--mean-rank", "6")) == 0
    out = capsys.readouterr().out
    assert "spreads a budget of 6 a module" in out
    (gora,) = (line for line in out.splitlines() if line.startswith("gora"))
    assert gora.split()[1] == "-"


def test_what_nobody_reads_is_not_gathered(data, capsys):
    assert main(words(data, "--probes", "stable-rank", "--steps", "2")) == 0
    assert "lorabench/tiny-300k, LoRA: 2 steps" in capsys.readouterr().err
    assert main(words(data, "--probes", "gora")) == 0
    assert "lorabench/tiny-300k, LoRA: 2 passes\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["probe"], "needs a study file, or --model with --data"),
        (["probe", "--model", "lorabench/tiny-300k"], "belong together"),
        (
            ["probe", "--model", "lorabench/tiny-300k", "--data", "nope.txt"],
            "there is no file or folder nope.txt to probe",
        ),
        (["probe", "studies/quickstart.yaml", "--batches", "3"], "an even number"),
        (["probe", "studies/quickstart.yaml", "--probes", "gorra"], "gora"),
        (["probe", "studies/quickstart.yaml", "--probes", "stable-rank", "--steps", "0"], "stable-rank reads a short"),
        (["probe", "studies/quickstart.yaml", "--quantization", "nf4"], "a study has its own: --set quantization=nf4"),
        (["probe", "studies/quickstart.yaml", "--batch-size", "4"], "its own: --set training.batch_size=4"),
    ],
)
def test_a_mistake_is_one_sentence(wrong, sentence, capsys):
    assert main(wrong) == 2
    err = capsys.readouterr().err
    assert sentence in err and len(err.strip().splitlines()) == 1


def test_settings_that_differ_in_rank_or_seed_are_probed_once():
    from lorabench.workflows.probe import _settings

    study = lb.load_study("studies/planted.yaml")
    assert len(list(_settings(study))) == 9  # six ranks, nf4, two kinds of modules, full


def test_a_study_without_adapters_is_refused():
    from lorabench.workflows.probe import probe

    study = lb.load_study(
        "studies/quickstart.yaml", ["grid={method.name: [full]}", "include=[]", "method={name: full}"]
    )
    with pytest.raises(LorabenchError, match="trains no adapter"):
        probe(study)
