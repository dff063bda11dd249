"""An adapter that is damaged, dangerous, of another kind or at odds with its configuration is one sentence."""

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorabench.errors import ModelError
from lorabench.spectra.adapter import Adapter
from lorabench.spectra.files import Weights
from lorabench.spectra.tensor_file import TensorFile
from tests.spectra.conftest import peft_adapter


class Bomb:
    """What a malicious pickle runs when it is loaded without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("save", ["torch", "plain", "legacy"])
def test_a_pickle_with_code_is_refused_and_runs_nothing(save, tmp_path):
    planted, file = tmp_path / "it-ran", tmp_path / "adapter_model.bin"
    state = {"x.lora_A.weight": torch.zeros(2, 4), "x.lora_B.weight": Bomb(planted)}
    if save == "plain":
        file.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=save == "torch")
    with pytest.raises(ModelError) as e:
        Adapter(file)
    assert not planted.exists()
    assert "more than tensors" in str(e.value)
    assert "\n" not in str(e.value)
    torch.load(file, weights_only=False) if save != "plain" else pickle.loads(file.read_bytes())
    assert planted.exists(), "the bomb is a real one"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("keep", [0, 7, 40, 0.5, 0.99])
def test_a_cut_off_file_is_one_sentence(name, keep, tmp_path):
    _, _, folder = peft_adapter(tmp_path / "whole")
    if name.endswith(".bin"):
        torch.save(load_file(folder / "adapter_model.safetensors"), folder / name)
        (folder / "adapter_model.safetensors").unlink()
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ModelError) as e:
        list(Adapter(folder).deltas())
    assert str(folder / name) in str(e.value)
    assert "\n" not in str(e.value)


def planted(**tensors):
    return {k.replace("__", "."): v for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            planted(x__lora_A__weight=torch.ones(4, 8), x__lora_B__weight=torch.ones(8, 3)),
            "lora_A is 4 x 8 and lora_B is 8 x 3; the rows of A must be the columns of B",
        ),
        (planted(x__lora_A__weight=torch.ones(4, 8)), "x has no lora_B; the file is incomplete"),
        (planted(x__lora_B__weight=torch.ones(4, 8)), "x has no lora_A; the file is incomplete"),
        (
            planted(x__lora_A__weight=torch.ones(4), x__lora_B__weight=torch.ones(8, 4)),
            "a matrix of floating-point numbers is needed",
        ),
        (
            planted(x__lora_A__weight=torch.ones(4, 8, dtype=torch.int32), x__lora_B__weight=torch.ones(8, 4)),
            "of int32; a matrix of floating-point",
        ),
        (
            planted(x__lora_A__weight=torch.full((4, 8), float("nan")), x__lora_B__weight=torch.ones(8, 4)),
            "not finite; the training diverged",
        ),
        (planted(x__weight=torch.ones(4, 8)), "holds no LoRA factors (its tensors: x.weight"),
        (
            planted(x__lora_A__one__weight=torch.ones(4, 8), x__lora_B__two__weight=torch.ones(8, 4)),
            "holds several adapters (one, two)",
        ),
    ],
)
def test_wrong_shapes_and_contents_are_one_sentence(state, words, tmp_path):
    save_file(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError) as e:
        list(Adapter(tmp_path).deltas())
    assert words in str(e.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "is not a PEFT configuration"),
        ('{"peft_type": "IA3"}', "the adapter's type is IA3"),
        ('{"r": 8, "lora_alpha": "much"}', "lora_alpha is 'much'; a positive number is needed"),
        ('{"r": 16, "lora_alpha": 8}', "has rank 4, adapter_config.json says 16"),
        ('{"r": 4, "rank_pattern": {"q_proj": 3}}', "has rank 4, adapter_config.json says 3"),
        ('{"r": 4, "lora_alpha": 0}', "lora_alpha is 0; a positive number is needed"),
        ('{"r": 4, "lora_alpha": NaN}', "lora_alpha is nan; a positive number is needed"),
        ('{"r": 4, "lora_alpha": 1e400}', "lora_alpha is inf; a positive number is needed"),
        ('{"r": 4, "alpha_pattern": {"q": null}}', "alpha_pattern of q is None"),
        ('{"r": 4, "alpha_pattern": [1]}', "a mapping of module names to numbers is needed"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_one_sentence(config, words, tmp_path):
    _, _, folder = peft_adapter(tmp_path)
    (folder / "adapter_config.json").write_text(config)
    with pytest.raises(ModelError) as e:
        list(Adapter(folder).deltas())
    assert words in str(e.value)


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ModelError, match=r"not a file of tensors; allowed: .safetensors"):
        TensorFile(tmp_path / "a.txt")
    with pytest.raises(ModelError, match="there is no file"):
        TensorFile(tmp_path / "b.bin")
    torch.save([1, 2], tmp_path / "c.bin")
    with pytest.raises(ModelError, match="holds no named tensors"):
        TensorFile(tmp_path / "c.bin").names()
    with pytest.raises(ModelError, match="no weights"):
        Weights(tmp_path)
