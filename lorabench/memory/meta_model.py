"""The adapted model on the meta device, as transformers, bitsandbytes and PEFT leave it on a real one.

transformers' own quantizer decides which modules are quantized; the packed weights and constants that bitsandbytes
would make are put in their place by shape. PEFT attaches the method as it does in a cell.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from lorabench import plugins
from lorabench.config.architectures import architectures, find_architecture
from lorabench.config.checkpoint import declared_quantization, local_folder, refusal
from lorabench.config.paths import model_directory
from lorabench.config.settings import ModelSpec, QuantizationSpec
from lorabench.config.trainer import OWN
from lorabench.engine.adapt import peft_targets, resolve_targets
from lorabench.engine.library_messages import quiet
from lorabench.engine.model import load_config
from lorabench.errors import LorabenchError, ModelError, UnpredictableError
from lorabench.memory import trainer_step
from lorabench.memory.loading import BLOCK_4BIT, BLOCK_CONSTANTS, held_beyond

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from lorabench.memory.train_config import TrainConfig

TRACING = threading.RLock()
"""held while a model is built or a step traced: libraries' default dtype and replaced functions are process-wide"""


def configuration(model: ModelSpec) -> PretrainedConfig:
    """transformers' configuration: of the directory or of the hub's local copy, else of a preset, which needs no
    network, else of the hub id itself."""
    preset = None if local_folder(model.name, model.revision) else find_architecture(model.name)
    if preset is None:
        _check_name(model)
        with explained(f"the configuration of {model.name} is not one that transformers accepts"):
            config = load_config(model)
        layers = getattr(config.get_text_config(), "num_hidden_layers", None)
        if layers is not None and layers < 1:
            raise ModelError(f"{model.name} has {layers} layers according to its configuration; at least 1 is needed")
        return config
    from transformers import AutoConfig

    fields = dict(preset.config)
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns whatever a library raises at a configuration (a rope it does not know, sides that do not divide) into one
    sentence."""
    try:
        yield
    except LorabenchError:
        raise
    except Exception as e:
        reason = " ".join(str(e.args[0] if isinstance(e, KeyError) and e.args else e).split())[:200] or type(e).__name__
        if isinstance(e, KeyError) and " " not in reason:
            reason = f"{reason} is not a value that transformers knows there (for rope_type, hidden_act, ...)"
        raise ModelError(f"{what}: {reason}; check its config.json, or download it again") from None


def _check_name(model: ModelSpec) -> None:
    """ModelError with the nearest preset where a name that is no path and no hub id is close to one."""
    if "/" in model.name or model_directory(model.name) is not None:
        return
    names = [word for a in architectures().values() for word in (a.name, *a.aliases)]
    near = difflib.get_close_matches(model.name.lower(), names, n=1, cutoff=0.8)
    if near and local_folder(model.name, model.revision) is None:
        raise ModelError(
            f"unknown model '{model.name}'; did you mean '{near[0]}'? allowed: a preset, a shipped model, a directory,"
            " or a hub id such as org/name"
        )


def with_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The configuration of the same model with the first so many layers."""
    short = copy.deepcopy(config)
    text = short.get_text_config()
    text.num_hidden_layers = layers
    for field in ("layer_types", "mlp_layer_types"):
        try:
            if getattr(text, field, None):
                setattr(text, field, getattr(text, field)[:layers])
        except AttributeError:  # a derived one, which follows the number of layers by itself
            pass
    if getattr(text, "cross_attention_layers", None):
        text.cross_attention_layers = [n for n in text.cross_attention_layers if n < layers]
    return short


def has_tower(config: PretrainedConfig) -> bool:
    """Whether a model has an image tower beside its language model."""
    return getattr(config, "vision_config", None) is not None


def build(config: PretrainedConfig, dtype: torch.dtype, trust_remote_code: bool = False) -> PreTrainedModel:
    """The bare model on the meta device; of a multimodal one the whole, as its trainers load it."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    whole = has_tower(config) and type(config) in AutoModelForImageTextToText._model_mapping
    maker = AutoModelForImageTextToText if whole else AutoModelForCausalLM
    if type(config) not in maker._model_mapping and not trust_remote_code:
        raise UnpredictableError(f"{config.model_type} is not a causal language model that transformers knows")
    kind = maker._model_mapping.get(type(config), None)
    if config._attn_implementation == "sdpa" and not getattr(kind, "_supports_sdpa", True):
        raise ModelError(
            f"transformers has neither sdpa nor flash attention by torch for {config.model_type}; take --attention"
            " eager, its default"
        )
    with (
        TRACING,
        torch.device("meta"),
        quiet(),
        explained(f"a model of type {config.model_type} cannot be built from its configuration"),
    ):
        model = maker.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    model.config.use_cache = False
    return model.requires_grad_(False)


def any_model(config: PretrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model of any kind on the meta device, to be counted: causal, sequence to sequence, or bare."""
    import transformers as t

    with (
        TRACING,
        torch.device("meta"),
        quiet(),
        explained(f"a model of type {config.model_type} cannot be built from its configuration"),
    ):
        whole = (t.AutoModelForImageTextToText,) if has_tower(config) else ()
        for maker in (*whole, t.AutoModelForCausalLM, t.AutoModelForSeq2SeqLM, t.AutoModelForMaskedLM, t.AutoModel):
            if type(config) in maker._model_mapping:
                return maker.from_config(config, trust_remote_code=trust_remote_code)
    raise ModelError(f"transformers has no model for configurations of type {config.model_type}")


def adapted(
    setting: TrainConfig, config: PretrainedConfig, dtype: torch.dtype, compute_dtype: torch.dtype
) -> PreTrainedModel:
    """The model of a setting: built, quantized, with its method attached, in training mode."""
    trainer_step.set_attention(config, setting.trainer)
    stored = declared_quantization(config.to_dict())
    packed_here = setting.quantization.name != "none" and stored is None and setting.device == "cuda"
    model = quantized(build(config, dtype, setting.model.trust_remote_code), setting.quantization, dtype, compute_dtype)
    if packed_here and setting.trainer.name not in (OWN, "torchtune"):  # torchtune quantizes by torchao
        remainder = held_beyond(model, setting.shape.config.get_text_config().num_hidden_layers)
        model.register_buffer("allocator_remainder", remainder, persistent=False)
    modules = setting.method.target_modules
    targets = resolve_targets(model, modules) if modules is not None else ()
    with torch.device("meta"), quiet():
        model = trainer_step.prepared(setting, model)
        model = plugins.load("methods", setting.method.name).attach(
            model, setting.method, peft_targets(model, targets) if targets else []
        )
    return trainer_step.with_adapter_dtype(setting, model, dtype).train()


def quantized(
    model: PreTrainedModel, quantization: QuantizationSpec, dtype: torch.dtype, compute_dtype: torch.dtype
) -> PreTrainedModel:
    """bitsandbytes' modules in place of the linear ones, with weights that have its storage and no bytes; the model as
    it is for `none`.

    A checkpoint that is stored quantized keeps its own form, skipped modules included. ModelError where that form is
    not read.
    """
    own = declared_quantization(model.config.to_dict())
    if own is not None and not own.readable:
        raise ModelError(refusal(model.config.name_or_path or model.config.model_type, own))
    if own is None:
        config = plugins.load("quantizations", quantization.name).config(quantization.double_quant, compute_dtype)
    else:
        declared = model.config.quantization_config
        plainly = declared if isinstance(declared, dict) else declared.to_dict()
        config = {
            **plainly,
            "bnb_4bit_compute_dtype": str(compute_dtype).removeprefix("torch."),
        }  # as the engine loads it
    if config is None:
        return model
    import bitsandbytes as bnb
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=own is not None)
    with torch.device("meta"), quiet():
        quantizer.preprocess_model(model=model, device_map={"": "cpu"}, dtype=dtype)
        for module in model.modules():
            if isinstance(module, bnb.nn.Linear4bit):
                _pack_4bit(module, dtype)
            elif isinstance(module, bnb.nn.Linear8bitLt):
                _pack_8bit(module)
            else:
                continue
            if module.bias is not None:  # made in float32, loaded in the model's dtype
                module.bias = torch.nn.Parameter(_new(*module.bias.shape, dtype=dtype), requires_grad=False)
        quantizer.postprocess_model(model)
    return model.requires_grad_(False)


def _pack_4bit(module: Any, dtype: torch.dtype) -> None:
    import bitsandbytes as bnb
    from bitsandbytes.functional import QuantState

    shape, kind, nested = module.weight.shape, module.weight.quant_type, module.weight.compress_statistics
    blocks = -(-shape.numel() // BLOCK_4BIT)
    outer = None
    if nested:
        outer = QuantState(
            absmax=_new(-(-blocks // BLOCK_CONSTANTS)), code=_new(256), blocksize=BLOCK_CONSTANTS, dtype=torch.float32
        )
    state = QuantState(
        absmax=_new(blocks, dtype=torch.uint8 if nested else torch.float32),
        shape=torch.Size(shape),
        code=_new(16),
        blocksize=BLOCK_4BIT,
        quant_type=kind,
        dtype=dtype,
        offset=_new() if nested else None,
        state2=outer,
    )
    packed = _new((shape.numel() + 1) // 2, 1, dtype=torch.uint8)
    module.weight = bnb.nn.Params4bit(
        packed,
        requires_grad=False,
        quant_state=state,
        blocksize=BLOCK_4BIT,
        compress_statistics=nested,
        quant_type=kind,
        quant_storage=torch.uint8,
        module=module,
        bnb_quantized=True,
    )
    module.quant_state = state


def _pack_8bit(module: Any) -> None:
    import bitsandbytes as bnb

    shape = module.weight.shape
    rows, constants = _new(*shape, dtype=torch.int8), _new(shape[0])
    module.weight = bnb.nn.Int8Params(rows, requires_grad=False, has_fp16_weights=False, CB=rows, SCB=constants)


def _new(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
