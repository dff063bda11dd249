"""In which dtype weights are, mixed precision is, and products are taken: by name, without torch.

The engine asks for the machine that it runs on, predictions for the card that they are made for, and emitters for the
card of a recommendation, so that all three agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lorabench import plugins
from lorabench.config.settings import Dtype, QuantizationSpec

FLOAT32_BELOW = 100_000_000  # parameters; smaller models train in float32 where dtype is auto
DeviceKind = Literal["cpu", "cuda"]
DtypeName = Literal["float32", "bfloat16", "float16"]


def is_large(parameters: int) -> bool:
    """Whether a model of so many parameters is bfloat16 under auto, where that is quick."""
    return parameters >= FLOAT32_BELOW


def weights_dtype(declared: Dtype, method: str, device: DeviceKind, bf16: bool, large: Callable[[], bool]) -> DtypeName:
    """The dtype of unquantized weights on a device that computes in bfloat16 or does not: the declared one; auto is
    float32 below 100M parameters, where precision costs little, else bfloat16.

    On a CPU without bfloat16 auto is float32 whatever their number: products in bfloat16 take 2 to 5 times as long
    there. So are weights that are trained themselves: most updates of bfloat16 weights round to nothing, and the
    reference of a study would be a cripple. Adapters are float32 in PEFT, too. `large` is asked only where the answer
    turns on the size, which is slow to count.
    """
    if declared != "auto":
        return declared
    narrow = (device == "cuda" or bf16) and not plugins.load("methods", method).TRAINS_BASE
    return "bfloat16" if narrow and large() else "float32"


def autocast_dtype(
    declared: Literal["auto", "none", "bfloat16"], device: DeviceKind, bf16: bool, large: Callable[[], bool]
) -> Literal["bfloat16"] | None:
    """The dtype of mixed precision on a device that computes in bfloat16 or does not; None without it.

    bfloat16 where it is declared, or (auto) where it pays: on GPUs that compute in it, and on CPUs that do (AVX-512
    BF16, AMX) for models whose frozen weights are bfloat16 under auto. On CPUs without it, it is several times slower.
    `large` is asked only where the answer turns on the size, which is slow to count.
    """
    if declared == "auto":
        return "bfloat16" if bf16 and (device == "cuda" or large()) else None
    return "bfloat16" if declared == "bfloat16" else None


def compute_dtype(quantization: QuantizationSpec, autocast: DtypeName | None, weights: DtypeName) -> DtypeName:
    """The dtype that 4-bit layers are told to compute in (bnb_4bit_compute_dtype): the declared one, else that of mixed
    precision where it is on, else the weights'."""
    return quantization.compute_dtype if quantization.compute_dtype != "auto" else autocast or weights


def product_dtype(quantization: QuantizationSpec, autocast: DtypeName | None, weights: DtypeName) -> DtypeName:
    """The dtype in which a base's products are taken in training: float16 of int8 layers, which have no wider path
    (LLM.int8()), else that of mixed precision, else of 4-bit layers the one that they are declared to compute in, else
    the weights'."""
    if quantization.name == "int8":
        return "float16"
    return autocast or (weights if quantization.name == "none" else compute_dtype(quantization, None, weights))


def trainer_holds_bfloat16(device: DeviceKind, bf16: bool) -> bool:
    """Whether other trainers keep a checkpoint's bfloat16 weights as they are: on every CPU, quick or not, and on GPUs
    that compute in it."""
    return bf16 or device == "cpu"


def trainer_autocast(
    device: DeviceKind, bf16: bool, weights: DtypeName, trains_base: bool, follows: bool = False
) -> DtypeName | None:
    """The mixed precision that other trainers are told to take; None for none.

    Trainers whose weights follow it (`follows`) have float32 weights only without it.

    bfloat16 on GPUs that compute in it, as the engine does. On older ones (T4, V100) it is float16, with those
    trainers' own scaling of the loss, which the engine has not; torch cannot scale the gradients of bfloat16 weights.
    """
    if device == "cpu" or (not bf16 and trains_base and weights == "bfloat16") or (follows and weights == "float32"):
        return None
    return "bfloat16" if bf16 else "float16"


def trainer_weights(weights: DtypeName, mixed: DtypeName | None, follows: bool = False) -> DtypeName:
    """The dtype of unquantized weights beside a trainer's mixed precision: bfloat16 ones are float16 where it is, and
    float32 where it is absent and weights follow it."""
    if weights != "bfloat16":
        return weights
    return "float32" if follows and mixed is None else "float16" if mixed == "float16" else weights
