"""What training left, on disk and back: the adapter in PEFT's format, or all weights in transformers'.

    lora, rslora, dora    A, B (and magnitudes), onto the base as it was loaded
    pissa                 saved as plain LoRA of rank 2r on the unchanged base: A' = [A; A0], B' = [B, -B0] (PEFT's
                          conversion). Put together again
                          as it was trained: rank r on the residual W - scaling * B0 @ A0, which PEFT makes anew (the
                          same SVD on the same machine)
    full                  every weight, in the precision that it was trained in

So the model that comes back computes what the trained one did, bit for bit, and not only what is the same on paper.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lorabench import plugins
from lorabench.config.study import Cell
from lorabench.engine.adapt import attach_lora
from lorabench.engine.library_messages import quiet
from lorabench.engine.model import load_base
from lorabench.engine.weight_deltas import Factors, adapted_layers, start_factors
from lorabench.errors import ModelError
from lorabench.record.cell_files import ADAPTER, MODEL, make_readable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


START = "start"
"""folder with the first values of adapters that began from the base"""


def save_adapter(model: PreTrainedModel, folder: Path) -> int:
    """Writes what a method adds to the base; bytes on disk (of full fine-tuning those that its weights would take).

    `folder/start` holds the first values of adapters that began from the base (pissa), and is removed.
    """
    if not hasattr(model, "peft_config"):
        return sum(p.numel() * p.element_size() for p in model.parameters())
    target, start = folder / ADAPTER, folder / START
    with quiet():
        if start.exists():  # W + s (B A - B0 A0), so that it loads onto the unchanged base (PEFT's conversion)
            model.save_pretrained(target, path_initial_model_for_weight_conversion=str(start))
            shutil.rmtree(start)
        else:
            model.save_pretrained(target)
    (target / "README.md").unlink(missing_ok=True)  # PEFT's empty model card says nothing
    make_readable(target)
    return (target / "adapter_model.safetensors").stat().st_size


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a whole model with its tokenizer, so that AutoModelForCausalLM.from_pretrained reads it: under another
    name first, then renamed.
    """
    partial = folder / f"{MODEL}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    before = model.config.use_cache
    model.config.use_cache = True  # off only while it was trained
    try:
        with quiet():
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        model.config.use_cache = before
    make_readable(partial)
    shutil.rmtree(folder / MODEL, ignore_errors=True)
    partial.rename(folder / MODEL)


@torch.no_grad()
def restored(
    cell: Cell, base: PreTrainedModel, targets: list[str] | str, folder: Path
) -> tuple[PreTrainedModel, Factors]:
    """The trained model over its freshly loaded base, and the start of its adapters; ModelError where the weights were
    not saved or are another cell's.
    """
    method = plugins.load("methods", cell.method.name)
    if not cell.training.steps:
        return method.attach(base, cell.method, targets), {}
    if method.TRAINS_BASE:
        return _filled(method.attach(base, cell.method, targets), cell, folder), {}
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    if not (folder / ADAPTER / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"no adapter of this cell was kept ({folder / ADAPTER}); remove the cell's folder and run the "
            "study again with save.adapter: all"
        )
    weights = load_peft_weights(str(folder / ADAPTER), device="cpu")
    doubled, own = method.SAVED_RANKS == 2, weights
    model = method.attach(base, cell.method, targets)
    start = start_factors(model)
    if doubled:
        own = {n: t[: len(t) // 2] if ".lora_A." in n else t[:, : t.shape[1] // 2] for n, t in weights.items()}
        saved = _saved_start(model, weights)
        if any(
            not torch.equal(t, u)
            for name, pair in saved.items()
            for t, u in zip(pair, start.get(name, ()), strict=False)
        ):  # a SVD of another machine
            model, start = _on_residual(attach_lora(load_base(cell, base.device), cell.method, targets), saved), saved
    needed = get_peft_model_state_dict(model)
    if {n: t.shape for n, t in needed.items()} != {n: t.shape for n, t in own.items()}:
        raise ModelError(
            f"{folder / ADAPTER} holds modules or ranks other than those the cell trained; remove the cell's "
            "folder and run the study again"
        )
    set_peft_model_state_dict(model, {n: t.contiguous() for n, t in own.items()})
    return model, start


def _saved_start(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> Factors:
    """A0 and B0 of every adapted module, from the second halves of what PEFT's conversion wrote."""
    saved: Factors = {}
    for name, _ in adapted_layers(model):
        a, b = (weights.get(f"base_model.model.{name}.lora_{part}.weight") for part in "AB")
        if a is not None and b is not None:
            saved[name] = a[len(a) // 2 :].contiguous(), -b[:, b.shape[1] // 2 :].contiguous()
    return saved


def _on_residual(model: torch.nn.Module, start: Factors) -> torch.nn.Module:
    """Takes the start off the base's weights, as PEFT's pissa_init does; to the last digit where the base is in
    float32.
    """
    for name, layer in adapted_layers(model):
        a0, b0 = start[name]
        module = layer.get_base_layer()
        turned = bool(layer.fan_in_fan_out)
        whole = module.weight.data.to(torch.float32)
        left = (whole.T if turned else whole) - layer.scaling["default"] * b0.to(whole.device) @ a0.to(whole.device)
        left = left.to(module.weight.dtype)
        module.weight.data = left.T if turned else left
    return model


def _filled(model: PreTrainedModel, cell: Cell, folder: Path) -> PreTrainedModel:
    if not (folder / MODEL / "config.json").is_file():
        raise ModelError(
            "no weights of this full fine-tuning were kept; remove the cell's folder and run the study again "
            "with save.full: all"
        )
    spec = cell.model.model_copy(update={"name": str((folder / MODEL).resolve()), "revision": None})
    trained = load_base(
        cell.model_copy(update={"model": spec}), torch.device("cpu")
    )  # never two whole models on the device
    parameters, trained_parameters = dict(model.named_parameters()), dict(trained.named_parameters())
    if {n: p.shape for n, p in parameters.items()} != {n: p.shape for n, p in trained_parameters.items()}:
        raise ModelError(
            f"{folder / MODEL} is not the model that this cell trained; remove the cell's folder and run the "
            "study again"
        )
    for name, parameter in parameters.items():
        parameter.copy_(trained_parameters[name])
    return model
