"""The trainers on the command line: the list, estimate for one and for all, check's exit codes, one sentence for each
mistake."""

from __future__ import annotations

import json

import pytest

from lorabench import plugins
from lorabench.commands import main as cli
from tests.commands.shell import probe

pytestmark = pytest.mark.usefixtures("traces")
TINY = ("--model", "lorabench/tiny-300k", "--rank", "4", "--micro-batch-size", "2", "--sequence-length", "32")


def call(capsys, *arguments):
    """Exit code, stdout, stderr."""
    try:
        code = cli.main([*map(str, arguments)])
    except SystemExit as e:
        code = e.code
    return code, *capsys.readouterr()


def test_the_list_of_trainers_has_a_line_each_and_loads_no_torch(capsys):
    assert probe("from lorabench.commands.main import main; main()", "trainers") == []
    assert probe("from lorabench.commands.main import main; main()", "trainers", "trl") == []
    code, out, _ = call(capsys, "trainers")
    assert code == 0
    lines = out.split("\n\n")[0].splitlines()[1:]
    assert sorted(line.split()[0] for line in lines) == sorted(plugins.names("trainers"))
    assert len({line.index("measured") - 4 * ("not measured" in line) for line in lines}) == 1, "columns stand together"


@pytest.mark.parametrize("name", plugins.names("trainers"))
def test_a_trainer_tells_each_of_its_differences_on_lines_of_its_own(capsys, name):
    from lorabench.config.trainer import find_trainer

    code, out, _ = call(capsys, "trainers", name)
    assert code == 0
    together = " ".join(out.split())
    assert all(d in together for d in find_trainer(name).differences if d != "Not measured.")
    assert max(map(len, out.splitlines())) <= 120


def test_lorabench_is_the_default_and_says_nothing_new(capsys):
    plain = call(capsys, "estimate", *TINY, "--gpu", "24GB")
    assert call(capsys, "estimate", *TINY, "--gpu", "24GB", "--trainer", "lorabench") == plain
    assert "trained by" not in plain[1]
    told = json.loads(call(capsys, "estimate", *TINY, "--json")[1])
    assert "trainer" not in told


def test_an_estimate_names_the_trainer_its_versions_and_what_touches_this_setting(capsys):
    code, out, _ = call(capsys, "estimate", *TINY, "--quantization", "nf4", "--trainer", "transformers")
    assert code == 0
    assert "trained by transformers Trainer (transformers 5" in out
    assert "prepare_model_for_kbit_training" in out
    _, without, _ = call(
        capsys, "estimate", *TINY, "--quantization", "nf4", "--trainer", "transformers", "--no-kbit-preparation"
    )
    assert "prepare_model_for_kbit_training" not in without
    told = json.loads(call(capsys, "estimate", *TINY, "--trainer", "trl", "--loss", "full", "--json")[1])["trainer"]
    assert (told["name"], told["loss"]) == ("trl", "full")
    assert told["versions"]["trl"]


@pytest.mark.slow
def test_all_trainers_stand_in_rows_by_their_peak(capsys):
    told = json.loads(call(capsys, "estimate", *TINY, "--gpu", "24GB", "--trainer", "all", "--json")[1])
    rows = told["trainers"]
    assert {row["trainer"] for row in rows} == set(plugins.names("trainers"))
    peaks = [row["peak_bytes"] for row in rows if "peak_bytes" in row]
    assert peaks == sorted(peaks) and len(peaks) == len(rows)
    assert all(row["low_bytes"] < row["peak_bytes"] < row["high_bytes"] and row["fits"] for row in rows)
    own = json.loads(call(capsys, "estimate", *TINY, "--gpu", "24GB", "--json")[1])
    mine = next(row for row in rows if row["trainer"] == "lorabench")
    assert all(mine[k] == own[k] for k in ("peak_bytes", "low_bytes", "high_bytes", "largest_batch_size", "bytes"))


def test_a_trainer_that_cannot_train_this_has_a_row_that_says_why(capsys):
    asked = ("estimate", *TINY, "--quantization", "int8", "--trainer", "all")
    rows = json.loads(call(capsys, *asked, "--json")[1])["trainers"]
    assert rows[-1]["trainer"] == "torchtune"
    assert rows[-1]["refused"] == "torchtune has no quantization int8; allowed: nf4, none"
    code, out, _ = call(capsys, *asked)
    assert code == 0
    assert f"torchtune is left out: {rows[-1]['refused']}" in out


def test_check_answers_by_its_exit_code_and_in_one_line(capsys):
    told = json.loads(call(capsys, "check", *TINY, "--gpu", "24GB", "--json")[1])
    assert (told["verdict"], told["exit_code"], told["measured"]) == ("fits", 0, True)
    between = f"{(told['low_bytes'] + told['high_bytes']) / 2 / 2**20:.3f}MiB"
    below, above = f"{0.9 * told['low_bytes'] / 2**20:.3f}MiB", f"{1.1 * told['high_bytes'] / 2**20:.3f}MiB"
    for gpu, expected, word in ((above, 0, "fits"), (below, 1, "does not fit"), (between, 3, "cannot be told")):
        code, out, err = call(capsys, "check", *TINY, "--gpu", gpu)
        assert (code, out.count("\n"), err) == (expected, 1, "")
        assert out.startswith(f"{word}: lorabench needs ")
        assert json.loads(call(capsys, "check", *TINY, "--gpu", gpu, "--json")[1])["exit_code"] == expected


def test_a_prediction_without_checkpointing_says_which_trainers_have_it_by_default(capsys):
    """trl/trainer/sft_config.py: gradient_checkpointing=True; transformers' TrainingArguments: False."""

    def told(*asked):
        return json.loads(call(capsys, *asked, "--json")[1])

    check, estimate = ("check", *TINY, "--gpu", "24GB"), ("estimate", *TINY)
    words = "TRL SFTTrainer has gradient checkpointing on unless it is turned off; this is without it"
    for asked in (check, estimate):
        assert words in call(capsys, *asked, "--trainer", "trl")[1]
        plain = told(*asked, "--trainer", "trl")
        assert plain["note"].startswith(words) and plain["trainer"]["checkpoints_by_default"]
        with_it = (*asked, "--trainer", "trl", "--gradient-checkpointing")
        assert "unless it is turned off" not in call(capsys, *with_it)[1] and "note" not in told(*with_it)
        assert "note" not in told(*asked) and "note" not in told(*asked, "--trainer", "transformers")


@pytest.mark.slow
def test_all_trainers_beside_each_other_say_it_too(capsys):
    _, out, _ = call(capsys, "estimate", *TINY, "--trainer", "all")
    assert "gradient checkpointing is on by default in " in out
    line = next(line for line in out.splitlines() if line.startswith("gradient checkpointing is on"))
    rows = json.loads(call(capsys, "estimate", *TINY, "--trainer", "all", "--json")[1])["trainers"]
    assert {r["trainer"] for r in rows if r["checkpoints_by_default"]} == {r["trainer"] for r in rows if "note" in r}
    assert all((r["trainer"] in line) == r["checkpoints_by_default"] for r in rows if r["trainer"] != "lorabench")
    assert "by default" not in call(capsys, "estimate", *TINY, "--trainer", "all", "--gradient-checkpointing")[1]


def test_check_cannot_tell_what_cannot_be_predicted(capsys):
    code, out, _ = call(capsys, "check", "--model", "t5-small", "--gpu", "24GB")
    assert code == 3
    assert out.startswith("cannot be told: ") and "cannot be predicted" in out


def test_one_of_several_gpus_has_a_part_and_is_called_not_measured(capsys):
    whole = json.loads(call(capsys, "estimate", *TINY, "--method", "full", "--trainer", "transformers", "--json")[1])
    asked = ("estimate", "--model", TINY[1], "--method", "full", *TINY[4:], "--trainer", "transformers", "--gpus", "2")
    for strategy in ("ddp", "zero2", "zero3", "fsdp"):
        told = json.loads(call(capsys, *asked, "--strategy", strategy, "--json")[1])
        assert (told["gpus"], told["strategy"]) == (2, strategy)
        shards = strategy != "ddp"
        expected = whole["bytes"]["optimizer"] / (2 if shards else 1)
        assert told["bytes"]["optimizer"] == pytest.approx(expected, rel=0.01)
        assert (told["bytes"]["weights"] < 0.6 * whole["bytes"]["weights"]) == (strategy in ("zero3", "fsdp"))
        assert told["low_bytes"] <= 0.81 * told["peak_bytes"] and told["high_bytes"] >= 1.19 * told["peak_bytes"]
    code, out, _ = call(capsys, *asked)
    assert code == 0 and "one of 2 GPUs under ddp, each with its own micro-batch: not measured" in out


@pytest.mark.parametrize(
    ("command", "changes", "words"),
    [
        ("estimate", ["--trainer", "trll"], "unknown trainer 'trll'; did you mean 'trl'?"),
        ("estimate", ["--trainer", "trl", "--loss", "fusd"], "unknown loss 'fusd'; did you mean 'fused'?"),
        ("estimate", ["--loss", "fused"], "lorabench has no fused loss; allowed: labelled, chunked, full"),
        ("estimate", ["--trainer", "trl", "--attention", "xformers"], "unknown attention 'xformers'"),
        ("estimate", ["--trainer", "trl", "--attention", "flash", "--gpu", "t4"], "take --attention sdpa"),
        ("estimate", ["--trainer", "axolotl", "--kbit-preparation"], "of its own, or none"),
        ("estimate", ["--trainer", "torchtune", "--quantization", "int8"], "allowed: nf4, none"),
        ("estimate", ["--trainer", "torchtune", "--method", "pissa"], "allowed: dora, full, lora"),
        ("estimate", ["--strategy", "fsdp"], "add --gpus 2 or more"),
        ("estimate", ["--gpus", "2", "--strategy", "fdsp"], "did you mean 'fsdp'?"),
        ("estimate", ["--gpus", "2", "--trainer", "all"], "name one trainer"),
        ("check", ["--gpu", "24GB", "--trainer", "all"], "lorabench estimate --trainer all"),
        ("check", ["--gpu", "rtx9999"], "rtx9999"),
        ("check", ["--gpu", "24GB", "--rank", "0"], "method.rank is '0'"),
        ("trainers", ["trll"], "unknown trainer 'trll'; did you mean 'trl'?"),
    ],
    ids=lambda v: "_".join(v) if isinstance(v, list) else "",
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(capsys, command, changes, words):
    code, out, err = call(capsys, command, *(TINY if command != "trainers" else ()), *changes)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_check_without_a_card_is_a_mistake(capsys):
    assert call(capsys, "check", *TINY)[0] == 2
