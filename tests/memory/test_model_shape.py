"""A model's configuration is made once and travels with every setting of the model."""

import pickle

import pytest
from transformers import AutoConfig

from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.memory.card_planner import CardPlanner
from lorabench.memory.model_shape import ModelShape
from lorabench.memory.train_config import TrainConfig
from lorabench.workflows.recommend import recommend


@pytest.fixture
def configurations(monkeypatch):
    """The model types of the configurations that were made of presets."""
    types, make = [], AutoConfig.for_model

    def counted(model_type, *args, **fields):
        types.append(model_type)
        return make(model_type, *args, **fields)

    monkeypatch.setattr(AutoConfig, "for_model", counted)
    return types


def test_one_recommendation_makes_one_configuration(configurations, monkeypatch):
    monkeypatch.setattr(CardPlanner, "prefetch", lambda self, settings: None)  # all traces in this process
    recommend("smollm2-135m", "24GB", 64, batch_size=2)
    assert configurations == ["llama"]


def test_a_setting_that_is_changed_or_sent_to_another_process_keeps_its_configuration(configurations):
    setting = TrainConfig(
        ModelSpec(name="smollm2-135m"), QuantizationSpec(), MethodSpec(), TrainingSpec(sequence_length=64), "cuda"
    )
    assert setting.shape.positions == 8192
    for other in (setting.trained(batch_size=2), pickle.loads(pickle.dumps(setting))):
        assert other.shape.config.num_hidden_layers == 30
    assert configurations == ["llama"]


def test_a_setting_of_another_model_has_another_shape():
    one = TrainConfig(ModelSpec(name="smollm2-135m"), QuantizationSpec(), MethodSpec(), TrainingSpec(), "cuda")
    other = TrainConfig(
        ModelSpec(name="llama-2-7b"), QuantizationSpec(), MethodSpec(), TrainingSpec(), "cuda", shape=one.shape
    )
    assert other.shape == ModelShape(ModelSpec(name="llama-2-7b")) != one.shape
