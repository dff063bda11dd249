"""Every preset has the parameters that its source publishes, and every name means the model that it says."""

import re
import subprocess
import sys

import pytest

from lorabench.commands.catalogue_text import models
from lorabench.config.architectures import architectures, find_architecture, near_names
from lorabench.config.checkpoint import stored_quantization
from lorabench.config.settings import ModelSpec
from lorabench.memory.meta_model import any_model, configuration

ROUNDED = {  # how far a source's own rounding is from the configuration, where it prints no exact count
    "microsoft/deberta-v2-xxlarge": 0.05,
    "google-t5/t5-3b": 0.02,
    "google-t5/t5-11b": 0.03,
    "openai/gpt3-6.7b": 0.007,
    "facebook/opt-6.7b": 0.007,
    "facebook/opt-13b": 0.012,
    "facebook/opt-30b": 0.001,
    "facebook/opt-66b": 0.005,
    "deepseek-ai/deepseek-llm-67b-base": 0.007,
    "mistralai/Mistral-Small-Instruct-2409": 0.0025,
    "openai/gpt3-175b": 0.0025,
    "FacebookAI/roberta-base": 0.0025,
    "FacebookAI/roberta-large": 0.0015,
    "stabilityai/stablelm-base-alpha-3b": 0.0005,
    "stabilityai/stablelm-base-alpha-7b": 0.0005,
    "deepseek-ai/DeepSeek-V3": 0.0005,
}


PRINTED = {  # how far the figure that a source prints is from its own weights, beyond 1.5 % or a unit of its last digit
    "openai-community/gpt2-xl": 0.04,
    "microsoft/phi-1_5": 0.10,
    "facebook/opt-350m": 0.06,
    "google-t5/t5-large": 0.05,
    "tiiuae/falcon-40b": 0.035,
}
NEW_FAMILIES = [
    *("llama", "mistral", "gemma", "gemma2", "gemma3_text", "gemma3", "qwen2", "qwen3", "qwen2_vl", "qwen2_5_vl"),
    *("mllama", "mistral3", "phi3", "phimoe", "smollm3", "olmo", "olmo2", "olmo3", "olmoe", "granite", "granitemoe"),
    *("starcoder2", "gpt_oss", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "stablelm"),
]


def smallest_of_each_type():
    """The preset of each model type with the fewest parameters."""
    by_size = sorted(architectures().values(), key=lambda a: -a.published_parameters)
    return sorted({a.config["model_type"]: a.name for a in by_size}.values())


def agrees(name):
    preset = find_architecture(name)
    counted = sum(p.numel() for p in any_model(configuration(ModelSpec(name=name))).parameters())
    assert counted == pytest.approx(preset.published_parameters, rel=ROUNDED.get(name, 0), abs=0)


@pytest.mark.parametrize("name", smallest_of_each_type())
def test_a_preset_of_each_type_has_the_published_number_of_parameters(name):
    agrees(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures())
def test_a_preset_has_the_published_number_of_parameters(name):
    agrees(name)


@pytest.mark.parametrize("name", architectures())
def test_the_exact_count_is_the_figure_that_the_source_prints(name):
    preset = architectures()[name]
    figure, unit = re.match(r"([\d,.]+)\s*(B|M|billion|million)?", preset.published_as).groups()
    times = {"B": 1e9, "billion": 1e9, "M": 1e6, "million": 1e6, None: 1}[unit]
    last_digit = times / 10 ** len(figure.partition(".")[2])
    printed = float(figure.replace(",", "")) * times
    share = PRINTED.get(name, 0.015)
    assert preset.published_parameters == pytest.approx(printed, rel=share, abs=last_digit)


OPENED = re.compile(r"\b(litgpt|llmfit|llm-analysis|keras-hub|transformers) \d|config\.json|README\.md")


@pytest.mark.parametrize("name", architectures())
def test_a_source_names_a_text_that_was_opened_or_says_that_none_was(name):
    preset = architectures()[name]
    assert preset.published_as
    assert OPENED.search(preset.source) or "recalled, not opened; only the parameter count agrees" in preset.source
    assert preset.confirmed is not ("recalled" in preset.source)


def test_more_than_three_hundred_names_have_shapes_that_an_opened_text_states():
    assert sum(len(a.ids) for a in architectures().values() if a.confirmed) > 300


@pytest.mark.parametrize("name", [a.name for a in architectures().values() if not a.confirmed])
def test_a_shape_from_memory_is_marked_where_models_are_listed(name):
    assert "a shape written from memory, checked only against its published number of parameters" in models(name)


def test_a_shape_that_a_text_states_has_no_such_mark():
    assert "from memory" not in models("qwen2.5 7b instruct")


def test_two_image_sizes_give_the_difference_between_the_two_counts_of_the_hub():
    base, instruct = (find_architecture(f"Llama-3.2-11B-Vision{end}") for end in ("", "-Instruct"))
    patches = [(a.config["vision_config"]["image_size"] // 14) ** 2 for a in (base, instruct)]
    per_patch = 1280 + (8 + 1) * 4 * 1280  # its own position, and one in each of 4 tiles for 8 aspect ratios and none
    assert instruct.published_parameters - base.published_parameters == (patches[1] - patches[0]) * per_patch


def test_base_models_of_granite_lack_the_rows_that_chat_added():
    rows = {v: find_architecture(f"granite-{v}").config["vocab_size"] for v in ("3.1-8b-base", "3.1-8b-instruct")}
    assert rows == {"3.1-8b-base": 49152, "3.1-8b-instruct": 49155}


def test_names_are_unique_and_found_in_any_case():
    words = [w.lower() for a in architectures().values() for w in (*a.ids, *a.aliases)]
    assert len(words) == len(set(words))
    assert (
        find_architecture("LLAMA-3.1-8b").name
        == find_architecture("meta-llama/llama-3.1-8B").name
        == "meta-llama/Llama-3.1-8B"
    )
    assert find_architecture("llama-9") is None


def test_users_ask_for_more_than_a_hundred_and_fifty_names_in_all_families():
    assert len({one for a in architectures().values() for one in a.ids}) > 300
    assert set(NEW_FAMILIES) <= {a.config["model_type"] for a in architectures().values()}


@pytest.mark.parametrize(
    ("asked", "id"),
    [
        ("mistral-7b-instruct-v0.3", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-chat-hf"),
        ("llama-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf"),
        ("gemma-3-4b-it", "google/gemma-3-4b-it"),
        ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-8B-Base"),
        ("llama-3-8b-instruct", "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("mistral-nemo-instruct-2407", "mistralai/Mistral-Nemo-Instruct-2407"),
        ("mistral-small-24b-instruct-2501", "mistralai/Mistral-Small-24B-Instruct-2501"),
        ("CodeLlama-34b-Python-hf", "codellama/CodeLlama-34b-Python-hf"),
        ("granite 3.1 8b instruct", "ibm-granite/granite-3.1-8b-instruct"),
        ("deepseek-coder-6.7b-instruct", "deepseek-ai/deepseek-coder-6.7b-instruct"),
        ("SmolLM3-3B", "HuggingFaceTB/SmolLM3-3B"),
        ("NousResearch/Meta-Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("unsloth/gemma-2-9b-it", "google/gemma-2-9b-it"),
    ],
)
def test_a_variant_is_found_under_its_own_id(asked, id):
    assert find_architecture(asked).name == id


def test_a_variant_differs_where_its_checkpoint_does():
    positions = {n: find_architecture(n).config["max_position_embeddings"] for n in ("qwen3-8b", "Qwen/Qwen3-8B-Base")}
    assert positions == {"qwen3-8b": 40960, "Qwen/Qwen3-8B-Base": 32768}
    untied = find_architecture("DeepSeek-R1-Distill-Qwen-1.5B").config, find_architecture("qwen2.5-math-1.5b").config
    assert [c["tie_word_embeddings"] for c in untied] == [False, True]  # distilled from it, with a head of its own
    vocabularies = [
        find_architecture(f"CodeLlama-7b-{kind}").config["vocab_size"] for kind in ("Instruct-hf", "Python-hf")
    ]
    assert vocabularies == [32016, 32000]


def test_a_copy_in_4_bits_is_stored_quantised():
    stored = stored_quantization("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit")
    assert (stored.form, stored.double_quant) == ("nf4", True)
    assert stored_quantization("unsloth/Meta-Llama-3.1-8B-Instruct") is None


@pytest.mark.parametrize(
    "copy",
    [
        "unsloth/Qwen2.5-7B-Instruct-unsloth-bnb-4bit",  # some layers are left in 16 bits, which ones is not known
        "unsloth/Qwen3-30B-A3B-bnb-4bit",  # experts
        "unsloth/gemma-3-4b-it-bnb-4bit",  # a tower
        "unsloth/phi-4",  # rewritten as a Llama
        "unsloth/mistral-7b-instruct",  # a line's newest by our aliases, which the copy need not be
        "someone/Llama-3.1-8B",
        "Qwen/Qwen2.5-7B-Instruct-AWQ",
    ],
)
def test_a_copy_of_other_shapes_is_no_preset(copy):
    assert find_architecture(copy) is None
    assert near_names(copy)


def test_presets_are_read_without_the_heavy_arm():
    ran = "import sys; from lorabench.config.architectures import architectures; architectures();"
    heavy = subprocess.run(
        [sys.executable, "-c", ran + "print({'torch', 'transformers'} & set(sys.modules))"],
        capture_output=True,
        text=True,
    )
    assert heavy.stdout.strip() == "set()", heavy.stderr
