"""What a cell asks a card for is its prediction, whole or over several cards."""

import pytest

from lorabench.config.settings import MethodSpec, ModelSpec, QuantizationSpec, TrainingSpec
from lorabench.memory import predict_cell
from lorabench.memory.estimate import CONTEXT_BYTES, predicted
from lorabench.memory.interpolate import Reuse
from lorabench.memory.sharding import Sharding
from lorabench.memory.shares import shares_of
from lorabench.memory.train_config import TrainConfig
from tests.engine.conftest import cell_of

LORA = MethodSpec(rank=4)
FULL = MethodSpec(name="full", rank=None, alpha=None, dropout=None, target_modules=None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A configuration without weights, of 0.5B parameters: beside it a CUDA context is small."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("wide")
    LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=6, num_attention_heads=16, vocab_size=32000
    ).save_pretrained(folder)
    return ModelSpec(name=str(folder))


@pytest.fixture(scope="module")
def setting(model):
    def of(method):
        training = TrainingSpec(batch_size=2, sequence_length=64)
        return TrainConfig(model, QuantizationSpec(), method, training, "cuda")

    return of


def test_the_bytes_of_a_need_are_the_high_end_of_the_prediction_and_the_base_counts_once(setting):
    need = predict_cell._card_need(setting(LORA), Reuse(), 10**12)
    prediction = predicted(setting(LORA), Reuse())
    assert need.bytes() == prediction.high_bytes
    assert need.shared_bytes == prediction.bytes["weights"]
    assert need.bytes(3) == need.bytes() + 2 * (prediction.high_bytes - CONTEXT_BYTES - prediction.bytes["weights"])
    assert predict_cell._card_need(setting(LORA), Reuse(), 2 * need.bytes()).share() == 0.5


def test_full_fine_tuning_that_one_card_does_not_hold_gets_the_fewest_that_do(setting):
    alone = predicted(setting(FULL), Reuse()).high_bytes
    two = predicted(setting(FULL), Reuse(), shares_of(setting(FULL), Sharding("fsdp", 2))).high_bytes
    four = predicted(setting(FULL), Reuse(), shares_of(setting(FULL), Sharding("fsdp", 4))).high_bytes
    assert four < two < alone
    cards = [predict_cell._card_need(setting(FULL), Reuse(), card).cards for card in (alone, alone - 1, two - 1, 1)]
    assert cards == [1, 2, 4, predict_cell.MOST_CARDS]
    assert predict_cell._card_need(setting(LORA), Reuse(), 1).cards == 1  # an adapter's base is not sharded


def test_a_cpu_has_no_cards_to_be_shared():
    assert predict_cell.card_needs((cell_of(),)) == {}
