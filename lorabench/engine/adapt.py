"""Attaches a method to a model: which modules are meant, and PEFT's configuration for them.

The groups all-linear, attention and mlp become names that PEFT takes, as short as they can be:
`q_proj` where every module of that name is meant, `attn.c_proj` where only some are (GPT-2 has a c_proj
in both halves of a block), and a regular expression where only the place tells (RoBERTa's output.dense).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from lorabench.config.settings import GROUPS, MethodSpec
from lorabench.engine.parameter_targets import peft_parameters, resolve_parameters
from lorabench.errors import ModelError, unknown
from lorabench.formatting import error_line

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


def linear_modules(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Full name to (in_features, out_features) of the linear layers that can be adapted: the output head is not one,
    and an image tower stays as it is."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    heads = {"score", "classifier", "qa_outputs"}
    language = language_model(model)
    inside = None if language is model else {id(module) for module in language.modules()}
    shapes = {}
    for name, module in model.named_modules():
        if module is head or name.split(".")[0] in heads or (inside is not None and id(module) not in inside):
            continue
        if isinstance(module, torch.nn.Linear) and not type(module).__name__.endswith("Router"):  # it returns a tuple
            shapes[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):  # GPT-2 stores weights (in, out)
            shapes[name] = (module.nx, module.nf)
    return shapes


def language_model(model: PreTrainedModel) -> PreTrainedModel:
    """The decoder of a model with an image tower, bare or adapted; the model itself where it has none."""
    if getattr(model.config, "vision_config", None) is None:
        return model
    bare: PreTrainedModel = getattr(model, "get_base_model", lambda: model)()
    return bare.get_decoder()


def odd_linear(model: PreTrainedModel) -> str | None:
    """The class of a model's linear layers where bitsandbytes cannot replace them, None where it can.

    transformers puts quantized layers in the place of torch.nn.Linear and Conv1D, not of classes derived from them:
    under its
    5.23 a quantized Falcon, whose layers are FalconLinear, loads without a word and is not quantized.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds = {type(model.get_submodule(name)) for name in linear_modules(model)}
    return None if not kinds or kinds & {torch.nn.Linear, Conv1D} else min(k.__name__ for k in kinds)


def resolve_targets(model: PreTrainedModel, target_modules: str | tuple[str, ...]) -> tuple[str, ...]:
    """The full names of the modules that target_modules means; ModelError where it means none.

    A group leaves out gates of a single output (Qwen2-MoE's shared_expert_gate), which have no low rank.
    """
    linear = linear_modules(model)
    if target_modules in GROUPS:
        linear = {name: sides for name, sides in linear.items() if min(sides) > 1}
    if target_modules == "all-linear":
        return tuple(linear)
    if target_modules in ("attention", "mlp"):
        inside = {n: any(p.isdigit() for p in n.split(".")) for n in linear}  # of a numbered layer, not a pooler
        chosen = tuple(n for n in linear if inside[n] and bool(_ATTENTION.search(n)) == (target_modules == "attention"))
        if not chosen:
            raise ModelError(
                f"the model has no linear modules that belong to {target_modules}; name them, or use all-linear"
            )
        return chosen
    names = (target_modules,) if isinstance(target_modules, str) else target_modules
    suffixes = sorted({n.rpartition(".")[2] for n in linear})
    for name in names:
        if not any(_ends(full, name) for full in linear):
            raise ModelError(unknown("target module", name, [*GROUPS, *suffixes]))
    return tuple(full for full in linear if any(_ends(full, name) for name in names))


def _ends(full: str, suffix: str) -> bool:
    return full == suffix or full.endswith("." + suffix)


def peft_targets(model: PreTrainedModel, targets: tuple[str, ...]) -> list[str] | str:
    """The shortest names (or a regular expression) by which PEFT finds exactly these modules."""
    everything = [n for n, _ in model.named_modules() if n]
    chosen = set(targets)
    short: set[str] = set()
    for full in targets:
        parts = full.split(".")
        for length in range(1, len(parts) + 1):
            suffix = ".".join(parts[-length:])
            if all(n in chosen for n in everything if _ends(n, suffix)):
                short.add(suffix)
                break
    if not any(part.isdigit() for s in short for part in s.split(".")):
        return sorted(short)
    patterns = sorted(
        {
            re.sub(r"(?<![^.])\d+(?![^.])", r"\\d+", re.escape(n).replace(r"\.", ".")).replace(".", r"\.")
            for n in targets
        }
    )
    pattern = rf"(?:{'|'.join(patterns)})"
    if {n for n in everything if re.fullmatch(pattern, n)} == chosen:
        return pattern
    return sorted(targets)


def is_adapter(parameter: str) -> bool:
    """Whether a parameter belongs to an adapter, by its full name in a PeftModel."""
    return "lora_" in parameter


def attach_lora(
    model: PreTrainedModel,
    spec: MethodSpec,
    targets: list[str] | str,
    *,
    use_dora: bool = False,
    use_rslora: bool = False,
    init_lora_weights: Literal[True, "pissa"] = True,
) -> PeftModel:
    """PEFT's PeftModel with LoRA layers of a variant; ModelError where PEFT cannot adapt these modules."""
    import peft

    assert spec.rank is not None and spec.alpha is not None  # such methods keep theirs
    config = peft.LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # PEFT divides it by the rank, so any number does
        lora_dropout=spec.dropout or 0.0,
        target_modules=targets,
        target_parameters=peft_parameters(resolve_parameters(model, spec.target_parameters)),
        task_type="SEQ_CLS" if type(model).__name__.endswith("ForSequenceClassification") else "CAUSAL_LM",
        fan_in_fan_out=_is_transposed(model),
        use_dora=use_dora,
        use_rslora=use_rslora,
        init_lora_weights=init_lora_weights,
    )
    refuse_misread(model, targets)
    try:
        return peft.get_peft_model(model, config)
    except (ValueError, TypeError, NotImplementedError) as e:
        if mamba := re.search(r"'(\w+)' is incompatible with Mamba", str(e)):
            raise ModelError(
                f"PEFT cannot adapt {mamba[1]} of a {model.config.model_type} model, whose kernel reads that "
                "weight directly, bypassing the module; allowed: target_modules without it, such as [in_proj]"
            ) from e
        raise ModelError(f"PEFT cannot attach {spec.name} to this model: {error_line(e)}") from e


def refuse_misread(model: PreTrainedModel, targets: list[str] | str) -> None:
    """ModelError where PEFT would adapt other weights than the modules of these names (as `peft_targets` gives them).

    PEFT 0.21 takes the names gate_proj, up_proj and down_proj of some mixtures (DeepSeek, GLM, ...) for those of their
    experts under
    transformers 4: it adapts the stacks of experts, of other ranks, and leaves out the shared experts and dense layers
    that were meant.
    """
    import peft
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = peft.LoraConfig(target_modules=targets)
    try:
        convert_peft_config_for_transformers(config, model=model, conversions=None)
        if not config.target_parameters:
            return
        adapted = {n for n in linear_modules(model) if any(_ends(n, t) for t in config.target_modules or ())}
    except ValueError:  # only some of the fused names
        adapted = set()
    missed = sorted({n.rpartition(".")[2] for n in linear_modules(model) if n not in adapted} & _names_in(targets))
    raise ModelError(
        f"PEFT takes {', '.join(missed) or 'these modules'} of a {model.config.model_type} model for its "
        "experts (which had these names in transformers 4), and would adapt those instead of the modules that you "
        "mean; allowed: target_modules: attention, or names without these"
    )


def _names_in(targets: list[str] | str) -> set[str]:
    words = re.findall(r"\w+", targets) if isinstance(targets, str) else [t.rpartition(".")[2] for t in targets]
    return set(words)


def _is_transposed(model: PreTrainedModel) -> bool:
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(m, Conv1D) for m in model.modules())
