"""The models that ship are what their card says: size, vocabulary, tokens, and bigger is better."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorabench.config.paths import MODELS, shipped_models
from lorabench.models.pretrain import HELD_OUT, SIZES, build, encode, held_out_bits_per_byte, pretrain, stacked

SHIPPED = [f"lorabench/tiny-{size}" for size in SIZES]
BOOKS = Path(__file__).parents[3] / "shared" / "data" / "text"


def facts(name):
    return json.loads((shipped_models()[name] / "pretraining.json").read_text())


def test_the_three_sizes_ship_within_twelve_megabytes():
    assert sorted(shipped_models()) == sorted(SHIPPED)
    assert sum(f.stat().st_size for f in MODELS.rglob("*") if f.is_file()) < 12e6


def test_they_share_one_tokenizer_that_encodes_any_text():
    vocabularies = {(shipped_models()[n] / "tokenizer.json").read_bytes() for n in SHIPPED}
    assert len(vocabularies) == 1
    tokenizer = AutoTokenizer.from_pretrained(shipped_models()[SHIPPED[0]])
    for text in ("def f(x):\n    return x", "naïve 漢字 🙂", "\x00\x01"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize("name", SHIPPED)
def test_a_model_is_as_large_as_its_card_says_and_was_trained_long_enough(name):
    card = facts(name)
    model = AutoModelForCausalLM.from_pretrained(shipped_models()[name])
    assert model.dtype == torch.bfloat16
    assert sum(p.numel() for p in model.parameters()) == card["parameters"]
    if name == "lorabench/tiny-4m":
        assert card["tokens"] >= 20e6
    else:
        assert card["tokens"] >= 20 * card["parameters"]
    assert len(card["held_out_files"]) == len(HELD_OUT)


def test_bigger_is_better_on_text_that_none_was_trained_on():
    bits = [facts(n)["held_out_bits_per_byte"] for n in SHIPPED]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] - bits[-1] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_cards_bits_per_byte_are_found_again(name):
    if not BOOKS.is_dir():
        pytest.skip("the books are not here; they are not part of the project")
    texts = [(BOOKS / f).read_text(encoding="utf-8", errors="replace") for f in sorted(HELD_OUT)]
    tokenizer = AutoTokenizer.from_pretrained(shipped_models()[name])
    model = AutoModelForCausalLM.from_pretrained(shipped_models()[name]).float()
    ids = encode(tokenizer, texts)
    assert held_out_bits_per_byte(model, ids, sum(len(t.encode()) for t in texts)) == pytest.approx(
        facts(name)["held_out_bits_per_byte"], abs=2e-3
    )


def test_stacking_doubles_each_layer_in_place():
    size = SIZES["4m"]
    one = build(size, 2)
    two = stacked(one, size)
    assert len(two.model.layers) == 4
    for i in range(4):
        for a, b in zip(two.model.layers[i].parameters(), one.model.layers[i // 2].parameters(), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(two.model.embed_tokens.weight, one.model.embed_tokens.weight)


def test_another_cycle_goes_on_from_the_finished_model(tmp_path):
    books, out = tmp_path / "books", tmp_path / "model"
    books.mkdir()
    for name in ("a.txt", *HELD_OUT):
        (books / name).write_text("It was the best of times, it was the worst of times. " * 100)
    first = pretrain(books, "300k", out, tokens=3 * 2048)
    second = pretrain(books, "300k", out, tokens=2 * 2048, again=True)
    assert (first["tokens"], second["tokens"]) == (3 * 2048, 5 * 2048)
    assert [c["tokens"] for c in second["cycles"]] == [6_000_000, 2 * 2048]
    assert second["cycles"][1]["learning_rate"] == first["cycles"][0]["learning_rate"] / 2
    assert second["held_out_bits_per_byte"] < first["held_out_bits_per_byte"]
