"""Adapters trained on a live model without a study: those that may be packed together, the others one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorabench import plugins
from lorabench.config.adapter import AdapterSetting
from lorabench.config.packs import training_key
from lorabench.config.precision import is_large
from lorabench.config.settings import TrainingSpec
from lorabench.config.validity import takes_quantized_base
from lorabench.engine.adapt import peft_targets, resolve_targets
from lorabench.engine.batches import Layout
from lorabench.engine.checkpoint import StepRecord, TrainingProgress
from lorabench.engine.data import Example
from lorabench.engine.library_messages import quiet
from lorabench.engine.model import autocast_of
from lorabench.engine.packed import train_packed, unpackable
from lorabench.engine.packed_layers import AdapterStart, put
from lorabench.engine.saved import START, save_adapter
from lorabench.engine.train import CausalModel, Diverged, train
from lorabench.engine.weight_deltas import adapted_layers, start_factors
from lorabench.errors import DataError, LorabenchError, ModelError

Row = Mapping[str, Any]
"""input_ids, and labels where not every token is predicted (-100: not this one), as transformers' Trainer takes them"""


@dataclass(frozen=True)
class TrainedAdapter:
    """What became of one adapter.

    Example:
        >>> import lorabench as lb
        >>> lb.TrainedAdapter(lb.AdapterSetting(), None, (), "the loss was not finite at step 3", 4).loss is None
        True
    """

    setting: AdapterSetting
    folder: Path | None
    """with the adapter in PEFT's format; None where it diverged, whose weights are of no use"""
    curve: tuple[StepRecord, ...]
    """loss in nats per token, learning rate, gradient norm and seconds (of the pack) after each step"""
    diverged: str | None
    """at which step, and what is usually done"""
    pack: int
    """adapters that were trained at the same time, this one included"""

    @property
    def loss(self) -> float | None:
        """Mean training loss of the last tenth of the steps, nats per predicted token; None where it diverged."""
        if self.diverged is not None or not self.curve:
            return None
        last = self.curve[-max(1, len(self.curve) // 10) :]
        return math.fsum(s.loss for s in last) / len(last)


def train_adapters(
    model: CausalModel, settings: Sequence[AdapterSetting], rows: Sequence[Row], out: Path
) -> list[TrainedAdapter]:
    """Trains each setting on the rows and saves it under `out`; the model is as it was afterwards."""
    _refuse(model, settings, rows)
    by_length = {n: [_example(r, n, i) for i, r in enumerate(rows)] for n in {_length(s) for s in settings}}
    trained: dict[int, TrainedAdapter] = {}
    with _frozen(model):
        for pack in _packs(model, settings):
            examples = by_length[_length(settings[pack[0]])]
            if len(pack) > 1:
                trained |= _together(model, settings, pack, examples, out)
            else:
                trained[pack[0]] = _alone(model, settings[pack[0]], examples, out / str(pack[0]))
    return [trained[i] for i in range(len(settings))]


def _packs(model: CausalModel, settings: Sequence[AdapterSetting]) -> list[list[int]]:
    """Places of settings that train together; those that cannot are a pack of their own."""
    packs: dict[tuple[object, ...], list[int]] = {}
    reason = unpackable(model)
    for place, setting in enumerate(settings):
        key = training_key(setting.method, setting.training) if reason is None else None
        packs.setdefault(key or (None, place), []).append(place)
    return list(packs.values())


def _together(
    model: CausalModel, settings: Sequence[AdapterSetting], pack: Sequence[int], examples: list[Example], out: Path
) -> dict[int, TrainedAdapter]:
    starts = []
    for place in pack:
        with _attached(model, settings[place]) as adapted:
            starts.append(AdapterStart.of(adapted, settings[place].seed))
    specs = [settings[place].training.over(len(examples)) for place in pack]
    done = train_packed(
        model,
        starts,
        examples,
        specs,
        seeds=[settings[place].seed for place in pack],
        layout=_layout(model),
        where=model.device,
        autocast=_autocast(model, specs[0]),
    )
    results = {}
    for place, training in zip(pack, done, strict=True):
        folder = None
        if training.diverged is None:
            folder = out / str(place)
            with _attached(model, settings[place]) as adapted:
                put(adapted, training.factors)
                folder = _saved(adapted, folder)
        results[place] = _result(settings[place], folder, training.progress, training.diverged, len(pack))
    return results


def _alone(model: CausalModel, setting: AdapterSetting, examples: list[Example], folder: Path) -> TrainedAdapter:
    spec, progress, fault = setting.training.over(len(examples)), TrainingProgress(), None
    saved = None
    with _attached(model, setting) as adapted:
        if start_factors(adapted):  # pissa: its start is part of what is saved
            adapted.save_pretrained(folder / START)
        with torch.random.fork_rng(_devices(model)):
            torch.manual_seed(setting.seed)
            try:
                train(
                    adapted,
                    examples,
                    spec,
                    seed=setting.seed,
                    layout=_layout(model),
                    where=model.device,
                    autocast=_autocast(model, spec),
                    on_step=lambda step, tokens: progress.curve.append(step),
                )
                saved = _saved(adapted, folder)
            except Diverged as e:
                fault = e
    return _result(setting, saved, progress, fault, 1)


def _result(
    setting: AdapterSetting, folder: Path | None, progress: TrainingProgress, fault: Diverged | None, pack: int
) -> TrainedAdapter:
    return TrainedAdapter(setting, folder, tuple(progress.curve), None if fault is None else str(fault), pack)


def _saved(adapted: CausalModel, folder: Path) -> Path:
    """Writes the adapter itself into a folder, without one of its own in it."""
    save_adapter(adapted, folder)
    for file in (folder / "adapter").iterdir():
        file.replace(folder / file.name)
    (folder / "adapter").rmdir()
    return folder


@contextmanager
def _attached(model: CausalModel, setting: AdapterSetting) -> Iterator[CausalModel]:
    """PEFT's model with an adapter as its seed begins it; taken off afterwards, the base's weights as they were."""
    targets = resolve_targets(model, setting.method.target_modules or "all-linear")
    kept = {}
    if setting.method.name == "pissa":  # the only one that changes the base, by what it begins from
        kept = {name: model.get_submodule(name).weight.detach().clone() for name in targets}
    with torch.random.fork_rng(_devices(model)), quiet():
        torch.manual_seed(setting.seed)
        attach = plugins.load("methods", setting.method.name).attach
        adapted = attach(model, setting.method, peft_targets(model, targets))
    try:
        yield adapted
    finally:
        with quiet():
            adapted.unload()
        if hasattr(model, "peft_config"):
            del model.peft_config
        for name, weight in kept.items():
            model.get_submodule(name).weight.data.copy_(weight)


def _devices(model: CausalModel) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []


@contextmanager
def _frozen(model: CausalModel) -> Iterator[None]:
    """No parameter trainable and no cache of keys and values; both as before afterwards, as is the training mode."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    modes, cache = {module: module.training for module in model.modules()}, getattr(model.config, "use_cache", None)
    model.requires_grad_(False)
    model.config.use_cache = False
    try:
        yield
    finally:
        model.config.use_cache = cache
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, mode in modes.items():
            module.training = mode


def _example(row: Row, length: int, place: int) -> Example:
    ids = np.asarray(row["input_ids"], dtype=np.int32)
    labels = np.asarray(row.get("labels", ids))
    if ids.ndim != 1 or labels.shape != ids.shape:
        raise DataError(f"row {place}: labels {labels.shape} and input_ids {ids.shape} are not two lists of one length")
    seen = np.asarray(row.get("attention_mask", np.ones_like(ids)), dtype=bool)
    ids, predicted = ids[seen][:length], (labels != -100)[seen][:length]
    predicted[:1] = False
    return Example(ids, predicted, 0)


def _refuse(model: CausalModel, settings: Sequence[AdapterSetting], rows: Sequence[Row]) -> None:
    if isinstance(model, str | Path) or not hasattr(model, "get_input_embeddings"):
        raise ModelError(
            f"a loaded model is needed, not {type(model).__name__}; allowed: what "
            "transformers.AutoModelForCausalLM.from_pretrained returns"
        )
    if hasattr(model, "peft_config") or any(True for _ in adapted_layers(model)):
        raise ModelError("the model has adapters already; give the base itself (model.unload() takes them off)")
    if not settings:
        raise LorabenchError("no adapter is to be trained; give one AdapterSetting or more")
    if not len(rows):
        raise DataError("there are no rows to train on; give one or more with input_ids")
    if "input_ids" not in rows[0]:
        raise DataError(f"row 0 has no input_ids, only {', '.join(map(str, rows[0]))}; tokenize the rows first")
    for setting in settings:
        if getattr(model, "is_quantized", False) and not takes_quantized_base(setting.method.name):
            reason = plugins.load("methods", setting.method.name).UNQUANTIZED_ONLY
            raise LorabenchError(f"method {setting.method.name} cannot train on this quantized model: {reason}")


def _length(setting: AdapterSetting) -> int:
    return setting.training.sequence_length


def _autocast(model: CausalModel, spec: TrainingSpec) -> torch.dtype | None:
    return autocast_of(spec, model.device, lambda: is_large(sum(p.numel() for p in model.parameters())))


def _layout(model: CausalModel) -> Layout:
    """Which token pads is of no account, since no real token sees it."""
    padding = getattr(model.config, "pad_token_id", None)
    return Layout(padding if isinstance(padding, int) and padding >= 0 else 0)
