"""Counted parameters are PEFT's own, and the papers'."""

import peft
import pytest
import torch

from lorabench.config.architectures import architectures, find_architecture
from lorabench.config.settings import ModelSpec
from lorabench.engine.adapt import peft_targets, resolve_targets
from lorabench.errors import LorabenchError
from lorabench.memory.meta_model import any_model, configuration, with_layers
from lorabench.memory.parameters import count_parameters
from lorabench.memory.step_profile import predict_step
from lorabench.memory.validate import setting_from


@pytest.mark.parametrize(
    ("targets", "rank", "millions"),
    [
        (("v_proj",), 2, 4.7),
        (("q_proj", "v_proj"), 1, 4.7),
        (("q_proj", "v_proj"), 2, 9.4),
        (("q_proj", "k_proj", "v_proj", "out_proj"), 1, 9.4),
        (("q_proj", "v_proj"), 8, 37.7),
        (("q_proj", "k_proj", "v_proj", "out_proj"), 8, 75.5),
        (("q_proj", "v_proj"), 64, 301.9),
        (("q_proj", "k_proj", "v_proj", "out_proj"), 64, 603.8),
    ],
)
def test_gpt3s_counts_are_those_of_the_lora_paper(targets, rank, millions):
    """Hu et al. 2021, tables 5, 6 and 15. Some figures there are cut off, not rounded (37.75 is printed 37.7, 301.99 is
    301.9), and 603.98 is twice the latter, 603.8."""
    (count,) = count_parameters(ModelSpec(name="gpt3-175b"), [rank], targets)
    assert count.trainable_parameters / 1e6 == pytest.approx(millions, abs=0.1 if millions < 600 else 0.2)


def test_the_papers_35_mb_adapter():
    (count,) = count_parameters(ModelSpec(name="gpt3-175b"), [4], ("q_proj", "v_proj"))
    assert count.adapter_bytes(2) == pytest.approx(35e6, rel=0.09)  # 37.7 MB; 36 MiB


@pytest.mark.parametrize(
    "name",
    [
        "llama-3.2-1b",
        "gpt2",
        "pythia-70m",
        "qwen3-0.6b",
        "gemma-2-2b",
        "phi-1.5",
        "opt-125m",
        "bloom-560m",
        "falcon-7b",
        "gpt-j",
    ],
)
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_counts_are_pefts_own(name, method, monkeypatch):
    config = with_layers(configuration(ModelSpec(name=name)), 2)
    with torch.device("meta"):
        model = peft.get_peft_model(
            any_model(config),
            peft.LoraConfig(r=8, target_modules="all-linear", use_dora=method == "dora", task_type="CAUSAL_LM"),
        )
    monkeypatch.setattr("lorabench.memory.model_shape.configuration", lambda spec: config)
    (count,) = count_parameters(ModelSpec(name=name), [8], "all-linear", method)
    trainable, everything = model.get_nb_trainable_parameters()
    assert (count.trainable_parameters, count.base_parameters + count.trainable_parameters) == (trainable, everything)


def smallest_of_each_type():
    """The preset of each model type with the fewest parameters; of DeepSeek's PEFT would adapt the experts."""
    by_size = sorted(architectures().values(), key=lambda a: -a.published_parameters)
    found = {a.config["model_type"]: a.name for a in by_size}
    return sorted(name for kind, name in found.items() if not kind.startswith("deepseek"))


@pytest.mark.slow
@pytest.mark.parametrize("name", smallest_of_each_type())
def test_counts_are_pefts_own_on_a_preset_of_each_type_whole_and_for_every_method(name):
    """Total and trainable parameters of PEFT's model on the meta device, all layers; bare models of what is no causal
    language model."""
    config = configuration(ModelSpec(name=name))
    for method, variant in {
        "lora": {},
        "rslora": {"use_rslora": True},
        "dora": {"use_dora": True},
        "pissa": {},
    }.items():  # PiSSA differs in the start alone, which needs weights
        with torch.device("meta"):
            bare = any_model(config)
            model = peft.get_peft_model(
                bare,
                peft.LoraConfig(r=8, target_modules=peft_targets(bare, resolve_targets(bare, "all-linear")), **variant),
                low_cpu_mem_usage=True,
            )
        trainable, everything = model.get_nb_trainable_parameters()
        (count,) = count_parameters(ModelSpec(name=name), [8], "all-linear", method)
        assert (count.trainable_parameters, count.base_parameters + count.trainable_parameters) == (
            trainable,
            everything,
        ), method
    if not find_architecture(name).parameters_only:
        step = predict_step(
            setting_from({"model": name, "method": {"name": "dora", "rank": 8}, "training": {"sequence_length": 16}})
        )
        (count,) = count_parameters(ModelSpec(name=name), [8], "all-linear", "dora")
        assert (step.trainable_parameters, step.total_parameters) == (
            count.trainable_parameters,
            count.base_parameters + count.trainable_parameters,
        )


@pytest.mark.parametrize(
    ("method", "words"),
    [("foo", "unknown method 'foo'"), ("full", "method full has no rank: it trains all 124,439,808 parameters")],
)
def test_a_method_without_ranks_is_told(method, words):
    with pytest.raises(LorabenchError, match=words):
        count_parameters(ModelSpec(name="gpt2"), [8], "all-linear", method)
