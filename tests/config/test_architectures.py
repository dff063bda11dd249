"""Every preset has the parameters that its source publishes."""

import pytest

from lorabench.config.architectures import architectures, find_architecture
from lorabench.config.settings import ModelSpec
from lorabench.memory.meta_model import any_model, configuration

ROUNDED = {  # how far a source's own rounding is from the configuration, where it prints no exact count
    "microsoft/deberta-v2-xxlarge": 0.05,
    "google-t5/t5-3b": 0.02,
    "google-t5/t5-11b": 0.03,
    "tiiuae/falcon-180B": 0.009,
    "openai/gpt3-6.7b": 0.007,
    "facebook/opt-66b": 0.005,
    "openai/gpt3-175b": 0.0025,
    "FacebookAI/roberta-base": 0.0025,
    "FacebookAI/roberta-large": 0.0015,
    "stabilityai/stablelm-base-alpha-3b": 0.0005,
    "stabilityai/stablelm-base-alpha-7b": 0.0005,
    "google/gemma-3-4b-pt": 0.0005,
    "google/gemma-3-12b-pt": 0.0005,
    "google/gemma-3-27b-pt": 0.0005,
}


@pytest.mark.parametrize("name", architectures())
def test_a_preset_has_the_published_number_of_parameters(name):
    preset = find_architecture(name)
    counted = sum(p.numel() for p in any_model(configuration(ModelSpec(name=name))).parameters())
    assert counted == pytest.approx(preset.published_parameters, rel=ROUNDED.get(name, 0), abs=0)


def test_every_preset_says_where_it_is_from():
    assert all(len(a.source) > 20 and a.published_as for a in architectures().values())


def test_names_are_unique_and_found_in_any_case():
    words = [w.lower() for a in architectures().values() for w in (a.name, *a.aliases)]
    assert len(words) == len(set(words))
    assert (
        find_architecture("LLAMA-3.1-8b").name
        == find_architecture("meta-llama/llama-3.1-8B").name
        == "meta-llama/Llama-3.1-8B"
    )
    assert find_architecture("llama-9") is None
