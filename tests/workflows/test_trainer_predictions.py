"""What a trainer changes, by hand: from the shape of Llama-2-7B and 8B, not from lorabench's own counting."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from lorabench import plugins
from lorabench.commands import main as cli
from lorabench.errors import LorabenchError
from lorabench.workflows.estimate import estimate
from lorabench.workflows.recommend import recommend
from lorabench.workflows.trainers import chosen, compare_trainers
from lorabench.workflows.verdict import check_fit

ROOT = Path(__file__).parents[2]
LAYERS, HIDDEN, VOCABULARY = 32, 4096, 32_000  # Touvron et al. 2023, arXiv:2307.09288
TOKENS = 2048
NORMS = (2 * LAYERS + 1) * HIDDEN
EMBEDDINGS = 2 * VOCABULARY * HIDDEN  # and the head
LINEAR = LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * 11_008)
NF4 = LINEAR / 2 + LINEAR / 64 * 4  # and a float32 constant a block
QLORA = {
    "model": {"name": "llama-2-7b"},
    "quantization": {"name": "nf4"},
    "training": {"batch_size": 1, "sequence_length": TOKENS, "gradient_checkpointing": True},
}
PAGED_FULL = {
    "model": {"name": "llama-3.1-8b"},
    "method": {"name": "full"},
    "training": {
        "batch_size": 1,
        "sequence_length": 1024,
        "gradient_checkpointing": True,
        "optimizer": "paged-adamw-8bit",
    },
}


@cache
def peak(trainer, loss=None, kbit_preparation=None):
    return estimate(QLORA, None, chosen(trainer, loss, None, kbit_preparation)).estimate


def test_k_bit_preparation_widens_what_is_not_quantized_and_the_residual_stream():
    plain, prepared = peak("transformers", None, False), peak("transformers")
    assert prepared.bytes["weights"] - plain.bytes["weights"] == 2 * (EMBEDDINGS + NORMS), "16 bits to 32"
    checkpoints = 2 * LAYERS * TOKENS * HIDDEN
    assert prepared.bytes["activations"] - plain.bytes["activations"] >= checkpoints, "one hidden state a layer"


def test_trl_keeps_no_logits_and_half_of_the_adapter():
    own, trl, full = peak("lorabench"), peak("trl"), peak("trl", "full")
    logits = TOKENS * VOCABULARY
    assert own.bytes["logits"] == pytest.approx(12 * logits, rel=0.001), "16 and 32 bits, and a gradient of each"
    assert trl.bytes["logits"] < 0.1 * own.bytes["logits"]
    assert full.bytes["logits"] >= 12 * logits
    assert own.bytes["adapters"] == 2 * trl.bytes["adapters"]
    assert own.bytes["optimizer"] == pytest.approx(2 * trl.bytes["optimizer"], rel=0.01)
    assert trl.peak_bytes < full.peak_bytes


@pytest.mark.parametrize(
    ("batch", "word"),
    [
        (1, {"12GB": "fits", "16GB": "fits", "24GB": "fits"}),
        (16, {"12GB": "does not fit", "16GB": "does not fit", "24GB": "fits"}),
    ],
)
def test_trl_qlora_of_7b_at_2048_tokens(batch, word):
    """At batch 1 base, constants, a hidden state a layer and a layer's own make 6 GB: any of the cards holds it. At 16
    the hidden states between layers alone are 8.6 GB, with the base 12.8 GB: above 12 GB; the layer at work keeps six
    of its width and three of the MLP's in 16 bits, and two of the MLP's gradients: 17 GB and more, above 16 GB and
    below 24."""
    base, hidden = NF4 + 2 * EMBEDDINGS, 2 * batch * TOKENS * HIDDEN
    assert base == pytest.approx(4.17e9, rel=0.01)
    least = base + LAYERS * hidden
    if batch == 16:
        mlp = 2 * batch * TOKENS * 11_008
        assert least > 12.5e9 and 15.7e9 < least + 6 * hidden + 5 * mlp < 23e9
    settings = {**QLORA, "training": {**QLORA["training"], "batch_size": batch}}
    for gpu, expected in word.items():
        verdict = check_fit(settings, gpu, chosen("trl"))
        assert verdict.estimate.peak_bytes > least
        assert verdict.word == expected, verdict.sentence


@pytest.mark.parametrize(("gpu", "word"), [("24GB", "does not fit"), ("40GB", "fits"), ("80GB", "fits")])
def test_full_fine_tuning_of_8b_in_bfloat16_with_a_paged_8_bit_optimizer(gpu, word):
    """8.03 billion weights and gradients of two bytes each are 32.1 GB, the optimizer's state is on the host; logits of
    1,024 tokens x 128,256 words take 12 bytes at most, 1.6 GB, while there are no gradients yet. In float32 it is
    64 GB, which a card of 40 GB does not hold."""
    verdict = check_fit(PAGED_FULL, gpu, chosen("trl"))
    assert verdict.word == word, verdict.sentence
    assert 4 * 8.03e9 < verdict.estimate.peak_bytes < 4 * 8.03e9 * 1.1
    if gpu == "40GB":
        assert check_fit(PAGED_FULL, gpu, chosen("lorabench")).word == "does not fit"
        assert check_fit(PAGED_FULL, gpu, chosen("llamafactory")).word == "does not fit"


@pytest.mark.slow
def test_a_mixed_batch_of_trainers_is_one_table():
    result = compare_trainers(QLORA, "24GB")
    assert set(result.frame().index) == set(plugins.names("trainers"))
    by = {row.trainer.name: row for row in result.rows}
    assert by["transformers"].estimate.peak_bytes > by["trl"].estimate.peak_bytes
    assert by["transformers"].estimate.largest_batch_size < by["trl"].estimate.largest_batch_size
    assert "float32 hidden states" in {d.words for d in by["transformers"].differences}
    assert not by["lorabench"].differences


@pytest.mark.usefixtures("traces", "nothing_at_hand")
@pytest.mark.slow
def test_full_fine_tuning_in_bfloat16_is_recommended_with_its_caveat_where_the_trainer_takes_it():
    def full(trainer):
        answer = recommend("lorabench/tiny-300k", "24GB", 64, batch_size=2, trainer=chosen(trainer))
        return {r.candidate.dtype: r for r in answer.ranked if r.candidate.method.name == "full"}

    assert set(full("lorabench")) == {"auto"}
    assert set(full("llamafactory")) == {"float32"}
    both = full("trl")
    assert set(both) == {"float32", "bfloat16"}
    assert "most updates round to nothing" in both["bfloat16"].caveats[0]
    assert both["bfloat16"].quality.basis == "none"
    assert both["bfloat16"].needs.peak_bytes < both["float32"].needs.peak_bytes


@pytest.mark.usefixtures("traces", "nothing_at_hand")
def test_emitted_files_are_of_the_trainer_that_memory_is_predicted_for(capsys, tmp_path):
    tiny = ("--model", "lorabench/tiny-300k", "--gpu", "24GB", "--sequence-length", "64", "--global-batch-size", "2")

    def told(*more):
        code = cli.main(["recommend", *tiny, "--json", *more])
        out, err = capsys.readouterr()
        return code, json.loads(out) if code == 0 else err

    code, trl = told("--emit", "trl", "-o", str(tmp_path))
    assert (code, trl["trainer"]["name"]) == (0, "trl")
    assert trl["recommendations"] == told("--trainer", "trl")[1]["recommendations"]
    assert "trainer" not in told()[1]
    assert plugins.load("emitters", "peft").TRAINER.kbit_preparation is False, "its script does not call it"
    code, err = told("--emit", "axolotl", "-o", str(tmp_path), "--trainer", "trl")
    assert (code, err.count("\n")) == (2, 1)
    assert "leave --trainer out or give --trainer axolotl" in err


@pytest.mark.usefixtures("traces", "nothing_at_hand")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_files_say_the_dtype_that_was_predicted(capsys, tmp_path, dtype):
    tiny = ("--model", "lorabench/tiny-300k", "--gpu", "24GB", "--sequence-length", "64", "--global-batch-size", "2")
    asked = ["recommend", *tiny, "--emit", "trl", "-o", str(tmp_path), "--json"]
    assert cli.main(asked) == 0
    ranked = json.loads(capsys.readouterr().out)["recommendations"]
    entry = next(i for i, r in enumerate(ranked, 1) if r["method"] == "full" and r["dtype"] == dtype)
    assert cli.main([*asked, "--entry", str(entry)]) == 0
    script = (tmp_path / "sft.sh").read_text(encoding="utf-8")
    assert f"--dtype={dtype}" in script and f"full fine-tuning in {dtype}" in script


@pytest.mark.slow
def test_a_plan_names_its_trainer(capsys):
    asked = ["plan", str(ROOT / "studies" / "quickstart.yaml"), "--gpu", "24GB"]
    assert cli.main([*asked, "--trainer", "axolotl"]) == 0
    assert capsys.readouterr().out.startswith("trained by axolotl (axolotl ")
    assert cli.main([*asked, "--trainer", "axolotl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trainer"]["name"] == "axolotl"
    assert cli.main(asked) == 0
    assert "trained by" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("traces", "nothing_at_hand")
def test_recommend_takes_the_variant_that_estimate_takes(capsys, tmp_path):
    tiny = ("--model", "lorabench/tiny-300k", "--gpu", "24GB", "--sequence-length", "64", "--global-batch-size", "2")

    def told(*more):
        assert cli.main(["recommend", *tiny, "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)

    eager = told("--emit", "axolotl", "-o", str(tmp_path), "--attention", "eager")
    assert eager["trainer"]["attention"] == "eager"
    assert "attn_implementation: eager" in (tmp_path / "axolotl.yaml").read_text(encoding="utf-8")
    prepared = told("--trainer", "transformers", "--no-kbit-preparation")
    assert (eager["trainer"]["kbit_preparation"], prepared["trainer"]["kbit_preparation"]) == (False, False)
    assert told("--trainer", "transformers")["trainer"]["kbit_preparation"] is True


def test_a_plan_takes_the_loss_that_is_asked_for(capsys):
    study = ["plan", "studies/quickstart.yaml", "--gpu", "24GB", "--trainer", "trl", "--json"]
    for key in ("seeds=[0]", "grid={method.rank: [4]}", "model=lorabench/tiny-300k"):
        study += ["--set", key]
    fits = []
    for more in ([], ["--loss", "full"]):
        assert cli.main([*study, *more]) == 0
        fits.append(json.loads(capsys.readouterr().out))
    assert [p["trainer"]["loss"] for p in fits] == ["chunked", "full"]
    assert fits[0]["conditions"][0]["peak_bytes"] != fits[1]["conditions"][0]["peak_bytes"]


def test_the_python_functions_take_the_variant_too():
    import lorabench as lb

    ask = {"gpu": "24GB", "sequence_length": 64, "global_batch_size": 2, "trainer": "trl"}
    with pytest.raises(LorabenchError, match="unknown loss"):
        lb.recommend("lorabench/tiny-300k", loss="fulll", **ask)
    with pytest.raises(LorabenchError, match="--attention sdpa"):
        lb.recommend("lorabench/tiny-300k", attention="flash", **{**ask, "gpu": "t4"})
    with pytest.raises(LorabenchError, match="--attention sdpa"):
        lb.plan("studies/quickstart.yaml", "t4", attention="flash")
