"""What a cell learned, taken from its live model: the change of every adapted module, and what is kept of it beside the
result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeGuard, TypeVar

import torch

from lorabench.config.study import Cell
from lorabench.engine.adapt import linear_modules
from lorabench.engine.model import check_stored, device, load_base, resolve_dtype
from lorabench.record.spectrum import Spectrum, save_spectra
from lorabench.record.truncations import DIRECTIONS, Directions, save_directions
from lorabench.spectra.analyse import beside_base, decomposed
from lorabench.spectra.delta import Delta, of_dora, of_factors, of_start, of_weights
from lorabench.spectra.files import Weights, checkpoint_directory
from lorabench.spectra.own import Own, TensorCache
from lorabench.spectra.quantized import quantizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]
Result = TypeVar("Result")
Before = Callable[[str], torch.Tensor | None]
"""a module's base weight as (out, in), None where the checkpoint has no tensor of that name"""


class AdaptedLayer(Protocol):
    """What is used of PEFT's LoraLayer; each mapping is by the adapter's name."""

    in_features: int
    out_features: int
    lora_A: Mapping[str, torch.nn.Linear]
    """(rank, in)"""
    lora_B: Mapping[str, torch.nn.Linear]
    """(out, rank)"""
    r: Mapping[str, int]
    scaling: Mapping[str, float]
    use_dora: Mapping[str, bool]
    lora_magnitude_vector: Mapping[str, torch.nn.Linear]
    """DoRA's, weight (out,)"""
    fan_in_fan_out: bool
    """whether the base weight is stored as (in, out); not all of PEFT's layers have it"""

    def get_base_layer(self) -> torch.nn.Linear:
        """The layer that is adapted, transformers' or bitsandbytes'."""


class AdaptedStack(Protocol):
    """What is used of PEFT's ParamWrapper, the layer of a stack of experts."""

    parameter_name: str
    num_experts: int
    lora_A: Mapping[str, torch.nn.Linear]
    """(experts * rank, in), expert by expert"""
    lora_B: Mapping[str, torch.nn.Linear]
    """(out, rank * experts), the columns of an expert as many apart as there are experts"""
    scaling: Mapping[str, float]


def start_factors(model: torch.nn.Module) -> Factors:
    """Copies of A and B at the start, of the adapters that do not start at a zero change (pissa); empty for others."""
    return {
        name: (layer.lora_A["default"].weight.detach().clone().cpu(), b.detach().clone().cpu())
        for name, layer in adapted_layers(model)
        if bool((b := layer.lora_B["default"].weight).any())
    }


def adapted_layers(model: torch.nn.Module) -> Iterator[tuple[str, AdaptedLayer]]:
    """(full name within the base, PEFT's layer) of every adapted module; stacks of experts are none."""
    for name, module in model.named_modules():
        if _is_adapted(module):
            yield name.removeprefix("base_model.model."), module


def adapted_stacks(model: torch.nn.Module) -> Iterator[tuple[str, AdaptedStack]]:
    """(full name of the parameter within the base, PEFT's layer) of every adapted stack of experts; of several in one
    module PEFT wraps one around the other."""
    for name, module in model.named_modules():
        if _is_stack(module):
            place = name.removeprefix("base_model.model.").replace(".base_layer", "")
            yield f"{place}.{module.parameter_name}", module


def _is_adapted(module: torch.nn.Module) -> TypeGuard[AdaptedLayer]:
    return not hasattr(module, "parameter_name") and "default" in getattr(module, "lora_A", {})


def _is_stack(module: torch.nn.Module) -> TypeGuard[AdaptedStack]:
    return hasattr(module, "parameter_name") and "default" in getattr(module, "lora_A", {})


def base_weights(cell: Cell, model: torch.nn.Module) -> Before:
    """The base's weights as stored, read again one at a time; those of a quantized checkpoint as the live layers give
    them back.
    """
    if check_stored(cell) is not None:
        layers = dict(adapted_layers(model))
        return lambda module: _base_weight(layers[module]).cpu()
    directory = checkpoint_directory(cell.model.name, cell.model.revision)
    weights = Weights(directory) if directory is not None else None
    return lambda module: None if weights is None else weights.weight(module)


@torch.no_grad()
def adapter_deltas(model: torch.nn.Module, start: Factors) -> Iterator[Delta]:
    """The change of every adapted module of an adapted model, then of every expert of its stacks."""
    for name, layer in adapted_layers(model):
        a, b, scaling = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.scaling["default"]
        if layer.use_dora.get("default", False):
            yield of_dora(name, _base_weight(layer), a, b, scaling, layer.lora_magnitude_vector["default"].weight)
        elif name in start:
            a0, b0 = (t.to(a.device) for t in start[name])
            yield of_start(name, a, b, a0, b0, scaling)
        else:
            yield of_factors(name, a, b, scaling)
    for stack, wrapper in adapted_stacks(model):
        yield from _expert_deltas(stack, wrapper)


def _expert_deltas(stack: str, layer: AdaptedStack) -> Iterator[Delta]:
    """By the reshapes of PEFT's get_delta_weight; named as spectra.stacks names those of a saved adapter."""
    a, b, experts = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.num_experts
    a, b = a.reshape(experts, -1, a.shape[1]), b.reshape(b.shape[0], -1, experts)
    place, _, parameter = stack.rpartition(".")
    for e in range(experts):
        change = of_factors(f"{place}.{e}.{parameter}", a[e], b[:, :, e], layer.scaling["default"])
        yield replace(change, expert=e, stack=stack)


def _base_weight(layer: AdaptedLayer) -> torch.Tensor:
    from peft.utils.integrations import dequantize_module_weight

    weight = dequantize_module_weight(layer.get_base_layer()).float()
    return weight.T if getattr(layer, "fan_in_fan_out", False) else weight


@torch.no_grad()
def full_deltas(model: PreTrainedModel, cell: Cell) -> Iterator[Delta]:
    """The same for full fine-tuning: the weights as they are against those that were loaded."""
    from transformers.pytorch_utils import Conv1D

    base = load_base(cell, torch.device("cpu"))  # never two whole models on the device
    for name in linear_modules(base):
        before, after = base.get_parameter(f"{name}.weight").to(model.device), model.get_parameter(f"{name}.weight")
        turned = isinstance(model.get_submodule(name), Conv1D)
        yield of_weights(name, before.T, after.T) if turned else of_weights(name, before, after)


@torch.no_grad()
def save_deltas(
    deltas: Iterator[Delta],
    model: torch.nn.Module,
    cell: Cell,
    folder: Path,
    own: Own | None = None,
    done: Callable[[int], None] = lambda modules: None,
) -> None:
    """Writes spectra.safetensors and directions.safetensors; of a cell that asks for values alone the first, without
    measures beside the base.

    Of experts the values alone: a mixture has thousands, whose directions would take more than its adapter. What a
    quantized checkpoint lost to its codes is not known, so no repair of it. `done` hears how many modules are done.
    """
    full = cell.analysis.spectra == "full"
    before = base_weights(cell, model) if full else lambda module: None
    turned = quantizer(cell.quantization, resolve_dtype(cell)) if full and check_stored(cell) is None else None
    live_weights = held_weights(model) if turned is not None else {}

    def look(delta: Delta, weight: torch.Tensor | None) -> tuple[Spectrum, Directions | None]:
        if not full or delta.expert is not None:
            return delta.spectrum(), None
        change, live = decomposed(delta), live_weights.get(delta.module)
        back = turned if live is None else lambda loaded: (loaded.to(resolve_dtype(cell)), live().to(loaded.device))
        spectrum = beside_base(delta, change, weight, back, own=own)
        k = min(DIRECTIONS, spectrum.numerical_rank)
        return spectrum, Directions(change.u[:, :k].cpu().numpy(), change.v[:, :k].cpu().numpy()) if k else None

    spectra, directions = [], {}
    for spectrum, leading in side_by_side(
        look, ((d, before(d.module) if d.expert is None else None) for d in deltas), device()
    ):
        spectra.append(spectrum)
        if leading is not None:
            directions[spectrum.module] = leading
        done(len(spectra))
    save_spectra(folder / "spectra.safetensors", spectra)
    if directions:
        save_directions(folder / "directions.safetensors", directions)
    if own is not None:
        own.save()


def held_weights(model: torch.nn.Module) -> dict[str, Callable[[], torch.Tensor]]:
    """How to get the weights that a live model holds in 4 bits, (out, in) as they are computed with; to quantize them
    once more takes many times as long.

    Those in 8 bits are not among them: their products never see a dequantized weight, so it is what quantizing gives
    back.
    """
    return {
        n: partial(_base_weight, layer)
        for n, layer in adapted_layers(model)
        if hasattr(layer.get_base_layer().weight, "quant_state") and not getattr(layer, "fan_in_fan_out", False)
    }


def side_by_side(
    work: Callable[..., Result], each: Iterable[tuple[object, ...]], where: torch.device
) -> Iterator[Result]:
    """What `work` makes of each, in order; on a CPU as many at a time as torch has threads, with one thread each.

    Decompositions of a thousand rows hardly gain from a second thread of their own, and scipy's and torch's would wait
    for each other.
    """
    threads = torch.get_num_threads() if where.type == "cpu" else 1
    if threads < 2:
        yield from (work(*arguments) for arguments in each)
        return
    from threadpoolctl import threadpool_limits

    @torch.no_grad()
    def alone(arguments: tuple[object, ...]) -> Result:
        return work(*arguments)

    arguments = iter(each)
    try:
        torch.set_num_threads(1)
        with (
            threadpool_limits(1),
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            waiting: deque[Future[Result]] = deque()
            for one in arguments:  # a few at a time: changes of full fine-tuning are as large as the model
                waiting.append(pool.submit(alone, one))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)


def base_cache(cell: Cell, folder: Path) -> Own:
    """What is known of the cell's base alone, kept beside the cells of its results directory for all of its model and
    quantization.
    """
    place = folder.parent.parent / "base"
    base = (cell.fingerprints.model, str(device()))
    quantization = (cell.quantization.name, cell.quantization.double_quant)
    stored = quantization if check_stored(cell) is not None else ()  # then the codes give back the weights themselves
    return Own(
        TensorCache(place, "weights", *base, *stored),
        TensorCache(place, "errors", *base, *quantization, resolve_dtype(cell)),
    )
