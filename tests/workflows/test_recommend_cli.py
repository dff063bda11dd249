"""lorabench recommend: what it prints, what it writes, and one sentence for each mistake."""

from __future__ import annotations

import json

import pytest

from lorabench import plugins
from lorabench.commands import main as cli
from tests.report.stores import filled

TINY = ("--model", "lorabench/tiny-300k", "--gpu", "24GB", "--sequence-length", "64", "--global-batch-size", "2")
SAID = {
    "method", "rank", "alpha", "target_modules", "quantization", "micro_batch_size", "gradient_accumulation",
    "gradient_checkpointing", "optimizer", "learning_rate", "peak_bytes", "high_bytes",
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("traces", "nothing_at_hand")


def call(capsys, *arguments):
    """Exit code, stdout, stderr."""
    try:
        code = cli.main(["recommend", *map(str, arguments)])
    except SystemExit as e:
        code = e.code
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("advice"))


@pytest.mark.slow
def test_json_has_every_key_and_bytes_as_whole_numbers(capsys):
    code, out, err = call(capsys, *TINY, "--gpu", "1GiB", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["recommendations"]
    for r in told["recommendations"]:
        assert set(r) >= SAID | {"headroom_bytes", "quality", "evidence", "caveats"}
        assert all(
            type(r[k]) is int
            for k in ("micro_batch_size", "gradient_accumulation", "peak_bytes", "high_bytes", "headroom_bytes")
        )
        assert r["high_bytes"] + r["headroom_bytes"] == told["memory_bytes"] == 2**30
        assert r["micro_batch_size"] * r["gradient_accumulation"] == told["batch_size"] == 2
        assert r["evidence"] and all({"kind", "text", "source"} <= set(e) for e in r["evidence"])
        assert None not in r["quality"].values()
        assert isinstance(r["caveats"], list)


def test_json_of_what_is_ruled_out_has_every_key(capsys):
    code, out, _ = call(capsys, *TINY, "--gpu", "0.01GB", "--json")
    told = json.loads(out)
    assert (code, told["recommendations"]) == (0, [])
    assert {(e["method"], e["quantization"]) for e in told["excluded"]} == {
        ("lora", "none"),
        ("lora", "int8"),
        ("lora", "nf4"),
        ("full", "none"),
    }
    for e in told["excluded"]:
        assert set(e) >= SAID | {"over_bytes", "cheapest_change"}
        assert e["over_bytes"] == e["high_bytes"] - told["memory_bytes"] > 0
        assert e["cheapest_change"]


def test_json_of_a_measured_answer_names_its_cells(capsys, store):
    code, out, _ = call(capsys, *TINY, "--from", store.folder, "--json")
    assert code == 0
    by = {(r["method"], r["quantization"]): r for r in json.loads(out)["recommendations"]}
    lora = by["lora", "none"]
    assert lora["quality"]["basis"] == "measured"
    assert set(lora["evidence"][0]["cells"]) <= {r.cell.id for r in store.results()}
    assert lora["evidence"][0]["source"] == str(store.folder)


def test_json_and_text_say_the_same(capsys):
    _, out, _ = call(capsys, *TINY, "--json")
    told = json.loads(out)
    code, text, err = call(capsys, *TINY)
    assert (code, err) == (0, "")
    for i, r in enumerate(told["recommendations"], 1):
        name = (
            "full fine-tuning"
            if r["method"] == "full"
            else f"LoRA r={r['rank']}, alpha {r['alpha']:g}, {r['target_modules']}"
        )
        assert f"\n{i}. {name}" in text
    assert max(map(len, text.splitlines())) <= 160


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--gpu", "rtx9999"], "rtx9999"),
        (["--gpu", "0GB"], "no gpu has 0GB of memory"),
        (["--model", "nowhere/at-all"], "nowhere/at-all"),
        (["--model", "./nowhere"], "nowhere"),
        (["--sequence-length", "513"], "beyond the 512 positions"),
        (["--sequence-length", "0"], "sequence"),
        (["--sequence-length", "many"], "'many' is not a whole number of at least 1"),
        (["--priority", "nonsense"], "accuracy, memory, speed"),
        (["--emit", "peft"], "-o DIR"),
        (["-o", "somewhere"], "--emit"),
        (["--emit", "nonsense", "-o", "somewhere"], "nonsense"),
        (["--from", "."], "is not a results directory"),
        (["--from", "nowhere"], "nowhere is not a results directory"),
        (["--global-batch-size", "0"], "'0' is not a whole number of at least 1"),
        (["--global-batch-size", "-4"], "'-4' is not a whole number of at least 1"),
        (["--tokens", "abc"], "'abc' is not an amount"),
        (["--tokens", "0"], "tokens 0 is below 1"),
        (["--tokens", "inf"], "'inf' is not an amount"),
        (["--examples", "1.5X"], "'1.5X' is not an amount"),
        (["--tolerated-loss", "0"], "tolerated loss of 0"),
        (["--tolerated-loss", "nan"], "tolerated loss of nan"),
        (["--emit", "peft", "-o", "somewhere", "--entry", "9"], "there is no recommendation 9; allowed: 1 to "),
        (["--emit", "peft", "-o", "somewhere", "--entry", "0"], "'0' is not a whole number of at least 1"),
    ],
    ids=lambda v: "_".join(v) if isinstance(v, list) else "",
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(capsys, tmp_path, changes, words):
    code, _, err = call(capsys, *TINY, *changes)
    assert code == 2
    last = err.rstrip("\n").splitlines()[-1]
    assert words in last
    assert "Traceback" not in err
    assert err.count("\n") == 1 or "usage:" in err  # the parser shows its usage first
    assert not (tmp_path / "somewhere").exists()


def test_an_entry_without_files_to_write_is_no_silent_wish(capsys):
    assert call(capsys, *TINY, "--entry", "9")[0] == 2


def test_a_file_in_the_way_of_the_folder_is_told(capsys, tmp_path):
    (tmp_path / "taken").write_text("")
    code, _, err = call(capsys, *TINY, "--emit", "peft", "-o", tmp_path / "taken")
    assert code == 2
    assert "cannot be written" in err


def test_what_is_emitted_for_peft_is_the_recommendation_and_peft_reads_it(capsys, tmp_path):
    from peft import LoraConfig

    told = json.loads(call(capsys, *TINY, "--trainer", "transformers", "--json")[1])["recommendations"]
    entry = next(i for i, r in enumerate(told, 1) if r["method"] == "lora")
    code, out, err = call(capsys, *TINY, "--emit", "peft", "-o", tmp_path / "files", "--entry", entry, "--json")
    assert code == 0
    emitted = json.loads(out)["recommendations"]
    assert [r for r in emitted if r["quantization"] == "none"] == [r for r in told if r["quantization"] == "none"]
    assert len(emitted) == len(told), "of quantized bases the script makes no k-bit preparation, and needs no more"
    assert all(r["peak_bytes"] <= t["peak_bytes"] for r, t in zip(emitted, told, strict=True))
    assert sorted(err.split()) == sorted(str(p) for p in (tmp_path / "files").iterdir())
    config = LoraConfig.from_pretrained(tmp_path / "files")
    assert (config.r, config.lora_alpha, config.target_modules) == (
        told[entry - 1]["rank"],
        told[entry - 1]["alpha"],
        "all-linear",
    )
    script = (tmp_path / "files" / "train.py").read_text(encoding="utf-8")
    compile(script, "train.py", "exec")


@pytest.mark.slow
@pytest.mark.parametrize("tool", plugins.names("emitters"))
def test_every_trainer_gets_files_or_a_reason(capsys, tmp_path, tool):
    code, out, err = call(capsys, *TINY, "--emit", tool, "-o", tmp_path / "files")
    if code == 2:
        assert err.count("\n") == 1
        assert tool in err.lower()
        return
    assert code == 0
    written = [p for p in (tmp_path / "files").iterdir() if p.stat().st_size]
    assert written
    assert all(str(p) in out for p in written)
